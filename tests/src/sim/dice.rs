//! Source of a world's choices: one stream per purpose, so that a new draw in one moves no other.

use std::{fmt, time::Duration};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

/// A seeded stream of choices.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Returns the stream that `seed` has for `purpose`.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(ChaCha8Rng::from_seed(derive(seed, purpose)))
    }

    /// Returns a number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of the remainder is below 2^-20 for every bound in use, and nobody bets on it.
        self.0.next_u64() % bound.max(1)
    }

    /// Returns a number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// Returns a number in `low..=high` of which every order of magnitude is as likely as the next.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let octaves = (high.max(1) / low.max(1)).max(1).ilog2();
        let top = low.max(1) << self.below(u64::from(octaves) + 1);
        self.between(low, top.saturating_mul(2).min(high))
    }

    /// Returns a duration between `low` and `high`.
    pub fn time(&mut self, low: Duration, high: Duration) -> Duration {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.between(nanos(low), nanos(high)))
    }

    /// Returns `true` `thousandths` times in a thousand.
    pub fn chance(&mut self, thousandths: u16) -> bool {
        thousandths > 0 && self.below(1000) < u64::from(thousandths)
    }

    /// Returns one of `choices`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = usize::try_from(self.below(choices.len() as u64)).unwrap_or_default();
        *choices.get(index).expect("something to choose from")
    }

    /// Returns an index below `len`; 0 if `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or_default()
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

impl fmt::Debug for Dice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dice(…)")
    }
}

/// Returns 32 bytes that `seed` has for `purpose`.
#[must_use]
pub fn derive(seed: u64, purpose: &str) -> [u8; 32] {
    blake3::Hasher::new_derive_key(purpose).update(&seed.to_le_bytes()).finalize().into()
}
