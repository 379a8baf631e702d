//! A client by the folder of a project, over the embedded backend.

use rhubarb::{Client, Task, client::OpenError, core::row::State};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Work;

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = ();
}

const CONFIG: &str = "[app]\nname = \"shop\"\n[functions.f]\npackage = \"f\"\n";

#[tokio::test]
async fn two_clients_of_one_folder_see_the_same_tasks() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rhubarb.toml"), CONFIG).unwrap();
    let id = Client::open(folder.path()).await.unwrap().enqueue(Work).await.unwrap().id();
    let other = Client::open(folder.path().join("rhubarb.toml")).await.unwrap();
    assert_eq!(other.state(id).await.unwrap(), State::Queued);
    assert_eq!(other.why_waiting(id).await.unwrap().unwrap().to_string(), "no worker serves queue default");
    assert_eq!(other.queues().await.unwrap()[0].waiting, 1);
}

#[tokio::test]
async fn a_wrong_configuration_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Client::open(folder.path()).await, Err(OpenError::Read { .. })));
    let file = folder.path().join("rhubarb.toml");
    std::fs::write(&file, "[app]\nnam = \"shop\"\n").unwrap();
    let error = Client::open(&file).await.unwrap_err().to_string();
    assert!(error.contains("`name`") || error.contains("nam"), "{error}");
    std::fs::write(&file, format!("{CONFIG}\n").replace("shop\"", "shop\"\nbackend = \"aws\"")).unwrap();
    assert!(matches!(Client::open(&file).await, Err(OpenError::Backend { backend: "aws", .. })));
}
