//! The states of a path on the client, and the only moves between them. Spec: PROTOCOL §8.

use crate::error::ErrorCode;

/// Stages of a path's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be dialled, or the QUIC handshake is under way.
    Connecting,
    /// The ticket is shown; the server has not answered.
    Authenticating,
    /// Leases may be noticed.
    Active,
    /// Silent while bytes were due; packets make it active again.
    Degraded,
    /// Its leases go on, and no more come; then it ends with this code.
    Draining(ErrorCode),
    /// Gone for good.
    Dead(ErrorCode),
}

/// A move that the table below does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadMove;

impl State {
    /// The QUIC handshake is done and the server is who the primary said.
    pub(crate) fn on_handshake(&mut self) -> Result<(), BadMove> {
        self.step(&[Self::Connecting], Self::Authenticating)
    }

    /// The server has accepted the hello.
    pub(crate) fn on_hello(&mut self) -> Result<(), BadMove> {
        self.step(&[Self::Authenticating], Self::Active)
    }

    /// Nothing was heard for too long while bytes were due.
    pub(crate) fn on_silence(&mut self) -> Result<(), BadMove> {
        self.step(&[Self::Active], Self::Degraded)
    }

    /// A silent path was heard again.
    pub(crate) fn on_heard(&mut self) -> Result<(), BadMove> {
        self.step(&[Self::Degraded], Self::Active)
    }

    /// The primary wants it gone once its leases are over.
    pub(crate) fn on_drain(&mut self, code: ErrorCode) -> Result<(), BadMove> {
        self.step(&[Self::Active], Self::Draining(code))
    }

    /// The path is gone. Fails if it was before, so that its end is told once.
    pub(crate) fn on_end(&mut self, code: ErrorCode) -> Result<(), BadMove> {
        if !self.is_live() {
            return Err(BadMove);
        }
        *self = Self::Dead(code);
        Ok(())
    }

    /// Returns whether the path is not gone.
    pub(crate) const fn is_live(self) -> bool {
        !matches!(self, Self::Dead(_))
    }

    /// Returns whether its server fills leases.
    pub(crate) const fn is_serving(self) -> bool {
        matches!(self, Self::Active | Self::Draining(_))
    }

    /// Returns whether the path is on its way to being active for the first time.
    pub(crate) const fn is_attaching(self) -> bool {
        matches!(self, Self::Connecting | Self::Authenticating)
    }

    fn step(&mut self, from: &[Self], to: Self) -> Result<(), BadMove> {
        if !from.contains(self) {
            return Err(BadMove);
        }
        *self = to;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Move = fn(&mut State) -> Result<(), BadMove>;

    /// The whole graph: every move tried from every state. Spec: PROTOCOL §8.
    #[test]
    fn only_listed_moves() {
        let dead = State::Dead(ErrorCode::PATH_DEAD);
        let states = [
            State::Connecting,
            State::Authenticating,
            State::Active,
            State::Degraded,
            State::Draining(ErrorCode::NO_ERROR),
            dead,
        ];
        let moves: [(&str, Move); 6] = [
            ("handshake", State::on_handshake),
            ("hello", State::on_hello),
            ("silence", State::on_silence),
            ("heard", State::on_heard),
            ("drain", |state| state.on_drain(ErrorCode::NO_ERROR)),
            ("end", |state| state.on_end(ErrorCode::PATH_DEAD)),
        ];
        let is = |test: fn(State) -> bool| states.map(test);
        assert_eq!(is(State::is_attaching), [true, true, false, false, false, false]);
        assert_eq!(is(State::is_serving), [false, false, true, false, true, false]);
        assert_eq!(is(State::is_live), [true, true, true, true, true, false]);
        let mut edges = Vec::new();
        for from in states {
            for (name, step) in moves {
                let mut state = from;
                if step(&mut state).is_ok() {
                    edges.push(format!("{from:?} -{name}-> {state:?}"));
                } else {
                    assert_eq!(state, from, "a refused move changes nothing");
                }
            }
        }
        assert_eq!(
            edges,
            [
                "Connecting -handshake-> Authenticating",
                "Connecting -end-> Dead(PATH_DEAD)",
                "Authenticating -hello-> Active",
                "Authenticating -end-> Dead(PATH_DEAD)",
                "Active -silence-> Degraded",
                "Active -drain-> Draining(NO_ERROR)",
                "Active -end-> Dead(PATH_DEAD)",
                "Degraded -heard-> Active",
                "Degraded -end-> Dead(PATH_DEAD)",
                "Draining(NO_ERROR) -end-> Dead(PATH_DEAD)",
            ]
        );
    }
}
