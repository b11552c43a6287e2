//! The primary's own pieces: set aside at once, written one after the other, the lowest first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::Distributor;
use crate::{
    action::{LeaseOutcome, RunId},
    id::{ByteRange, PathId, StreamId},
    schedule::PieceId,
    session::Session,
};

/// A piece that this server writes.
#[derive(Debug)]
struct Written {
    run: RunId,
    range: ByteRange,
    /// Bytes of it that the session has taken.
    bytes: u64,
    /// There was no credit or no room for more, and nothing was heard since.
    blocked: bool,
}

/// Bytes that this server has to write next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unwritten {
    /// The piece that they are of.
    pub piece: PieceId,
    /// The run that takes them.
    pub run: RunId,
    /// The rest of the piece. It may get shorter from call to call.
    pub range: ByteRange,
    /// The session took nothing when last asked, and nothing was heard since: only reading ahead makes sense.
    pub blocked: bool,
}

/// The pieces that this server writes.
#[derive(Debug, Default)]
pub(super) struct Own {
    pieces: BTreeMap<PieceId, Written>,
    runs: BTreeMap<RunId, PieceId>,
    /// Those of which something is left to write, by offset.
    unwritten: BTreeSet<(u64, PieceId)>,
    /// Bytes that the session has taken of pieces that have not ended.
    under_way: u64,
    /// Bytes that QUIC may have under way.
    cwnd: u64,
}

impl Own {
    pub(super) fn add(&mut self, piece: PieceId, run: RunId, range: ByteRange) {
        self.unwritten.insert((range.start(), piece));
        self.runs.insert(run, piece);
        self.pieces.insert(piece, Written { run, range, bytes: 0, blocked: false });
    }

    pub(super) fn piece_of(&self, run: RunId) -> Option<PieceId> {
        self.runs.get(&run).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PieceId, PathId, ByteRange)> + '_ {
        self.pieces.iter().map(|(piece, own)| (*piece, PathId::PRIMARY, own.range))
    }

    /// Something happened to a piece: takes its end, if that is it.
    pub(super) fn look(
        &mut self,
        session: &mut Session,
        piece: PieceId,
    ) -> Option<(ByteRange, LeaseOutcome)> {
        let own = self.pieces.get_mut(&piece)?;
        own.blocked = false;
        let outcome = session.run_outcome(own.run)?;
        let (run, range) = (own.run, own.range);
        self.runs.remove(&run);
        self.unwritten.remove(&(range.start(), piece));
        if let Some(own) = self.pieces.remove(&piece) {
            self.under_way = self.under_way.saturating_sub(own.bytes);
        }
        Some((range, outcome))
    }

    /// Gives up what lies behind the first `keep` bytes of a piece, if nothing of it was written yet, and returns what
    /// was given up. What is on its way cannot be called back.
    pub(super) fn cut(
        &mut self,
        now: Instant,
        session: &mut Session,
        stream: StreamId,
        piece: PieceId,
        keep: u64,
    ) -> Option<ByteRange> {
        let own = self.pieces.get_mut(&piece).filter(|own| own.bytes == 0)?;
        let rest = ByteRange::between(own.range.start().checked_add(keep)?, own.range.end())?;
        let kept = ByteRange::between(own.range.start(), rest.start())?;
        session.reset_run(now, own.run);
        self.runs.remove(&own.run);
        // The run that is reset owned this range until now, so nobody else does.
        own.run = session.write_at(now, stream, kept).ok()?;
        self.runs.insert(own.run, piece);
        (own.range, own.blocked) = (kept, false);
        Some(rest)
    }

    /// Looks at how much QUIC may have under way.
    pub(super) fn look_at_link(&mut self, session: &Session) {
        self.cwnd = session.congestion_window();
    }

    /// Returns whether QUIC has enough to send. What it has of several pieces leaves side by side, so all of them would
    /// end late; and what it has cannot be called back. How much of the pieces that have not ended has arrived is not known:
    /// so there is enough only while one of them is written whole, which ends by itself. Of the others all may be there.
    pub(super) fn is_ahead(&self) -> bool {
        let ends = self.pieces.len() > self.unwritten.len();
        let longest = self.pieces.values().map(|own| own.range.len()).max().unwrap_or_default();
        let enough = self.cwnd.saturating_mul(2).saturating_add(longest);
        ends && !self.unwritten.is_empty() && self.under_way >= enough
    }

    pub(super) fn let_go(&mut self, now: Instant, session: &mut Session) {
        for own in std::mem::take(self).pieces.into_values() {
            session.reset_run(now, own.run);
        }
    }
}

impl Distributor {
    /// Returns what this server has to write, the lowest offset first. Only the first is written; a driver may read the
    /// others ahead.
    pub fn unwritten(&self) -> impl Iterator<Item = Unwritten> + '_ {
        let ahead = self.own.is_ahead();
        self.own.unwritten.iter().filter_map(move |(_, piece)| {
            let own = self.own.pieces.get(piece)?;
            let start = own.range.start().saturating_add(own.bytes);
            let range = ByteRange::between(start, own.range.end())?;
            Some(Unwritten { piece: *piece, run: own.run, range, blocked: own.blocked || ahead })
        })
    }

    /// The session has taken the next `bytes` of a piece of this server's own.
    ///
    /// It is not told as progress: what the network has taken may be far from having arrived.
    pub fn handle_written(&mut self, piece: PieceId, bytes: u64) {
        let Some(own) = self.own.pieces.get_mut(&piece) else {
            return;
        };
        own.bytes = own.bytes.saturating_add(bytes);
        self.own.under_way = self.own.under_way.saturating_add(bytes);
        if own.bytes >= own.range.len() {
            self.own.unwritten.remove(&(own.range.start(), piece));
        }
    }

    /// The session takes nothing of a piece at the moment.
    pub fn handle_blocked(&mut self, piece: PieceId) {
        if let Some(own) = self.own.pieces.get_mut(&piece) {
            own.blocked = true;
        }
    }

    /// The session takes nothing of a piece any more: its end is told, or its stream's.
    pub fn handle_unwritable(&mut self, piece: PieceId) {
        if let Some(own) = self.own.pieces.get(&piece) {
            self.own.unwritten.remove(&(own.range.start(), piece));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by `sim bench`: pieces of which parts were written waited for each other, and the object stood still for good.
    #[test]
    fn there_is_enough_only_while_a_piece_ends_by_itself() {
        let mut own = Own { cwnd: 10, ..Own::default() };
        let range = |start| ByteRange::new(start, 100).unwrap();
        for n in 0..3 {
            own.add(PieceId(n), RunId(n), range(n * 100));
            own.pieces.get_mut(&PieceId(n)).unwrap().bytes = 90;
            own.under_way += 90;
        }
        assert!(!own.is_ahead(), "the rest of one has to be written before any of them ends");
        own.unwritten.remove(&(0, PieceId(0)));
        assert!(own.is_ahead());
    }
}
