//! Connection ids and keys drawn from the endpoint's own randomness, never from the operating system. Spec: RATIONALE §13.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn_proto::{ConnectionId, ConnectionIdGenerator, TimeSource};
use ring::{hkdf, hmac};

use crate::rng::Rng;

/// Length of the ids we choose: unguessable enough, and eight fixed bytes route a datagram.
const CID_LEN: usize = 8;

/// Draws connection ids from a seeded generator.
#[derive(Debug)]
pub(super) struct SeededCids(pub(super) Rng);

impl ConnectionIdGenerator for SeededCids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.bytes::<CID_LEN>())
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The key of stateless resets.
pub(super) fn reset_key(key: &[u8; 32]) -> Arc<dyn quinn_proto::crypto::HmacKey> {
    Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key))
}

/// The key of address tokens.
pub(super) fn token_key(rng: &mut Rng) -> Arc<dyn quinn_proto::crypto::HandshakeTokenKey> {
    Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&rng.bytes::<32>()))
}

/// Age of the endpoint when it was last told the time, for quinn-proto's address tokens (RFC 9000 §8.1).
///
/// Their key is the endpoint's own, so none outlives it, and nobody else reads what they say. So they need no wall clock,
/// which may be set anew between a Retry and the answer to it.
#[derive(Debug, Default)]
pub(crate) struct TokenClock(AtomicU64);

impl TokenClock {
    /// Sets the time since the endpoint was created; the fraction of a second is dropped, tokens do not need it.
    pub(crate) fn set(&self, age: Duration) {
        self.0.store(age.as_secs(), Ordering::Relaxed);
    }
}

impl TimeSource for TokenClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}
