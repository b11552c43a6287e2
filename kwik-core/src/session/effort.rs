//! Work that peers make a session do, counted for its audit (feature `audit`); otherwise nothing is, and nothing kept.

/// Work that the peers of a session have made it do so far; simulators hold it against the bounds of PROTOCOL §11.
#[cfg(any(test, fuzzing, feature = "audit"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Effort {
    /// Control frames that were looked at.
    pub frames_in: u64,
    /// Control frames that were sent.
    pub frames_out: u64,
    /// Decisions that were carried out, of which an event for the application is one, whether it waited already or not.
    pub actions: u64,
    /// Signatures of jobs and messages that were verified; those of hellos are counted by connections.
    pub verifications: u64,
    /// Events that waited for the application at once, at most.
    pub events_max: usize,
    /// Control frames that the peer that spent most was short of a full burst, at most.
    pub spent_max: u64,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Tally {
    #[cfg(any(test, fuzzing, feature = "audit"))]
    effort: Effort,
}

#[cfg(any(test, fuzzing, feature = "audit"))]
impl Tally {
    pub(super) fn effort(&self) -> Effort {
        self.effort
    }

    /// A frame was acted on, whose sender is `spent` frames short of a burst; `events` wait.
    pub(super) fn on_frame(&mut self, spent: u64, events: usize) {
        self.effort.frames_in += 1;
        self.effort.spent_max = self.effort.spent_max.max(spent);
        self.effort.events_max = self.effort.events_max.max(events);
    }

    pub(super) fn on_send(&mut self) {
        self.effort.frames_out += 1;
    }

    pub(super) fn on_action(&mut self) {
        self.effort.actions += 1;
    }

    /// A signature was verified; returns whether it was `right`.
    pub(super) fn verified(&mut self, right: bool) -> bool {
        self.effort.verifications += 1;
        right
    }
}

#[cfg(not(any(test, fuzzing, feature = "audit")))]
impl Tally {
    pub(super) fn on_frame(&mut self, _spent: u64, _events: usize) {}

    pub(super) fn on_send(&mut self) {}

    pub(super) fn on_action(&mut self) {}

    pub(super) fn verified(&mut self, right: bool) -> bool {
        right
    }
}
