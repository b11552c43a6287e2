//! `kwik get`: fetches objects from a primary and its mirrors, verifies every byte, and writes them.
//!
//! One session for all of them. [`fetch`] asks and goes on until nothing is missing; [`sink`] verifies and writes on threads of
//! its own; [`partial`] has the names and what survives a crash; [`board`] has the figures, which [`show`] and
//! [`timeline`] make visible.

mod ask;
mod board;
mod checksum;
mod fetch;
mod partial;
mod pipe;
mod plan;
mod remote;
mod session;
mod show;
mod sink;
mod timeline;
mod trust;

use std::{io, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use kwik_tokio::SpkiHash;
use tokio::{
    runtime, signal,
    sync::mpsc,
    time::{self, MissedTickBehavior},
};

use self::{
    board::{Board, Looker},
    checksum::Checksum,
    partial::Existing,
    plan::Place,
    remote::Remote,
    session::Session,
    show::{Event, Progress, Show, Style},
    trust::{Anchor, Trust},
};
use crate::{
    failure::{Cause, Failure, exit_codes},
    pace::Pace,
    protocol::ObjectPath,
    size,
};

/// Time between two looks at how far everything is.
const TICK: Duration = Duration::from_millis(200);
/// Time that writing may take to an end after an interrupt.
const SAVE_MAX: Duration = Duration::from_secs(60);

/// Fetches an object, or all of a directory, from a server and its mirrors at once
///
/// Bytes come from every server that has them, each piece is verified against the digests that the primary names, and the
/// file gets its name when all of it is right. Until then it is NAME.partial; a note beside it says what is there, and the
/// same command goes on where an earlier one was broken off.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct Args {
    /// Object or directory to fetch: `kwik://HOST[:PORT]/PATH`
    #[arg(value_name = "URL")]
    remote: Remote,

    /// Write to this file, or to standard output if it is `-` [default: the object's own name]
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["output_dir", "recursive"])]
    output: Option<PathBuf>,

    /// Write into this directory
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,

    /// Fetch a directory and all below it
    #[arg(short, long)]
    recursive: bool,

    /// Trust the server with this key, as `kwik keygen` prints it
    #[arg(long, value_name = "PIN", conflicts_with = "ca")]
    pin: Option<SpkiHash>,

    /// Trust the authorities in this file, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Replace a file that exists
    #[arg(long, conflicts_with = "continue")]
    force: bool,

    /// Keep a file that is the object already, and replace one that is not
    #[arg(short, long)]
    r#continue: bool,

    /// Digest that the object must have: blake3=HEX or sha256=HEX
    #[arg(long, value_name = "KIND=HEX", conflicts_with = "recursive")]
    checksum: Option<Checksum>,

    /// Bytes a second at most, such as 10MB
    #[arg(long, value_name = "RATE", value_parser = size::parse)]
    limit_rate: Option<u64>,

    /// Give up if fewer bytes a second come, for as long as --speed-time says
    #[arg(long, value_name = "RATE", value_parser = size::parse)]
    speed_limit: Option<u64>,

    /// Seconds for --speed-limit
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    speed_time: u64,

    /// Seconds until the primary must have answered
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    connect_timeout: u64,

    /// Say nothing but what is wrong
    #[arg(short, long)]
    quiet: bool,

    /// Say everything as JSON, one event per line, on standard error
    #[arg(long, conflicts_with = "quiet")]
    json: bool,

    /// Say of each server what it waits for
    #[arg(short, long)]
    verbose: bool,

    /// Draw who delivered what when
    #[arg(long, value_name = "FILE.svg")]
    timeline: Option<PathBuf>,
}

fn after_help() -> String {
    format!(
        "{}\nExamples:\n  \
         kwik get kwik://origin.example/model.bin --pin 3f9c…   one object, from all servers\n  \
         kwik get kwik://origin.example/image.tar -o - | tar x  in order, verified, to a pipe\n  \
         kwik get -r kwik://origin.example/models/llama/        a directory",
        exit_codes()
    )
}

/// Runs the command, and says how it went.
pub(crate) fn run(args: &Args) -> ExitCode {
    let style = match (args.quiet, args.json) {
        (true, _) => Style::Quiet,
        (_, true) => Style::Json,
        (false, false) => Style::Auto,
    };
    let mut show = Show::new(style, args.verbose);
    let done = start(args, &mut show);
    show.end(done.as_ref());
    done.map_or_else(|failure| failure.exit_code(), |_| ExitCode::SUCCESS)
}

fn start(args: &Args, show: &mut Show) -> Result<Event, Failure> {
    let anchor = match (&args.pin, &args.ca) {
        (Some(pin), _) => Anchor::Pin(*pin),
        (None, Some(ca)) => Anchor::Authority(ca),
        (None, None) => Anchor::System,
    };
    let trust = Trust::new(&anchor)?;
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start threads", &error))?;
    let done = runtime.block_on(watched(args, &trust, show));
    // Tasks that still run are of no use to anybody.
    runtime.shutdown_background();
    done
}

/// Fetches, shows how it goes, and ends it early if the user or a limit says so.
async fn watched(args: &Args, trust: &Arc<Trust>, show: &mut Show) -> Result<Event, Failure> {
    let board = Arc::new(Board::new(args.timeline.is_some()));
    let (saving, mut saved) = mpsc::channel::<()>(1);
    let mut session = Session::new(args, trust.clone(), board.clone(), saving)?;
    let mut looker = Looker::default();
    let mut speed = Speed::new(args.speed_limit, Duration::from_secs(args.speed_time));
    let mut tick = time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let connection = session.connection();
    let done = {
        let work = session.run();
        let interrupted = interrupted();
        tokio::pin!(work, interrupted);
        loop {
            tokio::select! {
                biased;
                failure = &mut interrupted => break Err(failure),
                done = &mut work => break done,
                _ = tick.tick() => {
                    board.take_events().iter().for_each(|event| show.tell(event));
                    let progress = looker.look(&board, connection.get(), &trust.refused());
                    if connection.get().is_some() {
                        show.progress(&progress);
                    }
                    if let Err(failure) = speed.check(&progress) {
                        break Err(failure);
                    }
                }
            }
        }
    };
    let progress = looker.look(&board, connection.get(), &trust.refused());
    board.take_events().iter().for_each(|event| show.tell(event));
    drop(session); // the threads that write learn that nothing more comes
    let all_saved = time::timeout(SAVE_MAX, saved.recv());
    if done.is_err() {
        tokio::select! {
            _ = all_saved => {}
            // The second one.
            _ = interrupted() => return Err(Failure::interrupted()),
        }
    }
    picture(args, &board, &looker)?;
    match done {
        Ok(()) => Ok(Event::done(&progress, board.fetched())),
        Err(failure) => Err(explain(args, failure)),
    }
}

/// Adds to a failure how to go on, where that is of use.
fn explain(args: &Args, failure: Failure) -> Failure {
    let pipe = args.output.as_ref().is_some_and(|output| output.as_os_str() == "-");
    let resumable = matches!(failure.cause(), Cause::Interrupted | Cause::NoSource | Cause::TooSlow);
    if resumable && !pipe { failure.remedy(format!("to go on: {}", again())) } else { failure }
}

/// The command that goes on: the same without what would begin anew.
fn again() -> String {
    let quoted = |word: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+[]".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let words = words.map(|word| if word == "--force" { "--continue".to_owned() } else { word });
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn picture(args: &Args, board: &Board, looker: &Looker) -> Result<(), Failure> {
    let Some(path) = &args.timeline else {
        return Ok(());
    };
    let Some(svg) = board.picture(&args.remote.to_string(), &looker.names()) else {
        return Ok(());
    };
    std::fs::write(path, svg)
        .map_err(|error| Failure::io(format_args!("cannot write {}", path.display()), &error))
}

/// Waits until the user, or the system, wants this process to end.
async fn interrupted() -> Failure {
    #[cfg(unix)]
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await.map_or(Ok(()), Ok),
            Err(error) => Err(error),
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<io::Result<()>>();
    let received: io::Result<()> = tokio::select! {
        received = signal::ctrl_c() => received,
        received = terminated => received,
    };
    match received {
        Ok(()) => Failure::interrupted(),
        Err(error) => Failure::io("cannot wait for interrupts", &error),
    }
}

/// Watches over the slowest rate that the user permits.
struct Speed {
    limit: Option<u64>,
    over: Duration,
    /// Since when it has been too slow, and the bytes that were here then.
    since: Option<(Duration, u64)>,
}

impl Speed {
    const fn new(limit: Option<u64>, over: Duration) -> Self {
        Self { limit, over, since: None }
    }

    fn check(&mut self, progress: &Progress) -> Result<(), Failure> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        let (since, before) = *self.since.get_or_insert((progress.elapsed, progress.received));
        let window = progress.elapsed.saturating_sub(since);
        let bytes = progress.received.saturating_sub(before);
        if bytes as f64 >= limit as f64 * window.as_secs_f64().max(1.0) {
            self.since = None;
            return Ok(());
        }
        if window < self.over {
            return Ok(());
        }
        let rate = size::Human(bytes as f64 / window.as_secs_f64());
        Err(Failure::new(
            Cause::TooSlow,
            format!(
                "{rate}/s for {} s, and --speed-limit is {}/s",
                self.over.as_secs(),
                size::Human::bytes(limit)
            ),
        ))
    }
}

/// Returns the place that the objects go to.
fn place(args: &Args) -> Place {
    match (&args.output, &args.output_dir) {
        (Some(output), _) if output.as_os_str() == "-" => Place::Pipe,
        (Some(output), _) => Place::File(output.clone()),
        (None, Some(directory)) => Place::Directory(directory.clone()),
        (None, None) => Place::Directory(PathBuf::from(".")),
    }
}

const fn existing(args: &Args) -> Existing {
    match (args.force, args.r#continue) {
        (true, _) => Existing::Replace,
        (false, true) => Existing::Continue,
        (false, false) => Existing::Refuse,
    }
}

/// The object that is asked for, if it is one.
fn object(args: &Args) -> Result<&ObjectPath, Failure> {
    args.remote
        .path
        .as_ref()
        .ok_or_else(|| Failure::input("the address names no object").remedy("--recursive fetches everything"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_that_is_too_slow_is_given_up_after_its_time() {
        let mut speed = Speed::new(Some(1000), Duration::from_secs(5));
        let at = |ms: u64, received: u64| Progress {
            elapsed: Duration::from_millis(ms),
            received,
            ..Progress::default()
        };
        for (ms, received) in
            [(0, 0), (1000, 2000), (1200, 2000), (3000, 2500), (5000, 8000), (5200, 8000), (10_000, 8100)]
        {
            assert_eq!(speed.check(&at(ms, received)), Ok(()), "{ms}");
        }
        assert_eq!(speed.check(&at(10_300, 8200)).unwrap_err().cause(), Cause::TooSlow);
        assert_eq!(Speed::new(None, Duration::ZERO).check(&at(100_000, 0)), Ok(()));
    }
}
