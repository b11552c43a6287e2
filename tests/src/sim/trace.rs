//! Record of a world: a hash of everything, counters of what is worth having seen, and, if asked for, the text.
//!
//! A run that nobody looks at keeps only the hash and the counters. A run that failed is run again with the text on:
//! the same seed gives the same run.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::{self, Write as _},
    time::Duration,
};

use super::NodeId;

/// Amount of the text that is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Record {
    /// Nothing.
    #[default]
    Nothing,
    /// Calls and events of applications, from the start: one decision per line.
    Decisions,
    /// The last lines of everything, datagrams included.
    Last(usize),
}

/// The record of one world.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: blake3::Hasher,
    record: Record,
    lines: VecDeque<String>,
    marks: BTreeMap<String, u64>,
    /// Faults and other marks whose names are known beforehand: counted without a string.
    counts: BTreeMap<&'static str, u64>,
    scratch: String,
    datagrams: u64,
    /// Client whose session the machine at work is working on.
    about: Option<NodeId>,
    /// The decisions of each client's session, on whatever machine.
    sessions: BTreeMap<NodeId, blake3::Hasher>,
}

impl Trace {
    /// Creates a trace that keeps as much text as `record` says.
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self { record, ..Self::default() }
    }

    /// Notes a datagram as it leaves.
    pub fn sent(&mut self, at: Duration, from: NodeId, to: &dyn fmt::Display, bytes: &[u8]) {
        self.datagrams += 1;
        self.hasher.update(&nanos(at).to_le_bytes());
        self.hasher.update(&from.0.to_le_bytes());
        self.hasher.update(bytes);
        if let Record::Last(_) = self.record {
            self.line(at, from, format_args!("sends {} bytes to {to}", bytes.len()));
        }
    }

    /// Notes what became of a datagram, if that is not that it arrived.
    pub fn lost(&mut self, at: Duration, from: NodeId, why: &'static str) {
        self.count(why);
        if let Record::Last(_) = self.record {
            self.line(at, from, format_args!("  lost: {why}"));
        }
    }

    /// Notes a decision: what an application did or was told.
    pub fn note(&mut self, at: Duration, node: NodeId, what: fmt::Arguments<'_>) {
        self.scratch.clear();
        if self.scratch.write_fmt(what).is_err() {
            return; // a string takes everything
        }
        self.hasher.update(&nanos(at).to_le_bytes());
        self.hasher.update(&node.0.to_le_bytes());
        self.hasher.update(self.scratch.as_bytes());
        if let Some(client) = self.about {
            let session = self.sessions.entry(client).or_default();
            session.update(&nanos(at).to_le_bytes());
            session.update(&node.0.to_le_bytes());
            session.update(self.scratch.as_bytes());
        }
        if self.record != Record::Nothing {
            let text = std::mem::take(&mut self.scratch);
            self.line(at, node, format_args!("{text}"));
            self.scratch = text;
        }
    }

    /// Says whose session the decisions that follow are about; the client's that it is with, or nobody's.
    pub fn about(&mut self, client: Option<NodeId>) {
        self.about = client;
    }

    /// Returns the hash of all decisions about a client's session, on all machines: time, machine and text.
    #[must_use]
    pub fn session_hash(&self, client: NodeId) -> String {
        let hash = self.sessions.get(&client).map(|session| session.finalize().to_hex().to_string());
        hash.unwrap_or_default()
    }

    /// Counts something worth having seen.
    pub fn count(&mut self, mark: &'static str) {
        *self.counts.entry(mark).or_default() += 1;
    }

    /// Counts something worth having seen whose name is made at run time.
    pub fn mark(&mut self, mark: String) {
        *self.marks.entry(mark).or_default() += 1;
    }

    /// Returns what was counted.
    pub fn marks(&self) -> impl Iterator<Item = (&str, u64)> {
        let counts = self.counts.iter().map(|(name, count)| (*name, *count));
        counts.chain(self.marks.iter().map(|(name, count)| (name.as_str(), *count)))
    }

    /// Returns how many datagrams were sent.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// Returns the hash of everything so far: time, machine and bytes of each datagram and each decision.
    #[must_use]
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().as_str().get(..32).unwrap_or_default().to_owned()
    }

    /// Returns the text that was kept, a line each.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// Returns the text that was kept.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines().fold(String::new(), |text, line| text + line + "\n")
    }

    fn line(&mut self, at: Duration, node: NodeId, what: fmt::Arguments<'_>) {
        if let Record::Last(max) = self.record {
            while self.lines.len() >= max.max(1) {
                self.lines.pop_front();
            }
        }
        let line = format!("{:>11.6} {:<11} {what}", at.as_secs_f64(), node.to_string());
        self.lines.push_back(line);
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}
