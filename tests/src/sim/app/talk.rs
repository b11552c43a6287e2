//! Messages that servers have relayed to each other: the primary says something to every path that is attached, and secondaries
//! say it back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use kwik_core::{Event, PathId, RelayError, Session};

use super::Cx;

/// Amount that a primary has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Talk {
    /// Messages to each path, once it is attached.
    pub messages: u32,
    /// Bytes of the longest.
    pub longest: u32,
}

/// A primary's side of it.
#[derive(Debug, Default)]
pub(super) struct Speaker {
    plan: Talk,
    paths: BTreeMap<PathId, Speech>,
    blocked: bool,
}

/// Messages that were said to one path.
#[derive(Debug, Default)]
struct Speech {
    said: u32,
    unanswered: BTreeSet<u32>,
    over: bool,
}

impl Speaker {
    pub(super) fn new(plan: Talk) -> Self {
        Self { plan, ..Self::default() }
    }

    /// A path was added, and may be spoken to as soon as it is attached.
    pub(super) fn meets(&mut self, path: PathId) {
        self.paths.insert(path, Speech::default());
    }

    pub(super) fn event(&mut self, event: &Event) {
        if matches!(event, Event::RelaysUnblocked | Event::PathChanged(_)) {
            self.blocked = false;
        }
    }

    /// Number of messages that a path has still to be told, or to say back.
    pub(super) fn open(&self, path: PathId) -> usize {
        let unsaid = |speech: &Speech| self.plan.messages.saturating_sub(speech.said) as usize;
        self.paths.get(&path).map_or(0, |speech| unsaid(speech) + speech.unanswered.len())
    }

    pub(super) fn turn(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        while let Some(relay) = session.take_relay() {
            let number = parse(&relay.payload);
            let known = self.paths.get_mut(&relay.path).map(|speech| speech.unanswered.remove(&number));
            assert_eq!(known, Some(true), "2: an answer of {} that nobody waits for, {number}", relay.path);
            assert_eq!(relay.payload, words(relay.path, number, self.plan), "1: an answer is another");
            under_way(cx, relay.payload.len(), true);
            cx.note(format_args!("hears {number} from {}", relay.path));
            cx.trace.count("relay answered");
        }
        for (&path, speech) in &mut self.paths {
            while speech.said < self.plan.messages && !speech.over && !self.blocked && !cx.is_interrupted() {
                match session.relay(cx.now, path, words(path, speech.said, self.plan)) {
                    Ok(()) => {
                        under_way(cx, words(path, speech.said, self.plan).len(), false);
                        cx.note(format_args!("says {} to {path}", speech.said));
                        speech.unanswered.insert(speech.said);
                        speech.said += 1;
                    }
                    Err(RelayError::Blocked) => {
                        // One that is being attached holds up none of the others.
                        self.blocked = session.path_state(path) != Some(kwik_core::PathState::Connecting);
                        break;
                    }
                    Err(RelayError::PathDead | RelayError::SessionClosed) => speech.over = true,
                    Err(error) => panic!("10: cannot relay to {path}: {error}"),
                }
            }
        }
    }
}

/// A secondary's side of it.
#[derive(Debug, Default)]
pub(super) struct Echo {
    heard: BTreeSet<u32>,
    answers: VecDeque<Bytes>,
    blocked: bool,
}

impl Echo {
    pub(super) fn event(&mut self, event: &Event) {
        self.blocked &= *event != Event::RelaysUnblocked;
    }

    pub(super) fn turn(&mut self, cx: &mut Cx<'_>, session: &mut Session) {
        while let Some(relay) = session.take_relay() {
            let number = parse(&relay.payload);
            assert!(relay.sealed, "11: a message that the primary has not made");
            assert!(self.heard.insert(number), "2: message {number} came twice");
            under_way(cx, relay.payload.len(), true);
            cx.note(format_args!("is told {number}"));
            self.answers.push_back(relay.payload);
        }
        while !self.blocked && !cx.is_interrupted() {
            let Some(answer) = self.answers.front() else {
                return;
            };
            match session.relay(cx.now, PathId::PRIMARY, answer.clone()) {
                Ok(()) => {
                    under_way(cx, answer.len(), false);
                    self.answers.pop_front();
                }
                Err(RelayError::Blocked) => self.blocked = true,
                Err(RelayError::SessionClosed) => self.answers.clear(),
                Err(error) => panic!("10: cannot answer: {error}"),
            }
        }
    }
}

/// Tells the oracle what the client has to carry.
fn under_way(cx: &mut Cx<'_>, bytes: usize, arrived: bool) {
    if let Some((client, _)) = cx.client {
        cx.oracle.relayed(client, bytes, arrived);
    }
}

/// The message with that number: it says which it is, and what it is made of follows from that.
fn words(path: PathId, number: u32, plan: Talk) -> Bytes {
    let seed = u64::from(number) << 32 | u64::from(path.into_inner());
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let rest = (mixed >> 20) % u64::from(plan.longest.max(5) - 3);
    let filling = mixed.to_le_bytes().into_iter().cycle().take(usize::try_from(rest).unwrap_or(0));
    number.to_be_bytes().into_iter().chain(filling).collect()
}

fn parse(payload: &[u8]) -> u32 {
    let number = payload.first_chunk().expect("1: a message without its number");
    u32::from_be_bytes(*number)
}
