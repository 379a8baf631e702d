//! The configuration as one CloudFormation template.
//!
//! It is written by hand, section by section, because people read it: it has comments, an order that follows
//! the configuration's, and a diff of two versions shows what changed and nothing else. Names and numbers
//! are made and checked first ([`plan`]); the sections only write them down. Logical names are made of a
//! kind and the queue's name, so that a queue that comes or goes changes no other one's.

mod alarms;
mod compute;
mod functions;
mod outputs;
mod parameters;
mod plan;
mod queues;
mod rights;
mod schedules;
mod store;
mod yaml;

use std::collections::BTreeSet;

use rhubarb_core::{config::Config, time::Timestamp};

use self::plan::Plan;
pub use self::plan::Unfit;

/// The template, as YAML. The same configuration gives the same text, but for schedules that have begun or ended
/// by `now`: Scheduler refuses a start that has passed.
///
/// # Errors
///
/// Something of the configuration has no place on AWS: a name that is too long, a variable that Lambda
/// reserves. All reasons at once, each with the key and the fix.
pub fn template(config: &Config, now: Timestamp) -> Result<String, Unfit> {
    let plan = Plan::new(config, now)?;
    let sections = [
        head(config),
        parameters::write(&plan),
        "\nResources:\n".to_owned(),
        queues::write(&plan).trim_start_matches('\n').to_owned(),
        store::write(&plan),
        functions::write(&plan),
        schedules::write(&plan),
        compute::write(&plan),
        alarms::write(&plan),
        outputs::write(&plan),
    ];
    Ok(sections.concat())
}

/// The zips that the template expects below `CodePrefix` in `CodeBucket`.
///
/// # Errors
///
/// As [`template`].
pub fn code_files(config: &Config) -> Result<BTreeSet<String>, Unfit> {
    Ok(Plan::new(config, Timestamp::default())?.zipped().filter_map(|(_, light)| light.code_file()).collect())
}

fn head(config: &Config) -> String {
    let (name, stage) = (&config.app.name, &config.app.stage);
    format!(
        r#"# What {name} needs on AWS in stage {stage}: its queues, its table, its bucket, a Lambda function for each
# queue of class lambda, and workers on ECS for the others. `rhubarb deploy template` wrote this from rhubarb.toml: change that, and write it again.

AWSTemplateFormatVersion: "2010-09-09"
Description: {name}, stage {stage}, by Rhubarb

"#
    )
}
