//! The replay store of tickets: each is good once.
//!
//! It remembers what was used for as long as it could be used again. It never reads a clock. Spec: PROTOCOL §9.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use thiserror::Error;

use super::ticket::last_second;
use crate::{id::PublicKey, limits::NONCES_MAX};

/// The nonces of the tickets a secondary has admitted, each until its ticket cannot be admitted any more.
///
/// At most [`NONCES_MAX`] for each key that signs tickets, so that the clients of one primary take no room from those of
/// another. Every operation costs O(log n), amortised, and a look at each key.
#[derive(Default)]
pub(crate) struct Nonces {
    shares: BTreeMap<PublicKey, Share>,
    /// The latest of the last seconds forgotten.
    forgotten: u64,
}

/// The nonces of tickets that one key has signed.
#[derive(Default)]
struct Share {
    seen: BTreeSet<[u8; 16]>,
    /// The last second in which each nonce could be admitted again, with the nonces.
    last_seconds: BTreeMap<u64, Vec<[u8; 16]>>,
}

impl Nonces {
    /// Remembers `nonce` of a ticket of `signer` that has passed [`Ticket::admit`](super::ticket::Ticket::admit), and forgets those past their time.
    ///
    /// # Errors
    /// - [`NonceError::Replayed`] if it was seen, or is so old that it could have been: the clock went back.
    /// - [`NonceError::Full`] if there is no room for it; refusing is all that is safe.
    pub(crate) fn insert(
        &mut self,
        signer: PublicKey,
        nonce: [u8; 16],
        expires: u64,
        now: u64,
    ) -> Result<(), NonceError> {
        for share in self.shares.values_mut() {
            self.forgotten = self.forgotten.max(share.forget_before(now));
        }
        self.shares.retain(|_, share| !share.seen.is_empty());
        let last_second = last_second(expires);
        if last_second <= self.forgotten {
            return Err(NonceError::Replayed);
        }
        self.shares.entry(signer).or_default().insert(nonce, last_second)
    }

    /// Nonces remembered, for all keys.
    fn len(&self) -> usize {
        self.shares.values().map(|share| share.seen.len()).sum()
    }
}

impl Share {
    fn insert(&mut self, nonce: [u8; 16], last_second: u64) -> Result<(), NonceError> {
        if self.seen.contains(&nonce) {
            return Err(NonceError::Replayed);
        }
        if self.seen.len() >= NONCES_MAX {
            return Err(NonceError::Full);
        }
        self.seen.insert(nonce);
        self.last_seconds.entry(last_second).or_default().push(nonce);
        Ok(())
    }

    /// Drops the nonces whose tickets could last be admitted before `now`; returns the latest of these seconds, or 0.
    fn forget_before(&mut self, now: u64) -> u64 {
        let mut forgotten = 0;
        while let Some(oldest) = self.last_seconds.first_entry() {
            if *oldest.key() >= now {
                break;
            }
            let (second, nonces) = oldest.remove_entry();
            forgotten = second;
            for nonce in nonces {
                self.seen.remove(&nonce);
            }
        }
        forgotten
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonces").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The reason that a nonce was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NonceError {
    #[error("too many tickets at once")]
    Full,
    #[error("ticket was used before")]
    Replayed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorCode, PeerFault};

    const NOW: u64 = 1_800_000_000;

    fn key(seed: u8) -> PublicKey {
        PublicKey::new([seed; 32])
    }

    /// Spec: PROTOCOL §9.
    #[test]
    fn a_nonce_is_taken_once_while_its_ticket_lives() {
        let mut nonces = Nonces::default();
        let mut insert = |nonce, expires, now| nonces.insert(key(1), [nonce; 16], expires, now);
        assert_eq!(insert(1, NOW + 60, NOW), Ok(()));
        assert_eq!(insert(2, NOW + 10, NOW), Ok(()));
        assert_eq!(insert(1, NOW + 60, NOW + 65), Err(NonceError::Replayed));
        assert_eq!(insert(3, NOW + 130, NOW + 70), Ok(()));
        assert_eq!(insert(1, NOW + 60, NOW), Err(NonceError::Replayed), "the clock went back");
        assert_eq!(insert(4, NOW + 61, NOW), Ok(()));
        let share = &nonces.shares[&key(1)];
        assert_eq!((share.seen.len(), share.last_seconds.len()), (2, 2));
        assert_eq!(PeerFault::from(NonceError::Replayed).code(), ErrorCode::AUTH_FAILED);
    }

    /// Spec: PROTOCOL §9.
    #[test]
    fn a_full_share_refuses_until_nonces_expire_and_is_nobody_elses() {
        let nonce = |i: usize| (i as u128).to_be_bytes();
        let [busy, other] = [1, 2].map(key);
        let mut nonces = Nonces::default();
        for i in 0..NONCES_MAX {
            assert_eq!(nonces.insert(busy, nonce(i), NOW + 60 + (i % 2) as u64, NOW), Ok(()));
        }
        assert_eq!(nonces.insert(busy, nonce(NONCES_MAX), NOW + 60, NOW + 65), Err(NonceError::Full));
        assert_eq!(PeerFault::from(NonceError::Full).code(), ErrorCode::EXCESSIVE_LOAD);
        assert_eq!(nonces.insert(busy, nonce(0), NOW + 60, NOW + 65), Err(NonceError::Replayed));
        // Neither its room nor its nonces are another primary's.
        assert_eq!(nonces.insert(other, nonce(0), NOW + 60, NOW + 65), Ok(()));
        assert_eq!(nonces.insert(other, nonce(0), NOW + 60, NOW + 65), Err(NonceError::Replayed));
        assert_eq!(nonces.insert(busy, nonce(NONCES_MAX), NOW + 90, NOW + 66), Ok(()));
        assert_eq!(nonces.len(), NONCES_MAX / 2 + 1);
        assert_eq!(format!("{nonces:?}"), format!("Nonces {{ len: {}, .. }}", NONCES_MAX / 2 + 1));
        // Of a key that signs no more nothing is left.
        assert_eq!(nonces.insert(other, nonce(1), NOW + 200, NOW + 150), Ok(()));
        assert_eq!(nonces.shares.keys().collect::<Vec<_>>(), [&other]);
        assert_eq!(
            nonces.insert(busy, nonce(0), NOW + 60, NOW),
            Err(NonceError::Replayed),
            "the clock went back"
        );
    }
}
