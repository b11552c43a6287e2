//! Seals of relayed messages, and the check that each counts once.
//!
//! The client carries relays and may drop them, hold them back, or say them again; it cannot make or change one that is
//! sealed. Spec: PROTOCOL §9.

use super::ticket::{Signer, verify};
use crate::id::{PathId, PublicKey, SessionId, Signature};

/// No other kind of signed message starts with these words.
const DOMAIN: &[u8] = b"kwik/1 relay\0";

/// Direction of a relay. Part of what is sealed, so that none can be sent back to where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToPrimary,
    ToSecondary,
}

/// Fields that the sender of a relay vouches for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayClaims<'a> {
    pub(crate) session: SessionId,
    pub(crate) path: PathId,
    pub(crate) direction: Direction,
    pub(crate) id: u64,
    pub(crate) payload: &'a [u8],
}

impl RelayClaims<'_> {
    /// Returns the sender's signature over all of it.
    pub(crate) fn seal(&self, signer: &dyn Signer) -> Signature {
        signer.sign(&self.message())
    }

    /// Returns whether `signature` over exactly these claims was made with the secret half of `key`.
    pub(crate) fn verify(&self, key: &PublicKey, signature: &Signature) -> bool {
        verify(key, &self.message(), signature)
    }

    /// Every field before the payload has a fixed length, so no two claims share a message.
    fn message(&self) -> Vec<u8> {
        let direction = match self.direction {
            Direction::ToPrimary => 0,
            Direction::ToSecondary => 1,
        };
        [
            DOMAIN,
            self.session.as_bytes(),
            &self.path.into_inner().to_be_bytes(),
            &[direction],
            &self.id.to_be_bytes(),
            self.payload,
        ]
        .concat()
    }
}

/// Ids of one sender's relays that have come, so that none counts twice. They may come in any order, but one that is
/// [`WINDOW`] behind the latest is taken for one that has come (as in RFC 4303 §3.4.3).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Once {
    /// One above the highest id seen.
    next: u64,
    /// Bit n: `next - 1 - n` has been seen.
    seen: u128,
}

/// Ids below the highest that are told apart: more than a sender has under way.
pub(crate) const WINDOW: u64 = u128::BITS as u64;

impl Once {
    /// Returns whether an id has been noted, or is too old to tell.
    pub(crate) fn contains(&self, id: u64) -> bool {
        !Self::insert(&mut self.clone(), id)
    }

    /// Notes an id; returns whether it is new.
    pub(crate) fn insert(&mut self, id: u64) -> bool {
        let Some(above) = id.checked_add(1) else {
            return false; // nothing could follow it
        };
        if above > self.next {
            let ahead = u32::try_from(above - self.next).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.next = above;
            return true;
        }
        let behind = self.next - above;
        let Some(bit) = u32::try_from(behind).ok().and_then(|behind| 1_u128.checked_shl(behind)) else {
            return false;
        };
        let fresh = self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::ticket::SigningKey;

    #[test]
    fn a_relay_counts_once_in_whatever_order() {
        let mut once = Once::default();
        for id in [5, 3, 0, 131, 4, 130] {
            assert!(!once.contains(id) && once.insert(id) && once.contains(id), "{id}");
        }
        for id in [5, 3, 131, 4, 130] {
            assert!(!once.insert(id), "{id} again");
        }
        assert!(!once.insert(2), "too far behind to tell");
        assert!(once.insert(u64::MAX - 1) && !once.insert(u64::MAX - 1));
        assert!(!once.insert(u64::MAX));
        assert!(!once.insert(131));
    }

    proptest::proptest! {
        #[test]
        fn never_twice_and_never_lost_within_the_window(ids in proptest::collection::vec(0_u64..400, 0..200)) {
            let (mut once, mut seen) = (Once::default(), std::collections::BTreeSet::new());
            for id in ids {
                let highest = seen.last().copied().unwrap_or(0).max(id);
                let fresh = seen.insert(id);
                let told = once.insert(id);
                proptest::prop_assert!(!told || fresh);
                proptest::prop_assert!(told == fresh || highest - id >= WINDOW);
            }
        }
    }

    #[test]
    fn a_seal_covers_every_field() {
        let key = SigningKey::from_seed([3; 32]);
        let claims = RelayClaims {
            session: SessionId::new([1; 16]),
            path: PathId::new(2),
            direction: Direction::ToSecondary,
            id: 7,
            payload: b"words",
        };
        let seal = claims.seal(&key);
        assert!(claims.verify(&key.public_key(), &seal));
        for forged in [
            RelayClaims { session: SessionId::new([2; 16]), ..claims },
            RelayClaims { path: PathId::new(3), ..claims },
            RelayClaims { direction: Direction::ToPrimary, ..claims },
            RelayClaims { id: 8, ..claims },
            RelayClaims { payload: b"worts", ..claims },
        ] {
            assert!(!forged.verify(&key.public_key(), &seal), "{forged:?}");
        }
        assert!(!claims.verify(&SigningKey::from_seed([4; 32]).public_key(), &seal));
    }
}
