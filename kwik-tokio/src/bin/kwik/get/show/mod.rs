//! The display while objects are fetched, on standard error: bars, lines, events for programs, or nothing.

mod bars;
mod event;
mod lines;

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use kwik_tokio::PathId;

pub(super) use self::event::Event;
use self::{bars::Bars, lines::Lines};
use crate::{failure::Failure, size::Human};

/// Progress of everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Time since the start.
    pub(super) elapsed: Duration,
    /// Bytes that are here, those from an earlier attempt included.
    pub(super) bytes: u64,
    /// Bytes of everything; `None` until that is known.
    pub(super) total: Option<u64>,
    /// Bytes that came in this session, right or not.
    pub(super) received: u64,
    /// Bytes a second, of late.
    pub(super) rate: f64,
    pub(super) objects_done: usize,
    /// Objects of everything; 0 until that is known.
    pub(super) objects: usize,
    /// By path: the primary first.
    pub(super) sources: Vec<Source>,
}

/// State of a server.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathId,
    pub(super) address: Option<SocketAddr>,
    /// Bytes that it brought first.
    pub(super) bytes: u64,
    /// Its part of all that came.
    pub(super) share: f64,
    pub(super) rate: f64,
    pub(super) state: State,
    pub(super) waits_for: Option<Wait>,
    /// Reason why it is gone or not here, if that is known.
    pub(super) why: Option<String>,
}

/// The state of a server, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Connecting,
    Active,
    Silent,
    Draining,
    Dead,
}

/// Reason why a server does not bring more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Wait {
    /// Its own disk or store: it was asked, and nothing has come.
    Disk,
    /// This end: what came is not written yet.
    Credit,
    /// The network: it sends as fast as its congestion window lets it.
    CongestionWindow,
    /// The primary: it has given it nothing to bring.
    Application,
    /// An answer: nothing is heard of it.
    Silent,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Active => "active",
            Self::Silent => "silent",
            Self::Draining => "draining",
            Self::Dead => "dead",
        }
    }
}

impl Wait {
    const fn name(self) -> &'static str {
        match self {
            Self::Disk => "waits for its disk",
            Self::Credit => "waits for this end to write",
            Self::CongestionWindow => "sends as fast as the network takes it",
            Self::Application => "was given nothing to bring",
            Self::Silent => "does not answer",
        }
    }
}

impl Source {
    /// The server's name for people.
    pub(super) fn name(&self) -> String {
        let role = if self.path == PathId::PRIMARY {
            "primary".to_owned()
        } else {
            format!("mirror {}", self.path.into_inner())
        };
        match self.address {
            Some(address) => format!("{role} {address}"),
            None => role,
        }
    }

    /// State, and with `verbose` what it waits for.
    fn state(&self, verbose: bool) -> String {
        let mut text = self.state.name().to_owned();
        if let Some(why) = &self.why {
            text.push_str(&format!(" ({why})"));
        } else if let Some(wait) = self.waits_for.filter(|_| verbose) {
            text.push_str(&format!(" ({})", wait.name()));
        }
        text
    }
}

impl Progress {
    /// Time to the end at the present rate.
    pub(super) fn eta(&self) -> Option<Duration> {
        let left = self.total?.checked_sub(self.bytes)?;
        Duration::try_from_secs_f64(left as f64 / self.rate).ok()
    }

    /// Progress on one line.
    fn line(&self) -> String {
        let mut line = String::new();
        match self.total {
            Some(total) => {
                let part = 100.0 * self.bytes as f64 / total.max(1) as f64;
                line.push_str(&format!(
                    "{part:3.0}%  {} of {}",
                    Human::bytes(self.bytes),
                    Human::bytes(total)
                ));
            }
            None => line.push_str(&Human::bytes(self.bytes).to_string()),
        }
        if self.objects > 1 {
            line.push_str(&format!("  {} of {} files", self.objects_done, self.objects));
        }
        line.push_str(&format!("  {}/s", Human(self.rate)));
        if let Some(eta) = self.eta().filter(|_| self.rate >= 1.0) {
            line.push_str(&format!("  {} left", Left(eta)));
        }
        line
    }
}

/// A time to go, rounded as people say it.
struct Left(Duration);

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..60 => write!(f, "{seconds} s"),
            seconds @ 60..3600 => write!(f, "{} min {:02} s", seconds / 60, seconds % 60),
            seconds => write!(f, "{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

/// Form in which the user wants to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Bars on a terminal that has them, lines elsewhere.
    Auto,
    Json,
    Quiet,
}

/// The display.
#[derive(Debug)]
pub(super) struct Show {
    kind: Kind,
    verbose: bool,
}

#[derive(Debug)]
enum Kind {
    Quiet,
    Json,
    Lines(Lines),
    Bars(Bars),
}

impl Show {
    pub(super) fn new(style: Style, verbose: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let kind = match style {
            Style::Quiet => Kind::Quiet,
            Style::Json => Kind::Json,
            Style::Auto if io::stderr().is_terminal() && !dumb => Kind::Bars(Bars::new(!set("NO_COLOR"))),
            Style::Auto => Kind::Lines(Lines::default()),
        };
        Self { kind, verbose }
    }

    /// Says how far everything is.
    pub(super) fn progress(&mut self, progress: &Progress) {
        match &mut self.kind {
            Kind::Quiet => {}
            Kind::Json => print(&Event::progress(progress).to_line()),
            Kind::Lines(lines) => lines.draw(progress, self.verbose),
            Kind::Bars(bars) => bars.draw(progress, self.verbose),
        }
    }

    /// Says something that stays.
    pub(super) fn tell(&mut self, event: &Event) {
        match &mut self.kind {
            Kind::Quiet => {}
            Kind::Json => print(&event.to_line()),
            Kind::Lines(_) => event.to_text().iter().for_each(|text| print(text)),
            Kind::Bars(bars) => event.to_text().iter().for_each(|text| bars.print(text)),
        }
    }

    /// Takes what is drawn off the screen, and says how everything ended.
    pub(super) fn end(&self, ended: Result<&Event, &Failure>) {
        if let Kind::Bars(bars) = &self.kind {
            bars.clear();
        }
        match (&self.kind, ended) {
            (Kind::Quiet, Ok(_)) => {}
            (Kind::Json, Ok(event)) => print(&event.to_line()),
            (Kind::Json, Err(failure)) => print(&Event::failed(failure).to_line()),
            (Kind::Lines(_) | Kind::Bars(_), Ok(event)) => {
                event.to_text().iter().for_each(|text| print(text))
            }
            (Kind::Quiet | Kind::Lines(_) | Kind::Bars(_), Err(failure)) => {
                print(&format!("error: {failure}"))
            }
        }
    }
}

/// Prints a line. Without a standard error there is nobody to tell.
fn print(line: &str) {
    writeln!(io::stderr(), "{line}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        let source = |path, bytes, state, waits_for| Source {
            path: PathId::new(path),
            address: None,
            bytes,
            share: 0.5,
            rate: 1024.0,
            state,
            waits_for,
            why: None,
        };
        Progress {
            elapsed: Duration::from_secs(2),
            bytes: 100 << 20,
            total: Some(400 << 20),
            received: 100 << 20,
            rate: f64::from(50 << 20),
            objects_done: 0,
            objects: 1,
            sources: vec![
                source(0, 50 << 20, State::Active, Some(Wait::CongestionWindow)),
                source(1, 50 << 20, State::Silent, Some(Wait::Silent)),
            ],
        }
    }

    #[test]
    fn a_line_says_how_far() {
        let mut progress = progress();
        assert_eq!(progress.line(), " 25%  100.0 MiB of 400.0 MiB  50.0 MiB/s  6 s left");
        (progress.objects, progress.objects_done) = (20, 7);
        progress.rate = 0.0;
        assert_eq!(progress.line(), " 25%  100.0 MiB of 400.0 MiB  7 of 20 files  0 B/s");
        progress.total = None;
        assert_eq!(progress.line(), "100.0 MiB  7 of 20 files  0 B/s");
        assert_eq!(Left(Duration::from_secs(3700)).to_string(), "1 h 01 min");
        assert_eq!(Left(Duration::from_secs(61)).to_string(), "1 min 01 s");
    }

    #[test]
    fn a_source_says_why_it_is_slow_if_that_is_asked_for() {
        let progress = progress();
        assert_eq!(progress.sources[0].state(false), "active");
        assert_eq!(progress.sources[0].state(true), "active (sends as fast as the network takes it)");
        assert_eq!(progress.sources[1].name(), "mirror 1");
        let dead =
            Source { why: Some("PATH_DEAD".into()), state: State::Dead, ..progress.sources[1].clone() };
        assert_eq!(dead.state(false), "dead (PATH_DEAD)");
    }
}
