//! Resident of a host: a machine that keeps to the rules, or one that need not.

use std::time::{Duration, Instant};

use kwik_core::Effort;

use super::{
    NodeId,
    app::Cx,
    evil::EvilMachine,
    machine::{Arrival, Machine, Outgoing, Socket},
    oracle::Oracle,
};

/// Characters of an application's state in a failure's report.
const OCCUPATION_MAX: usize = 400_000;

/// A machine of either kind.
#[derive(Debug)]
pub(super) enum Resident {
    /// The real core, and an application above it.
    Honest(Machine),
    /// QUIC and a script.
    Evil(EvilMachine),
}

impl Resident {
    pub(super) fn honest(&mut self) -> Option<&mut Machine> {
        match self {
            Self::Honest(machine) => Some(machine),
            Self::Evil(_) => None,
        }
    }

    pub(super) fn evil(&self) -> Option<&EvilMachine> {
        match self {
            Self::Honest(_) => None,
            Self::Evil(machine) => Some(machine),
        }
    }

    /// Bytes of what a machine keeps for itself, for no session.
    pub(super) fn scratch(&self) -> i64 {
        match self {
            Self::Honest(machine) => machine.scratch(),
            Self::Evil(_) => 0,
        }
    }

    /// Work that its peers made a session of an honest machine do.
    pub(super) fn effort(&self, client: Option<NodeId>) -> Option<Effort> {
        match self {
            Self::Honest(machine) => machine.effort(client),
            Self::Evil(_) => None,
        }
    }

    pub(super) fn touch_all(&mut self) {
        if let Self::Honest(machine) = self {
            machine.touch_all();
        }
    }

    pub(super) fn handle(&mut self, cx: &mut Cx<'_>, arrival: &Arrival, out: &mut Vec<Outgoing>) {
        match self {
            Self::Honest(machine) => machine.handle(cx, arrival, out),
            Self::Evil(machine) => machine.handle(cx, arrival, out),
        }
    }

    pub(super) fn turn(&mut self, cx: &mut Cx<'_>, socket: Socket, out: &mut Vec<Outgoing>) {
        match self {
            Self::Honest(machine) => machine.turn(cx, socket, out),
            Self::Evil(machine) => machine.turn(cx, socket, out),
        }
    }

    pub(super) fn deadlines(&mut self) -> (Option<Instant>, Option<Duration>) {
        match self {
            Self::Honest(machine) => machine.deadlines(),
            Self::Evil(machine) => machine.deadlines(),
        }
    }

    /// Number of sessions that are left, as the machine and as its endpoint count.
    pub(super) fn left(&self) -> (usize, usize) {
        match self {
            Self::Honest(machine) => machine.left(),
            Self::Evil(machine) => machine.left(),
        }
    }

    /// Work that the application of a machine is at, for a failure's report.
    pub(super) fn occupation(&self) -> String {
        match self {
            Self::Honest(machine) => {
                let text = format!("{:?}", machine.app());
                // Its plan, which comes first, is told elsewhere.
                let at = text.find("sessions: ").or_else(|| text.find("readers: {")).unwrap_or(0);
                text.chars().skip(at).take(OCCUPATION_MAX).collect()
            }
            Self::Evil(_) => String::new(),
        }
    }

    /// Returns whether the application has nothing left to do that anybody waits for; a script never has.
    pub(super) fn is_done(&self, oracle: &Oracle) -> bool {
        match self {
            Self::Honest(machine) => machine.app().is_done(oracle),
            Self::Evil(_) => true,
        }
    }

    /// Number of messages to other servers that have not come back yet.
    pub(super) fn unanswered(&self) -> usize {
        match self {
            Self::Honest(machine) => machine.app().unanswered(),
            Self::Evil(_) => 0,
        }
    }
}
