//! What a place for schedules owes.

use rhubarb_core::{
    backend::{Current, Noted, ScheduleRecord, Schedules},
    ids::{ScheduleName, TaskId},
    time::Timestamp,
};
use serde_json::json;

use super::{eventually_so, only, unique};
use crate::clock::Clockwork;

/// Exercises a place for schedules.
///
/// # Panics
///
/// It does not do what it owes.
pub async fn schedules(schedules: &dyn Schedules, time: &dyn Clockwork) {
    a_schedule_is_listed_as_it_was_put(schedules, time).await;
    a_schedule_that_is_not_there_is_read_as_none(schedules).await;
    a_new_definition_leaves_what_was_noted(schedules, time).await;
    the_same_definition_again_changes_nothing(schedules).await;
    a_deleted_schedule_is_gone_and_deleting_it_again_is_no_error(schedules, time).await;
    schedules_are_listed_by_name(schedules, time).await;
    what_is_noted_never_goes_back(schedules).await;
    a_pause_is_kept_and_its_end_noted_once(schedules).await;
    only_who_saw_the_task_that_is_in_takes_its_place(schedules).await;
    every_change_of_what_people_say_shows_in_the_revision(schedules).await;
}

fn new_schedule(word: &str) -> ScheduleRecord {
    let name = ScheduleName::new(&unique(word)).unwrap();
    let definition = json!({"rate": "1 minute", "task": "update_job_metrics", "args": {"deep": [1, null, "ä"]}});
    ScheduleRecord::new(name, true, definition, Timestamp(60_000))
}

async fn put(schedules: &dyn Schedules, schedule: &ScheduleRecord) {
    only(schedules.put(std::slice::from_ref(schedule)).await).unwrap();
}

async fn read(schedules: &dyn Schedules, name: &ScheduleName) -> Option<ScheduleRecord> {
    only(schedules.read(std::slice::from_ref(name)).await.unwrap())
}

async fn assert_listed(schedules: &dyn Schedules, expected: &ScheduleRecord, time: &dyn Clockwork) {
    eventually_so(time, "the schedule is not listed as it was put", async || {
        schedules.list().await.unwrap().contains(expected)
    })
    .await;
}

async fn a_schedule_is_listed_as_it_was_put(schedules: &dyn Schedules, time: &dyn Clockwork) {
    let schedule = new_schedule("new");
    put(schedules, &schedule).await;
    assert_eq!(read(schedules, &schedule.name).await.as_ref(), Some(&schedule));
    assert_listed(schedules, &schedule, time).await;
}

async fn a_schedule_that_is_not_there_is_read_as_none(schedules: &dyn Schedules) {
    let (absent, present) = (new_schedule("absent"), new_schedule("present"));
    put(schedules, &present).await;
    let names = [absent.name.clone(), present.name.clone()];
    assert_eq!(schedules.read(&names).await.unwrap(), [None, Some(present)]);
    assert!(!schedules.pause(&absent.name, true).await.unwrap());
    let noted = Noted { name: absent.name.clone(), passed: Timestamp(1), last_tick: None };
    only(schedules.note(&[noted]).await).unwrap();
    assert!(!schedules.enter(&absent.name, None, current(1)).await.unwrap());
    assert_eq!(read(schedules, &absent.name).await, None);
}

async fn a_new_definition_leaves_what_was_noted(schedules: &dyn Schedules, time: &dyn Clockwork) {
    let first = new_schedule("changed");
    put(schedules, &first).await;
    note(schedules, &first, 100_000).await;
    schedules.pause(&first.name, true).await.unwrap();
    let second = ScheduleRecord::new(first.name.clone(), false, json!({"cron": "0 3 * * ? *"}), Timestamp(90_000));
    put(schedules, &second).await;
    let expected =
        ScheduleRecord { passed: Timestamp(100_000), last_tick: Some(Timestamp(100_000)), paused: true, ..second };
    assert_eq!(read(schedules, &first.name).await.as_ref(), Some(&expected));
    assert_listed(schedules, &expected, time).await;
    let named = schedules.list().await.unwrap().into_iter().filter(|schedule| schedule.name == first.name).count();
    assert_eq!(named, 1);
}

async fn the_same_definition_again_changes_nothing(schedules: &dyn Schedules) {
    let schedule = new_schedule("same");
    put(schedules, &schedule).await;
    let revision = schedules.revision().await.unwrap();
    put(schedules, &ScheduleRecord { since: Timestamp(120_000), passed: Timestamp(120_000), ..schedule.clone() }).await;
    assert_eq!(read(schedules, &schedule.name).await.as_ref(), Some(&schedule));
    assert_eq!(schedules.revision().await.unwrap(), revision);
}

async fn a_deleted_schedule_is_gone_and_deleting_it_again_is_no_error(schedules: &dyn Schedules, time: &dyn Clockwork) {
    let schedule = new_schedule("gone");
    put(schedules, &schedule).await;
    for _ in 0..2 {
        only(schedules.delete(std::slice::from_ref(&schedule.name)).await).unwrap();
    }
    assert_eq!(read(schedules, &schedule.name).await, None);
    eventually_so(time, "a deleted schedule is listed", async || !schedules.list().await.unwrap().contains(&schedule))
        .await;
}

async fn schedules_are_listed_by_name(schedules: &dyn Schedules, time: &dyn Clockwork) {
    let put = ["c", "a", "b"].map(new_schedule);
    assert!(schedules.put(&put).await.iter().all(Result::is_ok));
    for schedule in &put {
        assert_listed(schedules, schedule, time).await;
    }
    let names: Vec<ScheduleName> = schedules.list().await.unwrap().into_iter().map(|schedule| schedule.name).collect();
    assert!(names.is_sorted(), "{names:?}");
}

async fn note(schedules: &dyn Schedules, schedule: &ScheduleRecord, tick: i64) {
    let noted = Noted { name: schedule.name.clone(), passed: Timestamp(tick), last_tick: Some(Timestamp(tick)) };
    only(schedules.note(&[noted]).await).unwrap();
}

async fn what_is_noted_never_goes_back(schedules: &dyn Schedules) {
    let schedule = new_schedule("noted");
    put(schedules, &schedule).await;
    note(schedules, &schedule, 200_000).await;
    note(schedules, &schedule, 150_000).await;
    let left_out = Noted { name: schedule.name.clone(), passed: Timestamp(300_000), last_tick: None };
    only(schedules.note(&[left_out]).await).unwrap();
    let read = read(schedules, &schedule.name).await.unwrap();
    assert_eq!((read.passed, read.last_tick), (Timestamp(300_000), Some(Timestamp(200_000))));
}

async fn a_pause_is_kept_and_its_end_noted_once(schedules: &dyn Schedules) {
    let schedule = new_schedule("paused");
    put(schedules, &schedule).await;
    assert!(schedules.pause(&schedule.name, false).await.unwrap());
    assert_eq!(read(schedules, &schedule.name).await.as_ref(), Some(&schedule), "it was not paused");
    assert!(schedules.pause(&schedule.name, true).await.unwrap());
    assert!(read(schedules, &schedule.name).await.unwrap().paused);
    assert!(schedules.pause(&schedule.name, false).await.unwrap());
    let resumed = read(schedules, &schedule.name).await.unwrap();
    assert!(!resumed.paused && resumed.resumed.is_some());
    assert!(schedules.pause(&schedule.name, false).await.unwrap());
    assert_eq!(read(schedules, &schedule.name).await, Some(resumed));
}

fn current(tick: i64) -> Current {
    Current { task: TaskId::mint(), tick: Timestamp(tick) }
}

async fn only_who_saw_the_task_that_is_in_takes_its_place(schedules: &dyn Schedules) {
    let schedule = new_schedule("entered");
    put(schedules, &schedule).await;
    let (first, second, third) = (current(1), current(2), current(3));
    assert!(schedules.enter(&schedule.name, None, first).await.unwrap());
    assert!(!schedules.enter(&schedule.name, None, second).await.unwrap());
    assert!(schedules.enter(&schedule.name, Some(first), second).await.unwrap());
    assert!(!schedules.enter(&schedule.name, Some(first), third).await.unwrap());
    assert_eq!(read(schedules, &schedule.name).await.unwrap().current, Some(second));
}

async fn every_change_of_what_people_say_shows_in_the_revision(schedules: &dyn Schedules) {
    let schedule = new_schedule("revised");
    let mut seen = schedules.revision().await.unwrap();
    let mut assert_grown = async |what: &str| {
        let now = schedules.revision().await.unwrap();
        assert!(now > seen, "{what} does not show");
        seen = now;
    };
    put(schedules, &schedule).await;
    assert_grown("a put").await;
    schedules.pause(&schedule.name, true).await.unwrap();
    assert_grown("a pause").await;
    schedules.pause(&schedule.name, false).await.unwrap();
    assert_grown("a resume").await;
    only(schedules.delete(std::slice::from_ref(&schedule.name)).await).unwrap();
    assert_grown("a delete").await;
}
