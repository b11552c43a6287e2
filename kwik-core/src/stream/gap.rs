//! A hole that the reader waits for and nobody seems to fill: asked about, disowned, and at last told to the reader.
//! Spec: PROTOCOL §6, "Gaps".

use std::time::{Duration, Instant};

use crate::limits;

/// One such hole, known by the offset the reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    from: u64,
    since: Instant,
    stage: Stage,
    /// Instant at which something is to be done about it.
    at: Instant,
    /// The reader is to be told, and has not been yet.
    untold: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Just seen. Most holes are filled before anybody need ask.
    Noticed,
    /// The primary was asked, and has not said that nobody fills it.
    Asked,
    /// Nobody fills it.
    Disowned,
}

/// Step to take about a gap now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Wait,
    /// Ask the primary who fills it.
    Ask,
    /// Tell the reader.
    Tell,
}

impl Gap {
    pub(crate) fn new(now: Instant, from: u64) -> Self {
        Self { from, since: now, stage: Stage::Noticed, at: now + limits::STALL_MIN, untold: false }
    }

    /// The offset that is missing.
    pub(crate) const fn from(&self) -> u64 {
        self.from
    }

    /// Instant at which it was first seen.
    pub(crate) const fn since(&self) -> Instant {
        self.since
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.at
    }

    /// The primary answered. What is `owned` is on its way; what is not has `patience` to find somebody.
    pub(crate) fn on_answer(&mut self, now: Instant, owned: bool, patience: Duration) {
        match self.stage {
            Stage::Asked if owned => self.at = now + limits::GAP_ASK_AGAIN,
            Stage::Asked => (self.stage, self.at) = (Stage::Disowned, now + patience),
            Stage::Noticed | Stage::Disowned => {} // nobody asked
        }
    }

    /// Returns once per time that the reader is to be told.
    pub(crate) fn take_untold(&mut self) -> bool {
        std::mem::take(&mut self.untold)
    }

    /// Decides, and remembers that it did.
    pub(crate) fn due(&mut self, now: Instant, patience: Duration) -> Due {
        if now < self.at {
            return Due::Wait;
        }
        match self.stage {
            Stage::Noticed | Stage::Asked => {
                (self.stage, self.at) = (Stage::Asked, now + limits::GAP_ASK_AGAIN);
                Due::Ask
            }
            Stage::Disowned => {
                self.at = now + patience; // once per time, for as long as the reader goes on asking
                self.untold = true;
                Due::Tell
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn epoch() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_reader_is_told_only_of_what_was_disowned() {
        let start = epoch();
        let mut gap = Gap::new(start, 7);
        assert_eq!(gap.due(start, PATIENCE), Due::Wait);
        let asked = gap.deadline();
        assert_eq!(gap.due(asked, PATIENCE), Due::Ask);
        gap.on_answer(asked, true, PATIENCE);
        let again = gap.deadline();
        assert_eq!(again, asked + limits::GAP_ASK_AGAIN);
        assert_eq!(gap.due(again, PATIENCE), Due::Ask, "owned, and still not here");
        gap.on_answer(again, false, PATIENCE);
        gap.on_answer(again, true, PATIENCE);
        assert_eq!(gap.due(again + PATIENCE - Duration::from_millis(1), PATIENCE), Due::Wait);
        assert!(!gap.take_untold());
        assert_eq!(gap.due(again + PATIENCE, PATIENCE), Due::Tell);
        assert!(gap.take_untold() && !gap.take_untold(), "once");
        assert_eq!(gap.deadline(), again + PATIENCE * 2);
    }

    #[test]
    fn an_answer_that_stays_away_is_asked_for_again() {
        let start = epoch();
        let mut gap = Gap::new(start, 7);
        for n in 0..3 {
            let at = start + limits::STALL_MIN + limits::GAP_ASK_AGAIN * n;
            assert_eq!(gap.deadline(), at);
            assert_eq!(gap.due(at, PATIENCE), Due::Ask);
        }
    }
}
