//! Which ECS task this container belongs to: what the task metadata endpoint, version 4, tells of it.
//!
//! Asked once, at the start. The fields are those of "Amazon ECS task metadata V4 JSON response"; which of them there
//! are depends on where the task runs, so each may be missing.

use std::{ffi::OsString, fs::File, io::Read as _, time::Duration};

use http::{Method, StatusCode};
use rhubarb_core::backend::EcsTask;
use serde::Deserialize;

use super::var;
use crate::http::Endpoint;

/// How often is asked, and the pause between: the endpoint may start after the container.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// The metadata file is far smaller.
const FILE_BYTES_MAX: u64 = 256 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Told {
    #[serde(rename = "TaskARN")]
    task: String,
    cluster: String,
    family: String,
    revision: String,
    availability_zone: Option<String>,
    launch_type: Option<String>,
    #[serde(rename = "ContainerInstanceARN")]
    container_instance: Option<String>,
}

impl From<Told> for EcsTask {
    fn from(told: Told) -> Self {
        let Told { task, cluster, family, revision, availability_zone, launch_type, container_instance } = told;
        Self { task, cluster, family, revision, availability_zone, launch_type, container_instance }
    }
}

/// The ECS task; none outside of ECS, and none where the endpoint does not answer, which is logged.
pub(crate) async fn metadata(vars: &[(OsString, OsString)]) -> Option<EcsTask> {
    let url = var(vars, "ECS_CONTAINER_METADATA_URI_V4")?;
    let mut told = ask(&url).await;
    for _ in 1..TRIES {
        if told.is_ok() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        told = ask(&url).await;
    }
    let mut task = match told {
        Ok(told) => EcsTask::from(told),
        Err(why) => {
            tracing::warn!(
                error = why,
                "cannot read the ECS task's metadata, which the worker's row goes without: {why}"
            );
            return None;
        }
    };
    // EC2 alone, where the container agent is set to write it.
    if task.container_instance.is_none()
        && let Some(path) = var(vars, "ECS_CONTAINER_METADATA_FILE")
    {
        task.container_instance = in_file(&path);
    }
    Some(task)
}

async fn ask(url: &str) -> Result<Told, String> {
    match Endpoint::read(url)?.call(Method::GET, "/task", &[], String::new()).await? {
        (StatusCode::OK, body) => {
            serde_json::from_slice(&body).map_err(|error| format!("it is not as expected: {error}"))
        }
        (status, _) => Err(format!("the endpoint answers {status}")),
    }
}

fn in_file(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    // It may still be written: then it says less.
    serde_json::from_str::<Told>(&text).ok()?.container_instance
}

#[cfg(test)]
mod tests {
    use rhubarb_testkit::ecs::FakeEcs;

    use super::*;

    fn vars(name: &str, value: &str) -> (OsString, OsString) {
        (name.into(), value.into())
    }

    #[tokio::test]
    async fn the_task_is_described_as_the_endpoint_tells() {
        let ecs = FakeEcs::start().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("metadata.json");
        std::fs::write(
            &file,
            r#"{"Cluster": "c", "ContainerInstanceARN": "arn:aws:ecs:eu-west-1:1:container-instance/c/9"}"#,
        )
        .unwrap();
        let of_file = vars("ECS_CONTAINER_METADATA_FILE", file.to_str().unwrap());
        let told = metadata(&[vars("ECS_CONTAINER_METADATA_URI_V4", &ecs.metadata_uri()), of_file]).await.unwrap();
        let expected = EcsTask {
            task: FakeEcs::TASK_ARN.into(),
            cluster: "arn:aws:ecs:eu-west-1:111122223333:cluster/shop".into(),
            family: "shop-training".into(),
            revision: "7".into(),
            availability_zone: Some("eu-west-1b".into()),
            launch_type: Some("EC2".into()),
            container_instance: Some("arn:aws:ecs:eu-west-1:1:container-instance/c/9".into()),
        };
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn outside_of_ecs_there_is_none_and_a_broken_endpoint_is_no_reason_not_to_start() {
        assert_eq!(metadata(&[vars("ECS_CONTAINER_METADATA_URI_V4", "")]).await, None);
        assert_eq!(metadata(&[vars("ECS_CONTAINER_METADATA_URI_V4", "https://nowhere")]).await, None);
    }
}
