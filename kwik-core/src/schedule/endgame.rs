//! The end of an object, when everything is given out and a path runs dry: it takes from others, or brings the same
//! once more.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    Decision, PathView, PieceId, Scheduler,
    ledger::{Cutting, Piece},
    limits::{
        HEDGE_FACTOR, HEDGE_FACTOR_SPENT, HEDGE_MIN, LOOK_AGAIN, PIECE_MAX, PIECE_MIN, RESCUE_MIN,
        RESCUE_PIECES, STEAL_MIN, bytes_in, scale, time_for,
    },
    path::{Path, Standing},
};
use crate::id::{ByteRange, PathId};

/// A part of a piece that another path is to have.
struct Theft {
    victim: PathId,
    piece: PieceId,
    keep: u64,
    bytes: u64,
}

impl Scheduler {
    /// Finds something for a path that runs dry although all that may be given out is.
    pub(super) fn end_game(&mut self) -> Option<Decision> {
        if self.ledger.is_idle() {
            return None;
        }
        let limit = self.limit(Duration::ZERO);
        // What is not limited by the reader is left to faster paths on purpose.
        if self.ledger.next_fresh(0, limit, PIECE_MIN, self.least()).is_some() {
            return None;
        }
        let blocking = self.ledger.unowned() > 0;
        let mut dry = self.dry();
        dry.sort_by_key(|view| (std::cmp::Reverse(view.rate), view.path));
        // To take from a path that brings nothing costs a trip, to bring the same no bytes that it would have brought.
        let lowest = self.ledger.lowest().and_then(|id| self.ledger.get(id));
        let owner = lowest.and_then(|piece| self.paths.get(&piece.path));
        if blocking && owner.is_some_and(|owner| owner.stalled > 0) {
            if let Some(decision) = self.hedge_one(&dry, blocking) {
                return Some(decision);
            }
        }
        for thief in &dry {
            if let Some(theft) = self.theft(thief, blocking) {
                return Some(self.steal(thief, &theft));
            }
        }
        self.hedge_one(&dry, blocking)
    }

    /// Takes the rest of a piece from a path that would bring it long after the reader, which takes the bytes in order, has
    /// come to it, for one that would bring it sooner, whatever else that has to do: it works on the lowest first.
    pub(super) fn rescue(&mut self) -> Option<Decision> {
        let (thief, theft) = self.late_piece()?;
        Some(self.steal(&thief, &theft))
    }

    /// The first piece that a reader in order would wait for, with who is to have some of it.
    fn late_piece(&self) -> Option<(PathView, Theft)> {
        self.window?;
        let read_rate = self.reader.measured()?;
        let (views, needed) = (self.views(), self.needed());
        // Bytes that each has to bring before the piece that is looked at.
        let mut before: SmallVec<[(PathId, u64); 9]> = views.iter().map(|view| (view.path, 0)).collect();
        for (id, piece) in self.ledger.owned().take(RESCUE_PIECES) {
            let left = piece.left();
            let Some((_, earlier)) = before.iter_mut().find(|(path, _)| *path == piece.path) else {
                continue; // it is silent: what it has is being lost
            };
            *earlier = earlier.saturating_add(left);
            let to_end = *earlier;
            let Some(owner) = views.iter().find(|view| view.path == piece.path && view.rate > 0) else {
                continue;
            };
            let due = time_for(piece.next().saturating_sub(needed), read_rate);
            let done = time_for(to_end, owner.rate);
            let starts = self.paths.get(&owner.path).is_some_and(|path| path.is_starting(self.now));
            let fit = owner.measured && piece.is_sole() && !piece.uncut && !piece.verified;
            let fit = fit && (due.is_zero() || !starts);
            if !fit || left < STEAL_MIN || done < due.saturating_add(RESCUE_MIN) {
                continue;
            }
            let trip = if owner.path == PathId::PRIMARY { Duration::ZERO } else { self.control_trip() };
            let begin = |other: &PathView| {
                let has = before.iter().find(|(path, _)| *path == other.path).map_or(0, |(_, bytes)| *bytes);
                time_for(has, other.rate).max(trip.saturating_add(other.latency))
            };
            let end = |other: &PathView| begin(other).saturating_add(time_for(left, other.rate));
            let fit = |other: &&PathView| other.path != owner.path && other.measured && other.rate > 0;
            let others = views.iter().filter(fit);
            let Some(thief) = others.min_by_key(|other| (end(other), other.path)) else {
                continue;
            };
            let sooner = end(thief);
            // The owner keeps the bytes that it brings until the other begins.
            let kept = bytes_in(begin(thief), owner.rate).saturating_sub(to_end - left).min(left);
            let bytes = scale(left - kept, thief.rate, thief.rate.saturating_add(owner.rate));
            if done < sooner.saturating_add(sooner / 2) || bytes < STEAL_MIN {
                continue;
            }
            let bytes = if bytes.saturating_add(PIECE_MIN / 4) >= left { left } else { bytes };
            let keep = piece.range.len().saturating_sub(bytes);
            return Some((*thief, Theft { victim: owner.path, piece: id, keep, bytes }));
        }
        None
    }

    /// Has one range brought twice, if that is worth it to one of these paths.
    fn hedge_one(&mut self, dry: &[PathView], blocking: bool) -> Option<Decision> {
        let hedges = dry.iter().filter_map(|other| Some((other, self.hedge(other, blocking)?)));
        let (other, (owner, range)) = hedges.min_by_key(|(other, (_, range))| {
            (PathView { owed: 0, ..**other }.finish(range.len()), other.path)
        })?;
        let owner_path = self.ledger.get(owner).map(|piece| piece.path);
        let decision = self.give(other, range, Some(owner));
        if let Decision::Lease { piece, .. } | Decision::Write { piece, .. } = decision {
            self.reserved.insert(piece, range.len());
        }
        if let Some(owner) = owner_path.and_then(|path| self.paths.get_mut(&path)) {
            owner.report.hedged += 1;
        }
        if let Some(other) = self.paths.get_mut(&other.path) {
            other.report.hedges += 1;
        }
        Some(decision)
    }

    /// The most that a path should take from another, if it runs dry before it could have it.
    fn theft(&self, thief: &PathView, blocking: bool) -> Option<Theft> {
        let path = self.paths.get(&thief.path)?;
        let has = thief.owed.saturating_add(path.incoming);
        if time_for(has, thief.rate) >= self.control_trip().saturating_add(thief.latency) {
            return None;
        }
        let known = path.meter.measured().is_some();
        let thefts = self.paths.values().filter(|victim| victim.id != thief.path);
        let thefts = thefts.filter_map(|victim| {
            let (piece, id) = self.exposed(victim, blocking)?;
            // Of the piece that keeps the reader, only what is left of it counts; else all that the victim has.
            let owed = if blocking { piece.left() } else { victim.owed.saturating_sub(victim.leaving) };
            let rate = self.rate_of(victim);
            let trip = if victim.id == PathId::PRIMARY { Duration::ZERO } else { self.control_trip() };
            let handover = trip.saturating_add(thief.latency);
            let left = piece.left();
            let bytes = match victim.meter.measured() {
                Some(_) => even(owed, rate, has, thief.rate, handover),
                // Nothing has come yet, and it may be long until something does.
                None if known && piece.arrived == 0 && handover < victim.latency() => left,
                None => 0,
            };
            let all = if piece.verified {
                // It would have to be brought from its start.
                let again = has.saturating_add(piece.range.len());
                time_for(owed, rate) > handover.saturating_add(time_for(again, thief.rate))
            } else {
                bytes.saturating_add(PIECE_MIN / 4) >= left
            };
            // Little is worth it where it takes long.
            let worth = bytes >= STEAL_MIN.min(left)
                || (bytes >= HEDGE_MIN.min(left) && time_for(bytes, rate) > LOOK_AGAIN);
            if !worth || bytes.min(left) == 0 || (piece.verified && !all) {
                return None;
            }
            let bytes = if all { left } else { bytes.min(PIECE_MAX) };
            let keep = if all && piece.verified { 0 } else { piece.range.len().saturating_sub(bytes) };
            Some(Theft { victim: victim.id, piece: id, keep, bytes })
        });
        thefts.max_by_key(|theft| (theft.bytes, std::cmp::Reverse(theft.victim)))
    }

    /// The piece of a path that is taken from first: its last, or the one that everybody waits for.
    fn exposed(&self, victim: &Path, blocking: bool) -> Option<(&Piece, PieceId)> {
        if victim.standing != Standing::Usable {
            return None; // what it has is being lost
        }
        let fit = |id: PieceId| {
            let piece = self.ledger.get(id).filter(|piece| piece.is_sole() && !piece.uncut)?;
            let piece = Some(piece).filter(|piece| piece.next() < self.credit())?;
            Some((piece, id))
        };
        if blocking {
            let lowest = self.ledger.lowest()?;
            return fit(lowest).filter(|(piece, _)| piece.path == victim.id);
        }
        victim.queue.iter().rev().find_map(|(_, id)| fit(*id))
    }

    fn steal(&mut self, thief: &PathView, theft: &Theft) -> Decision {
        if let Some(piece) = self.ledger.get_mut(theft.piece) {
            piece.cutting = Some(Cutting { thief: thief.path, bytes: theft.bytes });
        }
        if let Some(victim) = self.paths.get_mut(&theft.victim) {
            victim.leaving = victim.leaving.saturating_add(theft.bytes);
            victim.report.stolen += 1;
        }
        if let Some(thief) = self.paths.get_mut(&thief.path) {
            thief.incoming = thief.incoming.saturating_add(theft.bytes);
        }
        Decision::Cut { piece: theft.piece, keep: theft.keep }
    }

    /// Finds the range that a path with nothing to do should bring as well, if that is worth its bytes.
    fn hedge(&self, other: &PathView, blocking: bool) -> Option<(PieceId, ByteRange)> {
        let path = self.paths.get(&other.path)?;
        if other.owed > 0 || path.incoming > 0 || path.is_suspect() {
            return None;
        }
        let budget = scale(self.ledger.total(), self.options.duplicates_permille, 1000);
        let spent = self.reserved.values().fold(self.doubled, |sum, bytes| sum.saturating_add(*bytes));
        let may = budget.saturating_sub(spent);
        let factor = HEDGE_FACTOR.saturating_add(scale(HEDGE_FACTOR_SPENT, spent, budget));
        // If the reader waits, only whom it waits for.
        let awaited = self.ledger.lowest().and_then(|id| self.ledger.get(id)).map(|piece| piece.path);
        let owners = self.paths.values().filter(|owner| {
            owner.id != other.path
                && owner.id != PathId::PRIMARY
                && owner.standing == Standing::Usable
                && (!blocking || awaited == Some(owner.id))
        });
        let hedges = owners.filter_map(|owner| {
            let fit = |id: PieceId| {
                let piece = self.ledger.get(id).filter(|piece| piece.is_sole() && !piece.settled)?;
                let piece = Some(piece).filter(|piece| piece.next() < self.credit())?;
                Some((piece, id))
            };
            let (piece, id) = owner.queue.iter().find_map(|(_, id)| fit(*id))?;
            let left = piece.left();
            let rate = self.rate_of(owner);
            let (slow, quick) =
                (time_for(left, rate), other.latency.saturating_add(time_for(left, other.rate)));
            let gain = slow.saturating_sub(quick);
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let worth = micros(slow) > scale(micros(quick), factor, 1000);
            // The owner goes on from the front.
            let bytes = if piece.verified { piece.range.len() } else { left.min(may) };
            if !worth || bytes > may || bytes < HEDGE_MIN.min(left) {
                return None;
            }
            let range = ByteRange::new(piece.range.end().saturating_sub(bytes), bytes)?;
            Some((gain, id, range))
        });
        hedges.max_by_key(|(gain, id, _)| (*gain, std::cmp::Reverse(*id))).map(|(_, id, range)| (id, range))
    }
}

/// Returns the number of bytes that a thief, which has some itself, should take of those that a victim has, so that
/// both end together. The victim goes on while they are handed over.
fn even(victim_has: u64, victim_rate: u64, thief_has: u64, thief_rate: u64, handover: Duration) -> u64 {
    let wasted = bytes_in(handover, thief_rate).saturating_add(thief_has);
    let (all, spent) =
        (u128::from(victim_has) * u128::from(thief_rate), u128::from(wasted) * u128::from(victim_rate));
    let rates = u128::from(victim_rate) + u128::from(thief_rate);
    let bytes = all.saturating_sub(spent).checked_div(rates).unwrap_or(0);
    u64::try_from(bytes).unwrap_or(u64::MAX).min(victim_has)
}
