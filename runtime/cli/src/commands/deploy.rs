//! `rhubarb deploy template`: the configuration as a CloudFormation template.
//!
//! It calls nobody: the template is text, and deploying it is for the AWS CLI. A file is replaced whole, so
//! that a crash leaves the old one or the new one.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use rhubarb_core::time::Timestamp;
use rhubarb_deploy::template;
use serde::Serialize;

use crate::{
    exit::{CliError, Result},
    project::shown,
    session::Session,
};

/// CloudFormation takes a larger template only from a bucket (its quota "template body size in a request").
const INLINE_BYTES_MAX: usize = 51_200;

/// Make what a deployment to AWS needs
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb deploy template --output template.yaml
  rhubarb package && aws s3 cp --recursive dist/ s3://BUCKET/v1/
  aws cloudformation deploy --template-file template.yaml --stack-name NAME --capabilities CAPABILITY_NAMED_IAM \\
      --parameter-overrides CodeBucket=BUCKET CodePrefix=v1/")]
pub(crate) struct Deploy {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write the CloudFormation template of rhubarb.toml
    Template(Template),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb deploy template | less
  rhubarb deploy template --stage prod --output prod.yaml")]
struct Template {
    /// Where to write it [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A written template, for programs.
#[derive(Serialize)]
struct Written<'a> {
    path: &'a Path,
    bytes: usize,
}

impl Deploy {
    /// Makes it.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let What::Template(options) = self.what;
        let project = session.project()?;
        project.warn();
        let now = Timestamp::from_system(SystemTime::now());
        let text = template(&project.config, now).map_err(|unfit| CliError::Configuration(unfit.to_string()))?;
        if text.len() > INLINE_BYTES_MAX {
            session.screen.note(format!(
                "the template has over {INLINE_BYTES_MAX} bytes: give `aws cloudformation deploy` a bucket for it with --s3-bucket",
            ));
        }
        match options.output {
            Some(path) => write(session, &path, &text),
            None if session.screen.json() => session.screen.document(&serde_json::json!({ "template": text })),
            None => session.screen.line(text.trim_end()),
        }
    }
}

fn write(session: &Session, path: &Path, text: &str) -> Result<()> {
    let failed = |error| CliError::io(format_args!("write {}", shown(path)), &error);
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, path)).map_err(failed)?;
    if session.screen.json() {
        return session.screen.document(&Written { path, bytes: text.len() });
    }
    session.screen.note(format!("wrote {}", shown(path)));
    Ok(())
}
