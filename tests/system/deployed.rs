//! The README's road to AWS, on an emulator: template, zips, stack, a task that Lambda runs, its result, the end
//! of the stack. The commands are the README's; what differs is said in [`on_an_emulator`].

use rhubarb_testkit::emulator::Emulator;
use rhubarb_tests::binary;
use serde_json::Value;

use crate::readme::{block, said};

const EXAMPLE: &str = include_str!("../../rhubarb.toml");

/// What `rhubarb package` packs, from the binaries of this build: that command would compile for Lambda.
const PACK: &str = r#"
import os, sys, zipfile
os.mkdir("dist")
for function in "maintenance", "preprocessing":
    with zipfile.ZipFile(f"dist/{function}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.write(sys.argv[1] + "/rhubarb-lambda", "bootstrap")
        packed.write(sys.argv[1] + "/" + function, function)
        packed.write("rhubarb.toml")
"#;

/// The README's commands with a bucket, a task, and the parameters that emulators need.
fn on_an_emulator(commands: &str, endpoint: &str) -> String {
    let built = binary("");
    let replaced = [
        ("rhubarb package\n", format!("aws s3 mb s3://code\npython pack.py '{}'\n", built.display())),
        ("CODE-BUCKET", "code".into()),
        ("Compute=false", format!("Compute=false EndpointUrl={endpoint}")),
        ("TASK-ID", "\"$(rhubarb --aws tasks --json --limit 1 | cut -d'\"' -f4)\"".into()),
    ];
    replaced.iter().fold(commands.to_owned(), |script, (from, to)| {
        assert!(script.contains(from), "the README says `{from}`");
        script.replace(from, to)
    })
}

#[tokio::test]
async fn the_readmes_road_deploys_the_example_and_lambda_runs_its_light_tasks() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rhubarb.toml"), EXAMPLE).unwrap();
    std::fs::write(folder.path().join("pack.py"), PACK).unwrap();
    let script = on_an_emulator(block("sh\n", "rhubarb package\n"), emulator.endpoint());
    let printed = said(folder.path(), &script, &emulator.variables()).await;

    // `enqueue --wait` and `result` print the same output, each in a line.
    let outputs: Vec<Value> = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let [waited, read] = outputs.as_slice() else { panic!("two outputs: {printed}") };
    assert_eq!(waited, read);
    assert!(waited["states"].is_array(), "{waited}");

    // The queues went with the stack; the table and the dead-letter queues stayed.
    let left = "aws cloudformation wait stack-delete-complete --stack-name training-platform-dev\n\
        aws dynamodb list-tables --query TableNames --output text\n\
        aws sqs list-queues --endpoint-url \"$AWS_ENDPOINT_URL\" --query QueueUrls --output text | tr '\\t' '\\n'";
    let left = said(folder.path(), left, &emulator.variables()).await;
    let (table, queues) = left.split_once('\n').unwrap();
    assert_eq!(table, "training-platform-dev");
    assert!(queues.lines().all(|url| url.ends_with("-dead")) && queues.contains("-maintenance-dead"), "{queues}");
}
