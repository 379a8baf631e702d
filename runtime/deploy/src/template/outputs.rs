//! What the stack tells when it stands.

use super::plan::{Plan, Queue};

/// Writes the outputs.
pub(super) fn write(plan: &Plan<'_>) -> String {
    let urls: String = plan.queues.iter().map(url).collect();
    format!(
        r"
# What plain producers need to know; `rhubarb` makes the same names from rhubarb.toml.
Outputs:
{urls}  Table:
    Description: The table's name
    Value: !Ref Table
  Bucket:
    Description: The bucket's name
    Value: !Ref Bucket
  Compute:
    Description: Whether what emulators refuse was to be made
    Value: !If [HasCompute, made, left out]
"
    )
}

fn url(queue: &Queue<'_>) -> String {
    let (id, name, url) = (&queue.id, &queue.config.name, queue.url());
    format!("  Url{id}:\n    Description: The URL of queue {name}\n    Value: {url}\n")
}
