//! `rhubarb schema`: what a message must look like, for producers in any language.

use clap::Args;
use rhubarb_core::envelope::SCHEMA;

use crate::{
    exit::{CliError, Result},
    session::Session,
};

/// Print the JSON Schema of a task's message
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb schema > envelope.schema.json
  rhubarb schema --json | jq '.properties | keys'

Both forms are in it: the least, {\"task\": …, \"args\": …}, and the full envelope.")]
pub(crate) struct Schema {}

impl Schema {
    /// Prints it.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        if !session.screen.json() {
            return session.screen.line(SCHEMA.trim_end());
        }
        let unread = |error| CliError::Usage(format!("cannot read the schema: {error}"));
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).map_err(unread)?;
        session.screen.document(&schema)
    }
}
