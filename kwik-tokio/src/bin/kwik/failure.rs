//! Failures of the program: one line for the user and an exit code.

use std::{fmt, process::ExitCode};

/// Reason why the program ended before its work was done.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The user asked for something impossible.
    Input,
    /// It was begun and went wrong.
    Run,
    /// The user broke it off.
    Interrupted,
}

impl Failure {
    /// Creates the failure for a request that cannot be done; `message` says what and where, on one line.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self { kind: Kind::Input, message: message.into() }
    }

    /// Creates the failure for a request that went wrong on the way; `message` is one line.
    pub(crate) fn run(message: impl Into<String>) -> Self {
        Self { kind: Kind::Run, message: message.into() }
    }

    /// The user broke it off.
    pub(crate) fn interrupted() -> Self {
        Self { kind: Kind::Interrupted, message: "interrupted".into() }
    }

    /// The exit code: 2 for bad input, 1 for what failed, 130 as shells have it for an interrupt.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Run => 1,
            Kind::Input => 2,
            Kind::Interrupted => 130,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
