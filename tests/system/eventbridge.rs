//! Schedules that EventBridge Scheduler fires, on an emulator: the template is deployed, agents work.
//!
//! The emulator looks every ten seconds and leaves the tick's time out of its messages, so what is shown here is
//! that each tick comes to one task, named by the schedule's own time, and that agents fire none of them.

use std::time::{Duration, SystemTime};

use rhubarb::core::{row::State, schedule::Tick, time::Timestamp};
use rhubarb_tests::{App, settled};

use crate::{
    readme::said,
    schedules::{name, tasks_of, until_ticks},
};

/// Long enough for a deployment; the emulator fires within ten seconds after it.
const AHEAD: Duration = Duration::from_secs(25);
pub(crate) const DEPLOY: &str = r#"
rhubarb deploy template --output template.yaml
aws cloudformation deploy --template-file template.yaml --stack-name tests \
    --capabilities CAPABILITY_NAMED_IAM --parameter-overrides Compute=false Alarms=false PointInTimeRecovery=false
"#;

fn toml(at: Timestamp) -> String {
    let local = at.to_string();
    let local = local.trim_end_matches('Z');
    let schedule = |name: &str| format!("[schedules.{name}]\nat = \"{local}\"\ntask = \"noop\"\n");
    let workers = "[queues.default]\nfunctions = [\"scripted\"]\n[workers.all]\nqueues = [\"default\"]\n";
    [workers.to_owned(), schedule("first"), schedule("second"), schedule("held")].concat()
}

#[tokio::test]
async fn the_templates_schedules_fire_once_each_with_three_agents_and_what_was_paused_is_made_up_for() {
    let now = Timestamp::from_system(SystemTime::now());
    let at = Timestamp(now.after(AHEAD).0 / 1000 * 1000);
    let app = App::over(&toml(at), true);
    said(app.path(), DEPLOY, &app.variables()).await;
    let client = app.client().await;
    let held = name("held");
    let paused = app.run(&["schedules", "pause", "held"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    let agents = [app.agent(&["all"]).await, app.agent(&["all"]).await, app.agent(&["all"]).await];

    for schedule in [name("first"), name("second")] {
        let ticks = until_ticks(&client, &schedule, 1).await;
        let [(tick, tasks)] = ticks.iter().collect::<Vec<_>>()[..] else { panic!("{ticks:?}") };
        assert_eq!((*tick, tasks.len()), (at, 1), "{schedule}");
        let id = tasks[0].record.id;
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
        // An agent would have given the tick's task the id that its schedule and its time make.
        assert_ne!(id, Tick { schedule, at }.task("tests"));
    }

    assert!(tasks_of(&client, &held).await.is_empty(), "it was paused");
    let resumed = app.run(&["schedules", "resume", "held"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    let ticks = until_ticks(&client, &held, 1).await;
    assert_eq!(ticks.keys().copied().collect::<Vec<_>>(), [at]);
    assert_eq!(ticks[&at].len(), 1);
    settled(&client, ticks[&at][0].record.id).await;
    for schedule in ["first", "second", "held"] {
        let tasks: usize = tasks_of(&client, &name(schedule)).await.values().map(Vec::len).sum();
        assert_eq!(tasks, 1, "{schedule}");
    }
    for agent in agents {
        agent.stop().await;
    }
}
