//! The interruption notice of a Spot instance, from the instance's metadata: two minutes before it is taken away.
//!
//! ECS turns the notice into SIGTERM by itself (Fargate Spot, Managed Instances, and EC2 with
//! `ECS_ENABLE_SPOT_INSTANCE_DRAINING`), so this is for what runs on an instance without ECS, and asked for by
//! `--spot-notices`. Reading follows "Spot Instance interruption notices" (`spot/instance-action`, 404 without one) and
//! IMDSv2 (a token first). Metadata that does not answer is told about once, and looked at again.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::http::Endpoint;

/// EC2 advises to look every five seconds.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A token is asked for anew before it ends.
const TOKEN_SECONDS: &str = "21600";

#[derive(Debug, Deserialize)]
struct Notice {
    action: String,
    #[serde(default)]
    time: String,
}

/// Watches for a notice below `url`, the base of the instance's metadata, and calls `stop` when there is one.
pub(crate) async fn watch_spot(url: String, stop: impl FnOnce() + Send, end: CancellationToken) {
    let endpoint = match Endpoint::read(&url) {
        Ok(endpoint) => endpoint,
        Err(why) => return tracing::warn!(error = why, "Spot notices are not watched for: {why}"),
    };
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut token, mut told) = (None, false);
    let notice = end.run_until_cancelled(async {
        loop {
            ticks.tick().await;
            match look(&endpoint, &mut token).await {
                Ok(None) => told = false,
                Ok(Some(notice)) => return notice,
                Err(why) if !told => {
                    tracing::warn!(error = why, "cannot look for Spot notices, and tries again: {why}");
                    told = true;
                }
                Err(_) => {}
            }
        }
    });
    if let Some(Notice { action, time }) = notice.await {
        tracing::warn!(action, time, "this Spot instance is to {action} at {time}: draining");
        stop();
    }
}

async fn look(endpoint: &Endpoint, token: &mut Option<String>) -> Result<Option<Notice>, String> {
    let held = match token.clone() {
        Some(held) => held,
        None => new_token(endpoint).await?,
    };
    let header = [("x-aws-ec2-metadata-token", held.as_str())];
    let (status, body) =
        endpoint.call(Method::GET, "/latest/meta-data/spot/instance-action", &header, String::new()).await?;
    match status {
        StatusCode::OK => {
            let notice = serde_json::from_slice(&body).map_err(|error| format!("the notice is unreadable: {error}"))?;
            Ok(Some(notice))
        }
        StatusCode::NOT_FOUND => {
            *token = Some(held);
            Ok(None)
        }
        status => {
            // 401: the token has ended.
            *token = None;
            Err(format!("the instance's metadata answers {status}"))
        }
    }
}

async fn new_token(endpoint: &Endpoint) -> Result<String, String> {
    let lasts = [("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS)];
    match endpoint.call(Method::PUT, "/latest/api/token", &lasts, String::new()).await? {
        (StatusCode::OK, body) => {
            String::from_utf8(body.into()).map_err(|_| "the metadata's token is not UTF-8".to_owned())
        }
        (status, _) => Err(format!("the instance's metadata gives no token: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use rhubarb_testkit::ecs::FakeEcs;

    use super::*;

    #[tokio::test]
    async fn a_notice_is_seen_and_its_absence_is_no_error() {
        let ecs = FakeEcs::start().await;
        let endpoint = Endpoint::read(&ecs.instance_uri()).unwrap();
        let mut token = None;
        assert!(look(&endpoint, &mut token).await.unwrap().is_none());
        assert_eq!(token.as_deref(), Some(FakeEcs::TOKEN), "it is kept for the next look");
        ecs.interrupt();
        let notice = look(&endpoint, &mut token).await.unwrap().unwrap();
        assert_eq!(notice.action, "terminate");
        let mut ended = Some("an older one".to_owned());
        assert!(look(&endpoint, &mut ended).await.is_err() && ended.is_none(), "the next look asks for another token");
    }

    #[tokio::test(start_paused = true)]
    async fn metadata_that_does_not_answer_holds_up_no_end() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let end = CancellationToken::new();
        let watching = tokio::spawn(watch_spot(url, || unreachable!("there is no notice"), end.clone()));
        let _asked = silent.accept().await.unwrap();
        let ended = tokio::time::Instant::now();
        end.cancel();
        watching.await.unwrap();
        assert_eq!(ended.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_notice_stops_the_agent() {
        let ecs = FakeEcs::start().await;
        ecs.interrupt();
        let stopped = CancellationToken::new();
        watch_spot(ecs.instance_uri(), || stopped.cancel(), CancellationToken::new()).await;
        assert!(stopped.is_cancelled());
    }
}
