//! Facts that the scheduler is told. Nothing here can fail; what is late or says nothing new changes nothing.

use std::time::{Duration, Instant};

use super::{
    DuplicateReason, Loss, PathNews, PieceId, Refusal, Scheduler,
    ledger::Ended,
    limits::{REST_BUSY, REST_FIRST, SCORE_MAX},
    path::Standing,
};
use crate::{
    id::{ByteRange, PathId},
    limits::GUARANTEED_CREDIT,
};

impl Scheduler {
    /// Something happened to a path.
    pub fn handle_path(&mut self, now: Instant, path: PathId, news: PathNews) {
        self.on_fact(now);
        let Some(path) = self.paths.get_mut(&path) else {
            return;
        };
        match news {
            PathNews::Silent => path.on_silent(),
            PathNews::Answers => path.on_answers(),
            PathNews::Removed | PathNews::Dead => path.standing = Standing::Gone,
        }
    }

    /// The round trip on a path was measured.
    pub fn handle_rtt(&mut self, now: Instant, path: PathId, rtt: Duration) {
        self.on_fact(now);
        if let Some(path) = self.paths.get_mut(&path) {
            path.set_rtt(rtt);
        }
    }

    /// The rate of a path was measured elsewhere, in bytes per second. It is estimated here anyhow, from what comes.
    pub fn handle_rate(&mut self, now: Instant, path: PathId, bytes_per_second: u64) {
        self.on_fact(now);
        if let Some(path) = self.paths.get_mut(&path) {
            path.meter.set(bytes_per_second);
        }
    }

    /// The first `arrived` bytes of a piece have come, or were taken by the network if nothing better is known.
    pub fn handle_progress(&mut self, now: Instant, piece: PieceId, arrived: u64) {
        self.on_fact(now);
        let Some(known) = self.ledger.get_mut(piece) else {
            return;
        };
        let opening = (known.opener && known.arrived == 0).then_some(known.given);
        let (path, verified) = (known.path, known.verified);
        let goes_on = known.stalled && arrived > known.arrived;
        known.stalled &= !goes_on;
        let news = self.ledger.advance(piece, arrived);
        if news == 0 && !goes_on {
            return;
        }
        if !verified {
            self.losses = 0; // what is verified counts when it is done
        }
        if let Some(path) = self.paths.get_mut(&path) {
            path.stalled = path.stalled.saturating_sub(usize::from(goes_on));
            path.on_bytes(now, news, opening);
        }
    }

    /// Every byte of a piece has arrived.
    pub fn handle_done(&mut self, now: Instant, piece: PieceId) {
        let Some(path) = self.ledger.get(piece).map(|known| known.path) else {
            return;
        };
        self.handle_progress(now, piece, u64::MAX);
        self.end(now, piece, &[]);
        self.losses = 0;
        if let Some(path) = self.paths.get_mut(&path) {
            path.on_done(now);
        }
    }

    /// A piece ended early, and these parts of it are missing that nobody else is to bring.
    pub fn handle_lost(&mut self, now: Instant, piece: PieceId, why: Loss, missing: &[ByteRange]) {
        self.on_fact(now);
        let Some(ended) = self.end(now, piece, missing) else {
            return;
        };
        if let Some(owner) =
            ended.partner.filter(|_| ended.piece.hedge).and_then(|id| self.ledger.get_mut(id))
        {
            owner.settled = false; // somebody else may try
        }
        let Some(path) = self.paths.get_mut(&ended.piece.path) else {
            return;
        };
        match why {
            Loss::TakenBack if ended.piece.cutting.is_some() => return,
            Loss::Covered if missing.is_empty() => return,
            Loss::WrongDigest => path.on_fault(now, SCORE_MAX / 2),
            Loss::TakenBack | Loss::Covered | Loss::Path | Loss::GivenUp | Loss::TooLate | Loss::Other => {
                path.on_fault(now, 0);
            }
        }
        path.report.lost += 1;
        self.losses = self.losses.saturating_add(1);
    }

    /// A lease was not given, or a range not set aside.
    pub fn handle_refused(&mut self, now: Instant, piece: PieceId, why: Refusal) {
        self.on_fact(now);
        let Some(range) = self.ledger.get(piece).map(|known| known.range) else {
            return;
        };
        let Some(ended) = self.end(now, piece, &[range]) else {
            return;
        };
        let Some(path) = self.paths.get_mut(&ended.piece.path) else {
            return;
        };
        match why {
            Refusal::Busy => path.rest_for(now, REST_BUSY),
            Refusal::Silent => path.on_silent(),
            Refusal::Gone => path.standing = Standing::Gone,
            Refusal::Taken if ended.piece.hedge => {}
            Refusal::Taken => {
                path.rest_for(now, REST_FIRST);
                self.losses = self.losses.saturating_add(1);
            }
        }
    }

    /// A piece was cut: these parts of it were given back; none if it could not be cut.
    pub fn handle_cut(&mut self, now: Instant, piece: PieceId, given_back: &[ByteRange]) {
        self.on_fact(now);
        let Some(known) = self.ledger.get_mut(piece) else {
            return;
        };
        let (path, cutting) = (known.path, known.cutting.take());
        let less = self.ledger.cut(piece, given_back);
        if let Some(known) = self.ledger.get_mut(piece).filter(|_| less == 0) {
            known.uncut = true;
        }
        if let Some(path) = self.paths.get_mut(&path) {
            path.owed = path.owed.saturating_sub(less);
            path.leaving = path.leaving.saturating_sub(cutting.map_or(0, |cutting| cutting.bytes));
        }
        if let Some(cutting) = cutting {
            self.on_cut_over(cutting.thief, cutting.bytes);
        }
    }

    /// The client says that nothing comes of a piece at the moment, or that it does again. Its path gets nothing until
    /// then.
    pub fn handle_stalled(&mut self, now: Instant, piece: PieceId, stalled: bool) {
        self.on_fact(now);
        let Some(known) = self.ledger.get_mut(piece).filter(|known| known.stalled != stalled) else {
            return;
        };
        known.stalled = stalled;
        if let Some(path) = self.paths.get_mut(&known.path) {
            path.stalled = if stalled { path.stalled + 1 } else { path.stalled.saturating_sub(1) };
        }
    }

    /// The reader waits for bytes that nobody is to bring: these, as the primary's books have it.
    pub fn handle_gap(&mut self, now: Instant, holes: &[ByteRange]) {
        self.on_fact(now);
        for hole in holes {
            self.ledger.reopen(*hole);
        }
    }

    /// The reader takes the bytes in order, and servers have credit for `window` bytes beyond what it has taken.
    /// Without such a fact ranges are given out as if the reader had room for all. 64 KiB are always taken to be there.
    pub fn handle_window(&mut self, now: Instant, window: u64) {
        self.on_fact(now);
        self.window = Some(window.max(GUARANTEED_CREDIT));
    }

    /// A reader in order has taken every byte before `offset`.
    pub fn handle_read(&mut self, now: Instant, offset: u64) {
        self.on_fact(now);
        let before = self.read.map_or(0, |(read, _)| read);
        if self.read.is_none() {
            self.reader.begin(now);
        }
        if offset <= before {
            return;
        }
        // The time that a path waited for credit says nothing about the path.
        for path in self.paths.values_mut() {
            let first = path.queue.first().and_then(|(_, id)| self.ledger.get(*id));
            if first.is_some_and(|piece| {
                self.window.is_some_and(|window| piece.next() >= before.saturating_add(window))
            }) {
                path.meter.begin(now);
            }
        }
        self.reader.on_bytes(now, offset - before);
        self.read = Some((offset, now));
        // Bytes that it has taken have come, whoever has not told so yet.
        while let Some((piece, arrived)) = self.ledger.first_behind(offset) {
            self.handle_progress(now, piece, arrived);
        }
    }

    /// Bytes that came over a path were of no use, beside those that are counted here anyhow.
    pub fn handle_duplicate(&mut self, path: PathId, reason: DuplicateReason, bytes: u64) {
        if let Some(path) = self.paths.get_mut(&path) {
            let counted = path.report.duplicates.entry(reason).or_default();
            *counted = counted.saturating_add(bytes);
        }
        if reason == DuplicateReason::Hedge {
            self.doubled = self.doubled.saturating_add(bytes);
        }
    }

    /// Ends a piece in all books.
    fn end(&mut self, now: Instant, piece: PieceId, missing: &[ByteRange]) -> Option<Ended> {
        let ended = self.ledger.end(piece, missing)?;
        self.reserved.remove(&piece);
        let Ended { piece: known, wasted, doubled, .. } = &ended;
        let leaving = known.cutting.map_or(0, |cutting| cutting.bytes);
        if let Some(path) = self.paths.get_mut(&known.path) {
            path.on_ended(now, known.range.start(), piece, known.left());
            path.leaving = path.leaving.saturating_sub(leaving);
            path.stalled = path.stalled.saturating_sub(usize::from(known.stalled));
        }
        if let Some(cutting) = known.cutting {
            self.on_cut_over(cutting.thief, cutting.bytes);
        }
        let twice = [(DuplicateReason::Lost, *wasted), (DuplicateReason::Hedge, *doubled)];
        for (reason, bytes) in twice.into_iter().filter(|(_, bytes)| *bytes > 0) {
            self.handle_duplicate(known.path, reason, bytes);
        }
        Some(ended)
    }

    /// A cut is over: its bytes have come to the path that was to have them, or will not.
    fn on_cut_over(&mut self, thief: PathId, bytes: u64) {
        if let Some(thief) = self.paths.get_mut(&thief) {
            thief.incoming = thief.incoming.saturating_sub(bytes);
        }
    }
}
