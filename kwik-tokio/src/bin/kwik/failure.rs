//! Failures of the program: one line for the user and an exit code.

use std::{
    fmt::{self, Write as _},
    io,
    process::ExitCode,
};

/// Reason why the program ended before its work was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    cause: Cause,
    message: String,
    remedy: Option<String>,
}

/// Kind of a failure, each with an exit code of its own. The codes are part of the program's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// It was begun and went wrong in a way that none of the others names.
    Run,
    /// The user asked for something impossible.
    Usage,
    /// The server has no such object.
    NotFound,
    /// The server does not give it to this client, or not now.
    Refused,
    /// No server is left that could bring what is missing.
    NoSource,
    /// The bytes do not have the digest that they should.
    Digest,
    /// The object became another while it was fetched.
    Changed,
    /// There is no room on the disk.
    DiskFull,
    /// The target exists.
    Exists,
    /// The transfer was slower than the user permits.
    TooSlow,
    /// The host is not known, or nobody answers there.
    Unreachable,
    /// The server's certificate is not trusted.
    Untrusted,
    /// The user broke it off.
    Interrupted,
}

impl Cause {
    /// All causes in the order of their exit codes.
    pub(crate) const ALL: &'static [Self] = &[
        Self::Run,
        Self::Usage,
        Self::NotFound,
        Self::Refused,
        Self::NoSource,
        Self::Digest,
        Self::Changed,
        Self::DiskFull,
        Self::Exists,
        Self::TooSlow,
        Self::Unreachable,
        Self::Untrusted,
        Self::Interrupted,
    ];

    /// The exit code: 130 as shells have it for an interrupt, the others count from 1.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Run => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::NoSource => 5,
            Self::Digest => 6,
            Self::Changed => 7,
            Self::DiskFull => 8,
            Self::Exists => 9,
            Self::TooSlow => 10,
            Self::Unreachable => 11,
            Self::Untrusted => 12,
            Self::Interrupted => 130,
        }
    }

    /// The word for it where machines read.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Run => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not-found",
            Self::Refused => "refused",
            Self::NoSource => "no-source",
            Self::Digest => "digest",
            Self::Changed => "changed",
            Self::DiskFull => "disk-full",
            Self::Exists => "exists",
            Self::TooSlow => "too-slow",
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted",
            Self::Interrupted => "interrupted",
        }
    }

    /// One line of the help.
    const fn help(self) -> &'static str {
        match self {
            Self::Run => "it was begun and failed for a reason that is none of the others",
            Self::Usage => "bad arguments, or something impossible was asked for",
            Self::NotFound => "the server has no such object",
            Self::Refused => "the server does not give it, or not now",
            Self::NoSource => "no server is left that could bring the rest",
            Self::Digest => "bytes do not have the digest that they should",
            Self::Changed => "the object became another while it was fetched",
            Self::DiskFull => "no room on the disk",
            Self::Exists => "the target exists (see --force and --continue)",
            Self::TooSlow => "slower than --speed-limit for --speed-time",
            Self::Unreachable => "the host is not known, or nobody answers there",
            Self::Untrusted => "the server's certificate is not trusted",
            Self::Interrupted => "interrupted (what had come is kept for --continue)",
        }
    }
}

/// The table of exit codes, for the help.
pub(crate) fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n    0  done\n");
    for cause in Cause::ALL {
        text.push_str(&format!("  {:3}  {}\n", cause.code(), cause.help()));
    }
    text
}

impl Failure {
    /// Creates a failure; `message` says what and where, on one line.
    pub(crate) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), remedy: None }
    }

    /// Creates the failure for a request that cannot be done; `message` says what and where, on one line.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(Cause::Usage, message)
    }

    /// Creates the failure for a request that went wrong on the way; `message` is one line.
    pub(crate) fn run(message: impl Into<String>) -> Self {
        Self::new(Cause::Run, message)
    }

    /// The user broke it off.
    pub(crate) fn interrupted() -> Self {
        Self::new(Cause::Interrupted, "interrupted")
    }

    /// Creates the failure of an operation on a file: `what` says which and where.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let kind = error.kind();
        let cause = if matches!(kind, Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge) {
            Cause::DiskFull
        } else if kind == Kind::AlreadyExists {
            Cause::Exists
        } else {
            Cause::Run
        };
        Self::new(cause, format!("{what}: {error}"))
    }

    /// Adds what the user may do about it.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) const fn cause(&self) -> Cause {
        self.cause
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.cause.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line that leaves the terminal as it is, whatever a peer or the system says.
        for char in self.message.chars().filter(|char| !char.is_control()) {
            f.write_char(char)?;
        }
        match &self.remedy {
            Some(remedy) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_cause_has_a_code_and_a_name_of_its_own() {
        let codes: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.code()).collect();
        let names: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!((codes.len(), names.len()), (Cause::ALL.len(), Cause::ALL.len()));
        assert!(!codes.contains(&0));
        assert!(Cause::ALL.is_sorted_by_key(|cause| cause.code()));
    }

    #[test]
    fn a_failure_is_one_line_with_its_remedy() {
        let failure = Failure::new(Cause::Exists, "a.bin exists").remedy("--force replaces it");
        assert_eq!(failure.to_string(), "a.bin exists (--force replaces it)");
        assert_eq!(Failure::run("one\r\ntwo").to_string(), "onetwo");
        assert_eq!(Failure::run("refused: \x1b]0;owned\x07\u{9b}2J").to_string(), "refused: ]0;owned2J");
    }

    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let of = |kind: io::ErrorKind| Failure::io("x", &kind.into()).cause();
        assert_eq!(of(io::ErrorKind::StorageFull), Cause::DiskFull);
        assert_eq!(of(io::ErrorKind::QuotaExceeded), Cause::DiskFull);
        assert_eq!(of(io::ErrorKind::PermissionDenied), Cause::Run);
    }
}
