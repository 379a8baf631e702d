//! Task scale-in protection: while an agent is busy, ECS leaves its task alone.
//!
//! Asked for through the container agent (`$ECS_AGENT_URI/task-protection/v1/state`), as the developer guide advises
//! for tasks that know themselves when they are busy. It expires by itself, so a crash protects nobody for long; it is
//! renewed at a third of that time, and dropped once the agent has been idle for a while: tasks that follow one another
//! closely do not cost a call each.
//!
//! It keeps scale-in and deployments away, nothing else: Spot interruptions and drained instances stop the task all the
//! same. Without it work goes on, and a stop interrupts what does not end within the grace; so a refusal is told once
//! and asked about again later.

use std::{ffi::OsString, time::Duration};

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::var;
use crate::http::Endpoint;

const PATH: &str = "/task-protection/v1/state";
/// `ExpiresInMinutes`: ECS takes 1 to 2,880.
const EXPIRES_MINUTES: u64 = 15;
const EXPIRES: Duration = Duration::from_secs(EXPIRES_MINUTES * 60);
/// Two renewals may fail.
const RENEW_AFTER: Duration = Duration::from_secs(EXPIRES_MINUTES * 60 / 3);
/// Protection is dropped after so long without a task.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// After a refusal; doubled up to the next.
const PAUSE: Duration = Duration::from_secs(15);
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
/// What the call may take that drops it when the agent goes.
const DROP_WITHIN: Duration = Duration::from_secs(2);
/// How often is looked whether the agent is busy.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the ECS task protected while `is_busy`, until ended. Does nothing outside of ECS.
pub(crate) async fn keep_protected(
    vars: Vec<(OsString, OsString)>,
    is_busy: impl Fn() -> bool + Send + Sync,
    end: CancellationToken,
) {
    let Some(url) = var(&vars, "ECS_AGENT_URI") else { return };
    let endpoint = match Endpoint::read(&url) {
        Ok(endpoint) => endpoint,
        Err(why) => {
            return tracing::warn!(error = why, "this ECS task is not protected while it is busy: ECS_AGENT_URI {why}");
        }
    };
    let mut protector = Protector::new(endpoint);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Also in the midst of a question: an endpoint that does not answer must not hold up the agent's end.
    end.run_until_cancelled(async {
        loop {
            ticks.tick().await;
            protector.look(is_busy(), Instant::now()).await;
        }
    })
    .await;
    // The platform's patience may be at its end, and protection ends by itself.
    let _ = tokio::time::timeout(DROP_WITHIN, protector.drop_it(Instant::now())).await;
}

/// What is asked of ECS next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Protect,
    Drop,
}

/// Why ECS does not do what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    /// `DEPLOYMENT_BLOCKED`, `ThrottlingException` and so on; empty where there was no answer.
    code: String,
    message: String,
}

impl Refusal {
    fn without_answer(message: impl Into<String>) -> Self {
        Self { code: String::new(), message: message.into() }
    }

    /// A task of no service cannot be protected: nothing scales it in either.
    fn is_for_good(&self) -> bool {
        self.code == "TASK_NOT_VALID"
    }

    /// What to do about it, where that is known.
    fn advice(&self) -> &'static str {
        match self.code.as_str() {
            "TASK_NOT_VALID" => "; it belongs to no service, and nothing scales it in",
            "DEPLOYMENT_BLOCKED" => {
                "; protected tasks hold up a deployment of its service, which may now stop this one"
            }
            "AccessDeniedException" => "; the task role needs ecs:GetTaskProtection and ecs:UpdateTaskProtection",
            "RequestError" | "RequestTimeout" | "RequestCanceled" => {
                "; is there a way to ECS, by the internet or a VPC endpoint?"
            }
            _ => "",
        }
    }
}

#[derive(Debug)]
struct Protector {
    endpoint: Endpoint,
    /// Protected until then, as far as is known.
    until: Option<Instant>,
    /// Idle since then; none while busy.
    idle_since: Option<Instant>,
    /// Nothing is asked before this.
    not_before: Option<Instant>,
    pause: Duration,
    /// The refusal that was told last, by its code.
    told: Option<String>,
    hopeless: bool,
}

impl Protector {
    const fn new(endpoint: Endpoint) -> Self {
        let (until, idle_since, not_before, told) = (None, None, None, None);
        Self { endpoint, until, idle_since, not_before, pause: PAUSE, told, hopeless: false }
    }

    async fn look(&mut self, is_busy: bool, now: Instant) {
        if let Some(step) = self.step(is_busy, now) {
            let before = self.until;
            if step == Step::Protect {
                // Who gives this up in the middle does not know whether it was done.
                self.until = Some(now + EXPIRES);
            }
            let answer = ask(&self.endpoint, step).await;
            if answer.is_err() {
                self.until = before;
            }
            self.note(step, answer, now);
        }
    }

    /// The agent goes: what is still protected is not any more.
    async fn drop_it(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until > now) {
            let answer = ask(&self.endpoint, Step::Drop).await;
            self.note(Step::Drop, answer, now);
        }
    }

    fn step(&mut self, is_busy: bool, now: Instant) -> Option<Step> {
        let idle_since = if is_busy { None } else { Some(self.idle_since.unwrap_or(now)) };
        self.idle_since = idle_since;
        self.until = self.until.filter(|until| *until > now);
        if self.hopeless || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        match (idle_since, self.until) {
            (None, None) => Some(Step::Protect),
            (None, Some(until)) => (until.duration_since(now) <= EXPIRES - RENEW_AFTER).then_some(Step::Protect),
            (Some(since), Some(_)) => (now.duration_since(since) >= IDLE_FOR).then_some(Step::Drop),
            (Some(_), None) => None,
        }
    }

    fn note(&mut self, step: Step, answer: Result<(), Refusal>, now: Instant) {
        match answer {
            Ok(()) => {
                self.until = (step == Step::Protect).then(|| now + EXPIRES);
                (self.not_before, self.pause) = (None, PAUSE);
                if self.told.take().is_some() {
                    tracing::info!("ECS takes the task's protection again");
                }
            }
            Err(refusal) => {
                self.not_before = Some(now + self.pause);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                self.hopeless = refusal.is_for_good();
                if self.told.as_ref() != Some(&refusal.code) {
                    tell(step, &refusal);
                    self.told = Some(refusal.code);
                }
            }
        }
    }
}

fn tell(step: Step, refusal: &Refusal) {
    let Refusal { code, message } = refusal;
    let advice = refusal.advice();
    match step {
        _ if refusal.is_for_good() => {
            tracing::info!(error.kind = code, "this ECS task is not protected: {message}{advice}")
        }
        Step::Protect => tracing::warn!(
            error.kind = code,
            "cannot protect this ECS task while it is busy: {message}{advice}; work goes on, and it is tried again"
        ),
        Step::Drop => tracing::warn!(
            error.kind = code,
            "cannot drop the protection of this ECS task: {message}{advice}; it ends by itself within {EXPIRES:?}"
        ),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Protection {
    protection_enabled: bool,
}

/// Of the answer's three forms one is there.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    protection: Option<Protection>,
    failure: Option<Failure>,
    error: Option<Error>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    reason: String,
    #[serde(default)]
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Error {
    code: String,
    #[serde(default)]
    message: String,
}

async fn ask(endpoint: &Endpoint, step: Step) -> Result<(), Refusal> {
    let body = match step {
        Step::Protect => format!(r#"{{"ProtectionEnabled":true,"ExpiresInMinutes":{EXPIRES_MINUTES}}}"#),
        Step::Drop => r#"{"ProtectionEnabled":false}"#.to_owned(),
    };
    let json = [("content-type", "application/json")];
    let (status, body) = endpoint.call(Method::PUT, PATH, &json, body).await.map_err(Refusal::without_answer)?;
    read(status, &body, step == Step::Protect)
}

/// The status goes with what the body says; the body is asked first, because it says more.
fn read(status: StatusCode, body: &[u8], wanted: bool) -> Result<(), Refusal> {
    let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
    let refused = |code: String, message: String| {
        let message = if message.is_empty() { code.clone() } else { format!("{code}: {message}") };
        Err(Refusal { code, message })
    };
    match answer {
        Answer { failure: Some(failure), .. } => refused(failure.reason, failure.detail.unwrap_or_default()),
        Answer { error: Some(error), .. } => refused(error.code, error.message),
        Answer { protection: Some(protection), .. } if protection.protection_enabled == wanted => Ok(()),
        Answer { protection: Some(_), .. } => Err(Refusal::without_answer("ECS has not changed it")),
        Answer { .. } => Err(Refusal::without_answer(format!("the endpoint answers {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use rhubarb_testkit::ecs::FakeEcs;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn protector() -> (FakeEcs, Protector, Instant) {
        let ecs = FakeEcs::start().await;
        let endpoint = Endpoint::read(&ecs.agent_uri()).unwrap();
        (ecs, Protector::new(endpoint), Instant::now())
    }

    #[tokio::test]
    async fn it_is_asked_for_when_a_task_comes_renewed_and_dropped_when_idle() {
        let (ecs, mut protector, now) = protector().await;
        protector.look(false, now).await;
        assert!(ecs.asked().is_empty(), "an idle agent wants none");
        protector.look(true, now + SECOND).await;
        protector.look(true, now + 2 * SECOND).await;
        let on = r#"{"ProtectionEnabled":true,"ExpiresInMinutes":15}"#;
        assert_eq!(ecs.asked(), [on], "once is enough for a while");
        protector.look(true, now + SECOND + RENEW_AFTER).await;
        assert_eq!(ecs.asked(), [on, on]);
        assert!(ecs.is_protected());

        let idle = now + SECOND + RENEW_AFTER + SECOND;
        protector.look(false, idle).await;
        protector.look(true, idle + SECOND).await;
        protector.look(false, idle + 2 * SECOND).await;
        protector.look(false, idle + 2 * SECOND + IDLE_FOR - SECOND).await;
        assert_eq!(ecs.asked().len(), 2, "tasks that follow one another closely cost no call each");
        protector.look(false, idle + 2 * SECOND + IDLE_FOR).await;
        assert_eq!(ecs.asked().last().unwrap(), r#"{"ProtectionEnabled":false}"#);
        assert!(!ecs.is_protected());
        protector.look(false, idle + EXPIRES).await;
        assert_eq!(ecs.asked().len(), 3, "what is dropped is not dropped again");
    }

    #[tokio::test]
    async fn a_refusal_is_asked_about_again_after_growing_pauses_and_told_once() {
        let (ecs, mut protector, now) = protector().await;
        ecs.refuse(r#"{"failure":{"Arn":"a","Detail":null,"Reason":"DEPLOYMENT_BLOCKED"}}"#);
        protector.look(true, now).await;
        assert_eq!(protector.told.as_deref(), Some("DEPLOYMENT_BLOCKED"));
        protector.look(true, now + PAUSE - SECOND).await;
        assert_eq!(ecs.asked().len(), 1);
        protector.look(true, now + PAUSE).await;
        protector.look(true, now + 2 * PAUSE).await;
        assert_eq!(ecs.asked().len(), 2, "the second pause is longer");
        ecs.refuse(r#"{"requestID":"r","error":{"Arn":"a","Code":"ThrottlingException","Message":"Rate exceeded"}}"#);
        protector.look(true, now + 3 * PAUSE).await;
        assert_eq!(protector.told.as_deref(), Some("ThrottlingException"), "another reason is told");
        ecs.comply();
        protector.look(true, now + EXPIRES).await;
        assert!(ecs.is_protected() && protector.told.is_none() && protector.pause == PAUSE);
    }

    #[tokio::test]
    async fn a_task_of_no_service_is_not_asked_for_again() {
        let (ecs, mut protector, now) = protector().await;
        ecs.refuse(r#"{"failure":{"Arn":"a","Detail":null,"Reason":"TASK_NOT_VALID"}}"#);
        protector.look(true, now).await;
        protector.look(true, now + EXPIRES).await;
        assert_eq!(ecs.asked().len(), 1);
    }

    #[tokio::test]
    async fn protection_that_could_not_be_renewed_is_asked_for_anew() {
        let (ecs, mut protector, now) = protector().await;
        protector.look(true, now).await;
        ecs.refuse(r#"{"error":{"Arn":"a","Code":"RequestCanceled","Message":"Timed out"}}"#);
        protector.look(true, now + RENEW_AFTER).await;
        ecs.comply();
        protector.look(true, now + RENEW_AFTER + PAUSE).await;
        assert_eq!((ecs.asked().len(), ecs.is_protected()), (3, true));
    }

    #[tokio::test]
    async fn an_agent_that_goes_drops_what_it_has() {
        let (ecs, mut protector, now) = protector().await;
        protector.drop_it(now).await;
        assert!(ecs.asked().is_empty());
        protector.look(true, now).await;
        protector.drop_it(now + SECOND).await;
        assert!(!ecs.is_protected());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_does_not_answer_holds_up_no_end() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/agent", silent.local_addr().unwrap());
        let end = CancellationToken::new();
        let keeping = tokio::spawn(keep_protected(vec![("ECS_AGENT_URI".into(), url.into())], || true, end.clone()));
        let _asked = silent.accept().await.unwrap();
        let ended = Instant::now();
        end.cancel();
        keeping.await.unwrap();
        assert!(ended.elapsed() <= DROP_WITHIN);
    }

    #[test]
    fn every_form_of_an_answer_is_read() {
        let read =
            |body: &str, wanted| read(StatusCode::BAD_REQUEST, body.as_bytes(), wanted).map_err(|why| why.message);
        let on = r#"{"protection":{"ExpirationDate":"2022-10-06T02:29:16Z","ProtectionEnabled":true,"TaskArn":"a"}}"#;
        let off = r#"{"protection":{"ExpirationDate":null,"ProtectionEnabled":false,"TaskArn":"a"}}"#;
        assert_eq!((read(on, true), read(off, false)), (Ok(()), Ok(())));
        assert_eq!(read(off, true).unwrap_err(), "ECS has not changed it");
        let denied =
            r#"{"requestID":"r","error":{"Arn":"a","Code":"AccessDeniedException","Message":"not authorized"}}"#;
        assert_eq!(read(denied, true).unwrap_err(), "AccessDeniedException: not authorized");
        for body in ["", "{}", "null", "<html>", "[1]"] {
            assert_eq!(read(body, true).unwrap_err(), "the endpoint answers 400 Bad Request", "{body}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_is_gone_stops_nothing() {
        let (ecs, mut protector, now) = protector().await;
        drop(ecs);
        protector.look(true, now).await;
        assert_eq!(protector.told.as_deref(), Some(""));
    }
}
