//! Tasks without a row that come later than their queue can delay: a one-time schedule each.
//!
//! It is named by its task, so that the same task again finds it, and Scheduler deletes it once it has sent. It is the
//! only copy of the task until then: EventBridge keeps it, and tries to send it for a day. What it sends has a body and
//! no attributes.

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use rhubarb_core::{
    backend::{LateMessage, Later, Result},
    ids::TaskId,
    time::Timestamp,
};

use super::AwsSchedules;

/// Requests of one call that are under way at the same time.
const IN_FLIGHT: usize = 16;

#[async_trait]
impl Later for AwsSchedules {
    async fn keep(&self, messages: &[LateMessage], now: Timestamp) -> Vec<Result<bool>> {
        let keep = |message| self.keep_one(message, now);
        let each: Vec<_> = messages.iter().map(keep).collect();
        stream::iter(each).buffered(IN_FLIGHT).collect().await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Vec<Result<bool>> {
        let forget = |task: &TaskId| self.forget_one(*task);
        let each: Vec<_> = tasks.iter().map(forget).collect();
        stream::iter(each).buffered(IN_FLIGHT).collect().await
    }
}

impl AwsSchedules {
    async fn keep_one(&self, message: &LateMessage, now: Timestamp) -> Result<bool> {
        let message = LateMessage { body: verbatim(&message.body), ..message.clone() };
        message.check(&self.inner.limits, now)?;
        let LateMessage { task, queue, body, at } = &message;
        self.inner.eventbridge.put_once(&name(*task), &local(*at), queue, body).await
    }

    async fn forget_one(&self, task: TaskId) -> Result<bool> {
        self.inner.eventbridge.delete_once(&name(task)).await
    }
}

/// No schedule of the file and none made at run time has such a name: theirs begin with a letter or a digit.
fn name(task: TaskId) -> String {
    format!("_task.{task}")
}

/// A whole second as Scheduler writes the times of `at`, in UTC.
fn local(at: Timestamp) -> String {
    at.to_string().trim_end_matches('Z').to_owned()
}

/// The same JSON with nothing in it that Scheduler would fill in: `<aws.scheduler.scheduled-time>` and the like, which
/// can stand in a text alone.
fn verbatim(json: &str) -> String {
    json.replace("<aws.", r"\u003caws.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_to_the_second_and_without_a_zone() {
        assert_eq!(local(Timestamp(1_798_761_600_000)), "2027-01-01T00:00:00");
    }

    #[test]
    fn a_text_that_scheduler_would_fill_in_is_the_same_text_in_other_letters() {
        let json = r#"{"a":"<aws.scheduler.execution-id> < b"}"#;
        let sent = verbatim(json);
        assert!(!sent.contains("<aws."), "{sent}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        assert_eq!(read(&sent), read(json));
    }

    #[test]
    fn a_name_is_within_what_scheduler_takes() {
        let name = name(TaskId::from_bytes([0xff; 16]));
        assert!(name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    }
}
