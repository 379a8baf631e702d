//! What a place for schedules owes.

use rhubarb_core::{
    backend::{ScheduleRecord, Schedules},
    ids::ScheduleName,
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
    a_schedule_is_replaced(schedules, time).await;
    a_deleted_schedule_is_gone_and_deleting_it_again_is_no_error(schedules, time).await;
    schedules_are_listed_by_name(schedules, time).await;
}

fn new_schedule(word: &str) -> ScheduleRecord {
    let name = unique(word);
    let definition = json!({"rate": "1 minute", "task": "update_job_metrics", "args": {"deep": [1, null, "ä"]}});
    ScheduleRecord { name: ScheduleName::new(&name).unwrap(), from_file: true, definition }
}

async fn assert_listed(schedules: &dyn Schedules, expected: &ScheduleRecord, time: &dyn Clockwork) {
    eventually_so(time, "the schedule is not listed as it was put", async || {
        schedules.list().await.unwrap().contains(expected)
    })
    .await;
}

async fn a_schedule_is_listed_as_it_was_put(schedules: &dyn Schedules, time: &dyn Clockwork) {
    let schedule = new_schedule("new");
    only(schedules.put(std::slice::from_ref(&schedule)).await).unwrap();
    assert_listed(schedules, &schedule, time).await;
}

async fn a_schedule_is_replaced(schedules: &dyn Schedules, time: &dyn Clockwork) {
    let first = new_schedule("changed");
    let second = ScheduleRecord { from_file: false, definition: json!({"cron": "0 3 * * ? *"}), ..first.clone() };
    for schedule in [&first, &second] {
        only(schedules.put(std::slice::from_ref(schedule)).await).unwrap();
        assert_listed(schedules, schedule, time).await;
    }
    let named = schedules.list().await.unwrap().into_iter().filter(|schedule| schedule.name == first.name).count();
    assert_eq!(named, 1);
}

async fn a_deleted_schedule_is_gone_and_deleting_it_again_is_no_error(schedules: &dyn Schedules, time: &dyn Clockwork) {
    let schedule = new_schedule("gone");
    only(schedules.put(std::slice::from_ref(&schedule)).await).unwrap();
    for _ in 0..2 {
        only(schedules.delete(std::slice::from_ref(&schedule.name)).await).unwrap();
    }
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
