//! How a process ended, in words that a person reads.

use std::fmt;

use rustix::process::{Signal, WaitIdStatus};

/// How a function process ended. Displays as "exited with code 3" or "was killed by signal 9
/// (SIGKILL)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// It was killed, but the kernel did not let go of it in time.
    NotReaped,
}

impl From<WaitIdStatus> for ExitStatus {
    fn from(status: WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Killed(signal),
            (None, None) => Self::NotReaped,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(number) => match signal_name(number) {
                Some(name) => write!(f, "was killed by signal {number} ({name})"),
                None => write!(f, "was killed by signal {number}"),
            },
            Self::NotReaped => write!(f, "was killed, but the kernel has not ended it yet"),
        }
    }
}

/// The signals that end processes in practice; numbers differ between systems, names do not.
fn signal_name(number: i32) -> Option<&'static str> {
    Some(match Signal::from_named_raw(number)? {
        Signal::HUP => "SIGHUP",
        Signal::INT => "SIGINT",
        Signal::QUIT => "SIGQUIT",
        Signal::ILL => "SIGILL",
        Signal::TRAP => "SIGTRAP",
        Signal::ABORT => "SIGABRT",
        Signal::BUS => "SIGBUS",
        Signal::FPE => "SIGFPE",
        Signal::KILL => "SIGKILL",
        Signal::SEGV => "SIGSEGV",
        Signal::PIPE => "SIGPIPE",
        Signal::ALARM => "SIGALRM",
        Signal::TERM => "SIGTERM",
        Signal::XCPU => "SIGXCPU",
        Signal::XFSZ => "SIGXFSZ",
        Signal::SYS => "SIGSYS",
        Signal::USR1 => "SIGUSR1",
        Signal::USR2 => "SIGUSR2",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_named() {
        assert_eq!(ExitStatus::Exited(3).to_string(), "exited with code 3");
    }

    #[test]
    fn a_signal_is_named_by_number_and_word() {
        let word = |number| ExitStatus::Killed(number).to_string();
        assert_eq!(word(9), "was killed by signal 9 (SIGKILL)");
        assert_eq!(word(6), "was killed by signal 6 (SIGABRT)");
        assert_eq!(word(11), "was killed by signal 11 (SIGSEGV)");
        assert_eq!(word(99), "was killed by signal 99");
    }
}
