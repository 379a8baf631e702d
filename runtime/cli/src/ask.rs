//! Asks before something that cannot be taken back.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::exit::{CliError, Result};

/// Fails unless there is somebody to be asked. `what` cannot be taken back.
pub(crate) fn somebody(what: &str) -> Result<()> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    Err(CliError::Usage(format!("{what}: say --yes where nobody can be asked")))
}

/// Asks on the terminal, and fails with `else_` where the answer is not yes.
pub(crate) fn confirm(question: &str, else_: &str) -> Result<()> {
    let mut answer = String::new();
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{question} [y/N] ");
    let read = asked.and_then(|()| stderr.flush()).and_then(|()| io::stdin().lock().read_line(&mut answer));
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err(CliError::Usage(else_.to_owned())),
    }
}
