//! `rhubarb config`: the reference of `rhubarb.toml`.

use clap::Args;
use rhubarb_core::config::{Key, reference, reference_markdown};
use serde::Serialize;

use crate::{exit::Result, session::Session};

/// Print the reference of rhubarb.toml: every key, its default and its meaning
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb config | less")]
pub(crate) struct Reference {}

#[derive(Serialize)]
struct Line<'a> {
    section: &'a str,
    key: &'a str,
    kind: &'a str,
    default: &'a str,
    meaning: &'a str,
}

impl Reference {
    /// Prints it.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        if session.screen.json() {
            return reference().iter().try_for_each(|key| {
                let Key { section, key, kind, default, meaning } = key;
                session.screen.document(&Line { section, key, kind, default, meaning })
            });
        }
        session.screen.line(reference_markdown().trim_end())
    }
}
