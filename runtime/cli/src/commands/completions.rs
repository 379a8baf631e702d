//! `rhubarb completions`: the completion script of a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{cli::Cli, exit::Result, session::Session};

/// Print the completion script of a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb completions bash > ~/.local/share/bash-completion/completions/rhubarb
  rhubarb completions zsh > ~/.zfunc/_rhubarb
  rhubarb completions fish > ~/.config/fish/completions/rhubarb.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints it.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "rhubarb", &mut script);
        session.screen.line(String::from_utf8_lossy(&script).trim_end())
    }
}
