//! Marks that a long enough series of worlds must have seen: a check that nothing ever leads to proves nothing.

use std::collections::BTreeMap;

/// Seeds from which on nothing of [`REQUIRED`] may be missing.
pub const SERIES: u64 = 2000;

/// Faults that came about, ends of sessions, edges of a path's life, fates of leases.
pub static REQUIRED: &[&str] = &[
    // What happens to datagrams and machines.
    "arrived at a dead machine",
    "arrived at nobody",
    "burst",
    "cut",
    "cut short",
    "damaged",
    "delivered twice",
    "fault: address of another",
    "fault: clean close",
    "fault: clock jumps",
    "fault: crash",
    "fault: cut",
    "fault: early timers",
    "fault: forged Retry",
    "fault: forged reset",
    "fault: forged versions",
    "fault: hold",
    "fault: join",
    "fault: link changes",
    "fault: move",
    "fault: pause",
    "fault: rebind",
    "fault: restart",
    "fault: restart with another certificate",
    "fault: rubbish",
    "fault: socket blocks",
    "forged",
    "loss",
    "marked",
    "out of order",
    "queue full",
    "the NAT gives another port",
    "too long",
    // How sessions end.
    "closed by peer's application",
    "closed by peer: NO_ERROR",
    "closed by peer: PRIMARY_LOST",
    "closed: AUTH_TIMEOUT",
    "closed: locally",
    "closed: reset",
    "closed: timed out",
    "closed: transport error",
    // Every edge of a path's life that its primary sees.
    "path Connecting > Active",
    "path Connecting > Dead",
    "path Connecting > Draining",
    "path Active > Dead",
    "path Active > Degraded",
    "path Active > Draining",
    "path Degraded > Active",
    "path Degraded > Dead",
    "path Draining > Dead",
    "path dead: AUTH_FAILED",
    "path dead: AUTH_TIMEOUT",
    "path dead: CLOCK_SKEW",
    "path dead: NO_ERROR",
    "path dead: PATH_DEAD",
    "path dead: TICKET_EXPIRED",
    // What becomes of work.
    "job refused",
    "lease cut",
    "lease done",
    "lease given up",
    "lease hedged",
    "lease lost: AGGREGATION_TIMEOUT",
    "lease lost: LEASE_REVOKED",
    "lease lost: NO_CREDIT",
    "lease lost: NO_ERROR",
    "lease lost: PATH_DEAD",
    "lease lost: PATH_STALLED",
    "lease lost: STREAM_CLOSED",
    "lease lost: 77",
    "lease of one that crawls",
    "lease shortened",
    "lease stalled",
    "lease taken back",
    "range not taken",
    "relay answered",
    "run done",
    "run given up",
    // What becomes of streams.
    "no credit to split",
    "no slot",
    "read failed",
    "reader that never reads",
    "split stream reset",
    "stream finished",
    "stream reset",
    "stream stopped",
];

/// Returns what a series of `seeds` worlds should have seen and has not.
#[must_use]
pub fn unseen(seeds: u64, marks: &BTreeMap<String, u64>) -> Vec<&'static str> {
    let required = if seeds >= SERIES { REQUIRED } else { &[] };
    required.iter().copied().filter(|mark| !marks.contains_key(*mark)).collect()
}
