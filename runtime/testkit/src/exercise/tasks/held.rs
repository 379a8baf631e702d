//! What a holder may do, and what an older one may not.

use rhubarb_core::{
    backend::{Log, Progress, Renewal, Report, Settlement},
    envelope::BlobRef,
    gpu::{GpuUsage, RanOn},
    ids::FencingToken,
    outcome::{Failure, Outcome, Output},
    row::{Claim, Renewed, State},
};
use serde_json::value::to_raw_value;

use super::{Case, Claimant, KEEP, LEASE, SECOND, only};
use crate::exercise::{assert_refused, failed, interrupted, new_queue, new_submission};

pub(super) async fn exercise(case: &Case<'_>) {
    a_renewed_lease_lasts_its_whole_length_from_now(case).await;
    only_the_newest_holder_renews(case).await;
    a_renewal_of_nothing_is_lost(case).await;
    a_renewal_tells_of_a_cancellation(case).await;
    a_late_renewal_takes_a_reaped_task_back(case).await;
    a_holder_reports_progress_checkpoint_and_log(case).await;
    what_an_attempt_ran_on_stays_in_the_history(case).await;
    a_checkpoint_is_handed_to_the_next_attempt(case).await;
    a_report_of_an_older_holder_is_refused(case).await;
    a_success_is_kept_with_its_output_and_log(case).await;
    a_failure_is_tried_again_and_its_reason_shown(case).await;
    the_last_failure_buries_the_task(case).await;
    a_fatal_failure_buries_the_task_at_once(case).await;
    a_poisoned_task_is_buried(case).await;
    a_snooze_gives_the_attempt_back(case).await;
    an_interruption_gives_the_attempt_back_at_once(case).await;
    only_the_newest_holder_settles(case).await;
    a_late_settle_is_kept_until_a_new_claim(case).await;
    what_a_late_settle_gave_is_noted_in_the_history(case).await;
    nobody_settles_twice(case).await;
    nothing_is_settled_that_does_not_exist(case).await;
}

async fn renew(case: &Case<'_>, id: rhubarb_core::ids::TaskId, fence: FencingToken) -> Renewed {
    only(case.tasks.renew(&[Renewal { id, fence }]).await).unwrap()
}

const KEPT: Renewed = Renewed::Kept { cancel_asked: false };

async fn a_renewed_lease_lasts_its_whole_length_from_now(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    for _ in 0..2 {
        case.time.advance(LEASE - 3 * SECOND).await;
        assert_eq!(renew(case, submission.id, fence).await, KEPT);
    }
    case.time.advance(LEASE - 3 * SECOND).await;
    assert!(matches!(case.claim(&submission).await.claim, Claim::Held { .. }));
    case.time.advance(3 * SECOND).await;
    case.win(&submission).await;
}

async fn only_the_newest_holder_renews(case: &Case<'_>) {
    let (submission, first) = case.running().await;
    case.time.advance(LEASE).await;
    let second = case.win(&submission).await.fence;
    assert_eq!(renew(case, submission.id, first).await, Renewed::Lost);
    assert_eq!(renew(case, submission.id, second.next()).await, Renewed::Lost);
    assert_eq!(renew(case, submission.id, second).await, KEPT);
}

async fn a_renewal_of_nothing_is_lost(case: &Case<'_>) {
    let unknown = new_submission(&new_queue());
    assert_eq!(renew(case, unknown.id, FencingToken(1)).await, Renewed::Lost);
    let (submission, fence) = case.running().await;
    case.settle(submission.id, fence, Outcome::Succeeded(None)).await.unwrap();
    assert_eq!(renew(case, submission.id, fence).await, Renewed::Lost);
}

async fn a_renewal_tells_of_a_cancellation(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    only(case.tasks.cancel(&[submission.id]).await).unwrap();
    assert_eq!(renew(case, submission.id, fence).await, Renewed::Kept { cancel_asked: true });
}

async fn a_late_renewal_takes_a_reaped_task_back(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    assert_eq!(case.reap(submission.id).await.state, State::Queued);
    case.due_ring(submission.id).await;
    assert_eq!(renew(case, submission.id, fence).await, KEPT);
    assert_eq!(case.read(submission.id).await.record.state, State::Running);
    assert!(matches!(case.claim(&submission).await.claim, Claim::Held { .. }));
    case.assert_no_ring_is_due(submission.id).await;
}

fn checkpoint(content: &str) -> BlobRef {
    BlobRef { key: format!("tasks/{content}"), sha256: "0".repeat(64), size: content.len() as u64 }
}

fn progress(done: u64) -> Progress {
    Progress { done, total: 10, message: Some(format!("step {done}")) }
}

async fn a_holder_reports_progress_checkpoint_and_log(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    let log = Log { text: "so far".into(), dropped: 3, ..Log::default() };
    let nothing = Report { id: submission.id, fence, progress: None, checkpoint: None, log: None };
    let reports = [
        Report { progress: Some(progress(1)), ..nothing.clone() },
        Report { checkpoint: Some(checkpoint("one")), log: Some(log.clone()), ..nothing.clone() },
        Report { progress: Some(progress(2)), ..nothing },
    ];
    for report in reports {
        only(case.tasks.report(&[report]).await).unwrap();
    }
    let detail = case.read(submission.id).await;
    assert_eq!((detail.record.progress, detail.record.checkpoint), (Some(progress(2)), Some(checkpoint("one"))));
    assert_eq!(only(detail.attempts).log, log);
}

async fn what_an_attempt_ran_on_stays_in_the_history(case: &Case<'_>) {
    let usage = GpuUsage { uuid: "GPU-1".into(), readings: 3, memory_peak: 1 << 40, ..GpuUsage::default() };
    let logs = [
        Log { ran_on: Some(RanOn::Cpu), ..Log::default() },
        Log { ran_on: Some(RanOn::Gpus(vec![usage.clone()])), ..Log::default() },
        Log { text: "much ".repeat(10_000), dropped: 0, ran_on: Some(RanOn::Gpus(vec![usage])) },
    ];
    let (submission, mut fence) = case.running().await;
    for log in &logs {
        let (id, log, keep) = (submission.id, log.clone(), KEEP);
        only(case.tasks.settle(&[Settlement { id, fence, outcome: interrupted(false), log, keep }]).await).unwrap();
        fence = case.win(&submission).await.fence;
    }
    let detail = case.read(submission.id).await;
    let kept: Vec<Log> = detail.attempts.into_iter().map(|attempt| attempt.log).collect();
    assert_eq!(kept[..3], logs);
    assert!(kept[3].is_empty());
}

async fn a_checkpoint_is_handed_to_the_next_attempt(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    let report = Report { id: submission.id, fence, progress: None, checkpoint: Some(checkpoint("one")), log: None };
    only(case.tasks.report(&[report]).await).unwrap();
    case.settle(submission.id, fence, interrupted(false)).await.unwrap();
    assert_eq!(case.win(&submission).await.checkpoint, Some(checkpoint("one")));
}

async fn a_report_of_an_older_holder_is_refused(case: &Case<'_>) {
    let (submission, first) = case.running().await;
    case.time.advance(LEASE).await;
    let second = case.win(&submission).await.fence;
    let report = |fence, done| Report {
        id: submission.id,
        fence,
        progress: Some(progress(done)),
        checkpoint: Some(checkpoint("x")),
        log: None,
    };
    let answers = case.tasks.report(&[report(first, 9), report(second, 1)]).await;
    let [stale, newest] = answers.try_into().unwrap();
    assert_refused(stale, State::Running);
    newest.unwrap();
    assert_eq!(case.read(submission.id).await.record.progress, Some(progress(1)));
}

async fn a_success_is_kept_with_its_output_and_log(case: &Case<'_>) {
    let inline = Output::Inline(to_raw_value(&[1, 2]).unwrap());
    for output in [None, Some(inline), Some(Output::Blob(checkpoint("output")))] {
        let expected = serde_json::to_value(&output).unwrap();
        let (submission, settled) = case.settled(Outcome::Succeeded(output)).await;
        assert_eq!((settled.state, settled.again_in, settled.buried), (State::Succeeded, None, None));
        let detail = case.read(submission.id).await;
        assert_eq!(detail.record.state, State::Succeeded);
        assert_eq!(serde_json::to_value(&detail.record.output).unwrap(), expected);
        assert!(detail.record.settled.is_some_and(|at| at >= detail.record.submitted));
        let attempt = only(detail.attempts);
        assert_eq!((attempt.outcome.as_deref(), attempt.log.text.as_str()), (Some("succeeded"), "succeeded 1"));
        assert!(attempt.ended.is_some());
    }
}

async fn a_failure_is_tried_again_and_its_reason_shown(case: &Case<'_>) {
    let delay = 10 * SECOND;
    let (submission, settled) = case.settled(failed(Some(delay))).await;
    assert_eq!((settled.state, settled.again_in), (State::Retrying, Some(delay)));
    let detail = case.read(submission.id).await;
    let failure = Failure::new("exercise", "no luck");
    assert_eq!((detail.record.state, detail.record.failure.as_ref()), (State::Retrying, Some(&failure)));
    let not_before = detail.record.not_before.unwrap();
    assert_eq!(only(detail.attempts).failure, Some(failure));
    assert_eq!(case.claim(&submission).await.claim, Claim::NotYet(not_before));
    case.time.advance(delay).await;
    assert_eq!(case.win(&submission).await.attempt, 2);
}

async fn the_last_failure_buries_the_task(case: &Case<'_>) {
    let submission = case.submit(&new_queue()).await;
    let claimant = Claimant { max_attempts: 2, ..Claimant::default() };
    for state in [State::Queued, State::Failed] {
        let fence = case.win_as(&claimant, &submission).await.fence;
        let settled = case.settle(submission.id, fence, failed(Some(std::time::Duration::ZERO))).await.unwrap();
        assert_eq!(settled.state, state);
    }
    let detail = case.read(submission.id).await;
    assert_eq!((detail.record.state, detail.record.attempt, detail.attempts.len()), (State::Failed, 2, 2));
    assert_eq!(detail.record.failure.unwrap().kind, "exercise");
}

async fn a_fatal_failure_buries_the_task_at_once(case: &Case<'_>) {
    let (submission, settled) = case.settled(failed(None)).await;
    assert_eq!((settled.state, settled.again_in), (State::Failed, None));
    assert_eq!(case.read(submission.id).await.record.attempt, 1);
}

async fn a_poisoned_task_is_buried(case: &Case<'_>) {
    let (submission, settled) = case.settled(Outcome::Poisoned(Failure::new(Failure::POISON, "field `x`"))).await;
    assert_eq!(settled.state, State::Failed);
    assert_eq!(case.read(submission.id).await.record.failure.unwrap().message, "field `x`");
}

async fn a_snooze_gives_the_attempt_back(case: &Case<'_>) {
    let delay = 10 * SECOND;
    let (submission, settled) = case.settled(Outcome::Snoozed(delay)).await;
    assert_eq!((settled.state, settled.again_in), (State::Retrying, Some(delay)));
    let record = case.read(submission.id).await.record;
    assert_eq!((record.attempt, record.snoozes), (0, 1));
    case.time.advance(delay).await;
    assert_eq!(case.win(&submission).await.attempt, 1);
    let outcomes: Vec<_> = case.read(submission.id).await.attempts.into_iter().map(|a| a.outcome).collect();
    assert_eq!(outcomes, [Some("snoozed".to_owned()), None]);
}

async fn an_interruption_gives_the_attempt_back_at_once(case: &Case<'_>) {
    for alone in [false, true] {
        let (submission, settled) = case.settled(interrupted(alone)).await;
        assert_eq!((settled.state, settled.again_in), (State::Queued, Some(std::time::Duration::ZERO)));
        assert_eq!(case.read(submission.id).await.record.interruptions, 1);
        let won = case.win(&submission).await;
        assert_eq!((won.attempt, won.alone), (1, alone));
    }
}

async fn only_the_newest_holder_settles(case: &Case<'_>) {
    let (submission, first) = case.running().await;
    case.time.advance(LEASE).await;
    let second = case.win(&submission).await.fence;
    assert_refused(case.settle(submission.id, first, Outcome::Succeeded(None)).await, State::Running);
    assert_refused(case.settle(submission.id, second.next(), Outcome::Succeeded(None)).await, State::Running);
    assert_eq!(case.read(submission.id).await.record.state, State::Running);
    case.settle(submission.id, second, failed(None)).await.unwrap();
    assert_refused(case.settle(submission.id, first, Outcome::Succeeded(None)).await, State::Failed);
    assert_eq!(case.read(submission.id).await.record.state, State::Failed);
}

async fn a_late_settle_is_kept_until_a_new_claim(case: &Case<'_>) {
    let (kept, fence) = case.running().await;
    case.reap(kept.id).await;
    assert_eq!(case.settle(kept.id, fence, Outcome::Succeeded(None)).await.unwrap().state, State::Succeeded);
    assert_eq!(case.claim(&kept).await.claim, Claim::Settled);
    assert_eq!(only(case.read(kept.id).await.attempts).outcome.as_deref(), Some("succeeded"));
    let (refused, fence) = case.running().await;
    case.reap(refused.id).await;
    case.win(&refused).await;
    assert_refused(case.settle(refused.id, fence, Outcome::Succeeded(None)).await, State::Running);
}

async fn what_a_late_settle_gave_is_noted_in_the_history(case: &Case<'_>) {
    let (submission, first) = case.running().await;
    case.time.advance(LEASE).await;
    case.win(&submission).await;
    assert_refused(case.settle(submission.id, first, Outcome::Succeeded(None)).await, State::Running);
    let attempts = case.read(submission.id).await.attempts;
    let log = &attempts[0].log.text;
    assert!(log.contains("too late as succeeded") && log.contains("succeeded 1"), "{log}");
}

async fn nobody_settles_twice(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    case.settle(submission.id, fence, Outcome::Succeeded(None)).await.unwrap();
    assert_refused(case.settle(submission.id, fence, failed(None)).await, State::Succeeded);
    let (submission, fence) = case.running().await;
    case.settle(submission.id, fence, failed(Some(10 * SECOND))).await.unwrap();
    assert_refused(case.settle(submission.id, fence, Outcome::Succeeded(None)).await, State::Retrying);
}

async fn nothing_is_settled_that_does_not_exist(case: &Case<'_>) {
    let unknown = new_submission(&new_queue());
    assert!(case.settle(unknown.id, FencingToken(1), Outcome::Succeeded(None)).await.is_err());
    assert!(case.find(unknown.id).await.is_none());
}
