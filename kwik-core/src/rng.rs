//! The core's only source of random bytes: a seeded stream. It never asks the system for entropy.

use std::fmt;

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

/// A deterministic generator fit for secrets, as long as its seed is secret and used once.
pub(crate) struct Rng(ChaCha20Rng);

impl Rng {
    /// Starts the stream that `seed` names.
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// Returns the next `N` bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Returns a child whose bytes tell nothing about this generator's or another child's.
    ///
    /// `label` says what the child is for: two labels give two streams even from the same state.
    pub(crate) fn fork(&mut self, label: &str) -> Self {
        let mut child = Self::from_seed(self.bytes());
        child.0.set_stream(fnv1a(label.as_bytes()));
        child
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng(…)")
    }
}

/// Returns the 64-bit FNV-1a hash of `bytes`: it only tells labels apart, the seed carries the secret.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_bytes() {
        let draw = |seed: u8, label| {
            let mut rng = Rng::from_seed([seed; 32]);
            (rng.fork(label).bytes::<16>(), rng.bytes::<16>())
        };
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a").0, draw(1, "b").0, "labels separate");
        assert_eq!(draw(1, "a").1, draw(1, "b").1, "labels leave the parent alone");
        assert_ne!(draw(1, "a"), draw(2, "a"));
        let mut rng = Rng::from_seed([1; 32]);
        assert_ne!(rng.fork("a").bytes::<16>(), rng.fork("a").bytes::<16>(), "each fork is new");
        assert_eq!(format!("{rng:?}"), "Rng(…)");
    }
}
