//! Ed25519 seals: tickets that admit a client to a secondary, jobs that only a primary can make.
//!
//! It decides whether bytes were signed and still hold. It never reads a clock or draws a nonce: both are arguments.
//! Spec: PROTOCOL §5, §9.

use std::fmt;

use bytes::Bytes;
use ring::{
    digest,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::{
    id::{ByteRange, JobId, PathId, PublicKey, SessionId, Signature, SpkiHash, StreamId},
    limits::{CLOCK_SKEW, PATH_PINS_MAX, TICKET_LIFETIME, TICKET_MAX},
};

/// Each kind of signed message starts with its own words, so that none can stand for another.
const TICKET_DOMAIN: &[u8] = b"kwik/1 ticket\0";
const ATTACH_DOMAIN: &[u8] = b"kwik/1 attach\0";
const JOB_DOMAIN: &[u8] = b"kwik/1 job\0";

/// The first byte of a ticket.
const TICKET_VERSION: u8 = 3;
/// Bytes of the key that signed a ticket by which it is named: enough to tell keys apart that one server trusts.
const KEY_ID_LEN: usize = 8;
/// The name of a key in the tickets that it signs.
type KeyId = [u8; KEY_ID_LEN];
/// Bytes of a ticket before its audience: version, key id, session, path, client key, issued, expires, nonce.
const TICKET_HEAD: usize = 1 + KEY_ID_LEN + 16 + 4 + 32 + 8 + 8 + 16;
/// Bytes of the longest sealed ticket.
const TICKET_LEN_MAX: usize = TICKET_HEAD + 32 * PATH_PINS_MAX + 64;

const _: () = assert!(TICKET_LEN_MAX <= TICKET_MAX, "a ticket fits its field");

/// Signs with a key that never leaves it, so that an application may keep the key elsewhere.
///
/// It is asked while nothing of the session is locked ([`Question`](crate::Question)), and may use its handles. What tells the
/// client more about its session waits for the signature; bytes and what they need do not.
pub trait Signer: fmt::Debug + Send + Sync {
    /// Returns the public half of the key.
    fn public_key(&self) -> PublicKey;

    /// Returns the Ed25519 signature over `message` (RFC 8032, not prehashed).
    fn sign(&self, message: &[u8]) -> Signature;
}

/// An Ed25519 key in memory.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// Derives the key from its 32 secret bytes (RFC 8032 §5.1.5).
    #[expect(clippy::missing_panics_doc, reason = "neither length can differ")]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(&seed).expect("only the length is checked, and it is 32");
        let public = pair.public_key().as_ref().try_into().expect("an Ed25519 public key is 32 bytes");
        Self { pair, public: PublicKey::new(public) }
    }
}

impl Signer for SigningKey {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.pair.sign(message);
        Signature::new(signature.as_ref().try_into().expect("an Ed25519 signature is 64 bytes"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Returns the identity of the server that holds the certificate `cert_der`: the SHA-256 of its
/// `SubjectPublicKeyInfo`. `None` if it is no X.509 v3 certificate.
pub fn spki_hash(cert_der: &[u8]) -> Option<SpkiHash> {
    let cert_der = CertificateDer::from(cert_der);
    let cert = webpki::EndEntityCert::try_from(&cert_der).ok()?;
    let hash = digest::digest(&digest::SHA256, cert.subject_public_key_info().as_ref());
    hash.as_ref().try_into().ok().map(SpkiHash::new)
}

/// Returns whether `signature` over `message` was made with the secret half of `key`.
pub(crate) fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    UnparsedPublicKey::new(&ED25519, key.as_bytes()).verify(message, signature.as_bytes()).is_ok()
}

/// Returns what a client signs with its session key to show that a ticket is its own.
///
/// `exporter` is the TLS exporter of the connection the ticket is shown on (RFC 8446 §7.5): a signature for one
/// connection says nothing on another.
pub(crate) fn attach_message(exporter: &[u8; 32]) -> Vec<u8> {
    [ATTACH_DOMAIN, exporter].concat()
}

/// The keys of which a server may hold any: one, or several while they roll over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Audience {
    first: SpkiHash,
    /// Without holes.
    more: [Option<SpkiHash>; PATH_PINS_MAX - 1],
}

impl Audience {
    pub(crate) const fn new(key: SpkiHash) -> Self {
        Self { first: key, more: [None; PATH_PINS_MAX - 1] }
    }

    /// Adds a key, unless it is there; `None` if there is no room for it.
    pub(crate) fn with(mut self, key: SpkiHash) -> Option<Self> {
        if !self.contains(&key) {
            *self.more.iter_mut().find(|place| place.is_none())? = Some(key);
        }
        Some(self)
    }

    /// Returns those of `keys`; `None` if there are none, or too many.
    pub(crate) fn of(keys: impl IntoIterator<Item = SpkiHash>) -> Option<Self> {
        let mut keys = keys.into_iter();
        keys.next().map(Self::new).and_then(|first| keys.try_fold(first, Self::with))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SpkiHash> {
        std::iter::once(&self.first).chain(self.more.iter().flatten())
    }

    fn contains(&self, key: &SpkiHash) -> bool {
        self.iter().any(|known| known == key)
    }
}

/// Admits one client to one secondary for one path of one session, once. Spec: PROTOCOL §9.
///
/// Times are whole seconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) session: SessionId,
    pub(crate) path: PathId,
    /// The secondary's key, whichever of these it has.
    pub(crate) audience: Audience,
    /// The key that the client proves to have.
    pub(crate) client_key: PublicKey,
    pub(crate) issued: u64,
    pub(crate) expires: u64,
    pub(crate) nonce: [u8; 16],
}

crate::redact::debug_hiding!(Ticket { session, path, audience, client_key, issued, expires; nonce });

/// The path that a ticket is shown for, and who shows it to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) session: SessionId,
    pub(crate) path: PathId,
    /// The identities of this server.
    pub(crate) own: &'a [SpkiHash],
    pub(crate) client_key: &'a PublicKey,
}

impl Ticket {
    /// Returns the ticket's wire form, signed by a primary.
    ///
    /// The signature covers the domain and the body, and with it the version, the name of the key and how many keys the
    /// audience has.
    pub(crate) fn seal(&self, signer: &dyn Signer) -> Bytes {
        let mut sealed = self.encode(&key_id(&signer.public_key()));
        let signature = signer.sign(&[TICKET_DOMAIN, &sealed].concat());
        sealed.extend_from_slice(signature.as_bytes());
        Bytes::from(sealed)
    }

    /// Returns the body of a ticket that the key of this name signs.
    pub(crate) fn encode(&self, key: &KeyId) -> Vec<u8> {
        let mut body = Vec::with_capacity(TICKET_LEN_MAX);
        body.push(TICKET_VERSION);
        body.extend_from_slice(key);
        body.extend_from_slice(self.session.as_bytes());
        body.extend_from_slice(&self.path.into_inner().to_be_bytes());
        body.extend_from_slice(self.client_key.as_bytes());
        body.extend_from_slice(&self.issued.to_be_bytes());
        body.extend_from_slice(&self.expires.to_be_bytes());
        body.extend_from_slice(&self.nonce);
        self.audience.iter().for_each(|key| body.extend_from_slice(key.as_bytes()));
        body
    }

    /// Reads the body of a ticket, and the name of the key that is said to have signed it; `None` if its length or version
    /// is another.
    pub(crate) fn decode(body: &[u8]) -> Option<(KeyId, Self)> {
        let mut fields = Fields(body);
        if fields.take()? != [TICKET_VERSION] {
            return None;
        }
        let id = fields.take()?;
        let session = SessionId::new(fields.take()?);
        let path = PathId::new(u32::from_be_bytes(fields.take()?));
        let client_key = PublicKey::new(fields.take()?);
        let issued = u64::from_be_bytes(fields.take()?);
        let expires = u64::from_be_bytes(fields.take()?);
        let nonce = fields.take()?;
        let mut audience = Audience::new(SpkiHash::new(fields.take()?));
        while !fields.0.is_empty() {
            let key = SpkiHash::new(fields.take()?);
            // One that is named twice would be a second form of the same ticket.
            audience = audience.with(key).filter(|_| !audience.contains(&key))?;
        }
        Some((id, Self { session, path, audience, client_key, issued, expires, nonce }))
    }

    /// Returns the ticket and the one of `keys` that signed it, if it admits whoever has shown it at `now_unix`.
    ///
    /// Comparisons come first, then one signature, whatever was shown. Only a genuine ticket is judged by the clock, since
    /// that is told to the operator and to the peer. Whether it was shown before is [`Nonces`](super::nonces::Nonces)' to say.
    ///
    /// # Errors
    /// One of [`TicketError`]: the first that fails, the expiry last, so that
    /// [`Expired`](TicketError::Expired) says that a fresh ticket, or a clock that is right, is all that is missing.
    pub(crate) fn admit(
        sealed: &[u8],
        keys: &[PublicKey],
        now_unix: u64,
        shown: &Shown<'_>,
    ) -> Result<(Self, PublicKey), TicketError> {
        let unproved = Unproved::read(sealed, keys)?;
        unproved.ticket.check_place(shown)?;
        let (ticket, signer) = unproved.prove()?;
        ticket.check_time(now_unix)?;
        Ok((ticket, signer))
    }

    /// Returns the ticket and the key that signed it, if that is one of `keys`.
    ///
    /// # Errors
    /// - [`TicketError::Malformed`] if this is no ticket of this version.
    /// - [`TicketError::Untrusted`] if the key that it names is none of `keys`, or has not signed it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn open(sealed: &[u8], keys: &[PublicKey]) -> Result<(Self, PublicKey), TicketError> {
        Unproved::read(sealed, keys)?.prove()
    }

    /// Checks what the ticket says against where it is shown, and that it does not live too long.
    fn check_place(&self, shown: &Shown<'_>) -> Result<(), TicketError> {
        let lifetime_max = TICKET_LIFETIME.as_secs() + CLOCK_SKEW.as_secs();
        if !shown.own.iter().any(|key| self.audience.contains(key)) {
            return Err(TicketError::Audience);
        }
        if self.session != shown.session {
            return Err(TicketError::Session);
        }
        if self.path != shown.path {
            return Err(TicketError::Path);
        }
        if self.client_key != *shown.client_key {
            return Err(TicketError::ClientKey);
        }
        if self.expires.checked_sub(self.issued).is_none_or(|lifetime| lifetime > lifetime_max) {
            return Err(TicketError::Lifetime);
        }
        Ok(())
    }

    /// Checks what the ticket says against when it is shown.
    fn check_time(&self, now_unix: u64) -> Result<(), TicketError> {
        if self.issued > now_unix.saturating_add(CLOCK_SKEW.as_secs()) {
            return Err(TicketError::NotYetValid { ahead_s: self.issued - now_unix });
        }
        if now_unix > last_second(self.expires) {
            return Err(TicketError::Expired { late_s: now_unix.saturating_sub(self.expires) });
        }
        Ok(())
    }
}

/// Returns the bytes by which a key is named in the tickets that it signs.
fn key_id(key: &PublicKey) -> KeyId {
    let mut id = [0; KEY_ID_LEN];
    id.iter_mut().zip(key.as_bytes()).for_each(|(to, from)| *to = *from);
    id
}

/// A ticket as it came, whose signature nobody has looked at.
struct Unproved<'a> {
    ticket: Ticket,
    /// The trusted key that it names.
    signer: PublicKey,
    body: &'a [u8],
    signature: Signature,
}

impl<'a> Unproved<'a> {
    fn read(sealed: &'a [u8], keys: &[PublicKey]) -> Result<Self, TicketError> {
        let (body, signature) = sealed.split_last_chunk().ok_or(TicketError::Malformed)?;
        let (id, ticket) = Ticket::decode(body).ok_or(TicketError::Malformed)?;
        let signer = *keys.iter().find(|key| key_id(key) == id).ok_or(TicketError::Untrusted)?;
        Ok(Self { ticket, signer, body, signature: Signature::new(*signature) })
    }

    /// Looks at the signature.
    fn prove(self) -> Result<(Ticket, PublicKey), TicketError> {
        let message = [TICKET_DOMAIN, self.body].concat();
        if !verify(&self.signer, &message, &self.signature) {
            return Err(TicketError::Untrusted);
        }
        Ok((self.ticket, self.signer))
    }
}

/// Reason that a ticket does not admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TicketError {
    #[error("ticket is for another server")]
    Audience,
    #[error("ticket is for another client key")]
    ClientKey,
    #[error("ticket expired {late_s} s ago")]
    Expired { late_s: u64 },
    #[error("ticket lives too long or ends before it begins")]
    Lifetime,
    #[error("malformed ticket")]
    Malformed,
    #[error("ticket will be issued in {ahead_s} s")]
    NotYetValid { ahead_s: u64 },
    #[error("ticket is for another path")]
    Path,
    #[error("ticket is for another session")]
    Session,
    #[error("ticket is not signed by a trusted primary")]
    Untrusted,
}

impl TicketError {
    /// Tells the operator where clocks are the reason. Only the holder of a genuine ticket gets here, once per connection.
    pub(crate) fn tell(self, session: SessionId, path: PathId) {
        let allowed_s = CLOCK_SKEW.as_secs();
        match self {
            Self::NotYetValid { ahead_s } => tracing::warn!(
                %session, %path, ahead_s, allowed_s,
                "clock skew: the primary's clock is ahead of this server's"
            ),
            Self::Expired { late_s } => tracing::warn!(
                %session, %path, late_s, allowed_s,
                "clock skew: the ticket expired long ago, so the primary's clock is behind this server's, unless the client \
                 has shown an old ticket"
            ),
            Self::Audience
            | Self::ClientKey
            | Self::Lifetime
            | Self::Malformed
            | Self::Path
            | Self::Session
            | Self::Untrusted => {}
        }
    }
}

/// A job as its primary describes it to the secondary, by way of the client. Spec: PROTOCOL §5.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobClaims<'a> {
    pub(crate) session: SessionId,
    pub(crate) path: PathId,
    pub(crate) job: JobId,
    pub(crate) stream: StreamId,
    /// Range that leases of the job may lie in.
    pub(crate) range: ByteRange,
    /// Bytes that all leases of the job may have together.
    pub(crate) total: u64,
    /// End of the job, in seconds since the Unix epoch.
    pub(crate) expiry: u64,
    pub(crate) payload: &'a [u8],
}

impl JobClaims<'_> {
    /// Returns the primary's signature over all of it.
    pub(crate) fn seal(&self, signer: &dyn Signer) -> Signature {
        signer.sign(&self.message())
    }

    /// Returns whether `signature` over exactly these claims was made with the secret half of `key`.
    pub(crate) fn verify(&self, key: &PublicKey, signature: &Signature) -> bool {
        verify(key, &self.message(), signature)
    }

    /// Returns what is signed. Every field before the payload has a fixed length, so no two claims share a message.
    fn message(&self) -> Vec<u8> {
        let numbers = [
            self.job.into_inner(),
            self.stream.into_inner(),
            self.range.start(),
            self.range.end(),
            self.total,
            self.expiry,
        ];
        let mut message =
            [JOB_DOMAIN, self.session.as_bytes(), &self.path.into_inner().to_be_bytes()].concat();
        message.extend(numbers.into_iter().flat_map(u64::to_be_bytes));
        message.extend_from_slice(self.payload);
        message
    }
}

/// The part of a fixed layout that is not read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// Takes the next `N` bytes.
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

/// Returns the last second in which a ticket that expires at `expires` is admitted.
pub(super) const fn last_second(expires: u64) -> u64 {
    expires.saturating_add(CLOCK_SKEW.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorCode, PeerFault};

    const NOW: u64 = 1_800_000_000;
    const OWN: SpkiHash = SpkiHash::new([3; 32]);
    const CLIENT: PublicKey = PublicKey::new([4; 32]);
    const SESSION: SessionId = SessionId::new([1; 16]);
    const PATH: PathId = PathId::new(2);

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed([seed; 32])
    }

    fn ticket() -> Ticket {
        Ticket {
            session: SESSION,
            path: PATH,
            audience: Audience::new(OWN),
            client_key: CLIENT,
            issued: NOW,
            expires: NOW + 60,
            nonce: [5; 16],
        }
    }

    fn shown(own: &[SpkiHash]) -> Shown<'_> {
        Shown { session: SESSION, path: PATH, own, client_key: &CLIENT }
    }

    fn check(ticket: &Ticket, now: u64) -> Result<(), TicketError> {
        check_at(ticket, now, &[SpkiHash::new([9; 32]), OWN])
    }

    fn check_at(ticket: &Ticket, now: u64, own: &[SpkiHash]) -> Result<(), TicketError> {
        let admitted = Ticket::admit(&ticket.seal(&key(1)), &[key(1).public_key()], now, &shown(own));
        admitted.map(|admitted| assert_eq!(admitted, (*ticket, key(1).public_key())))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 8032 §7.1, test 1.
    #[test]
    fn signs_as_the_rfc_does() {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
            0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let key = SigningKey::from_seed(seed);
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
                         5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
        assert_eq!(hex(key.public_key().as_bytes()), public);
        assert_eq!(hex(key.sign(b"").as_bytes()), signature);
        assert!(!format!("{key:?}").contains("9d61"));
    }

    /// Spec: PROTOCOL §9.
    #[test]
    fn a_sealed_ticket_opens_under_the_key_that_sealed_it() {
        let sealed = ticket().seal(&key(1));
        assert_eq!(sealed.len(), TICKET_HEAD + 32 + 64);
        let keys = [key(2).public_key(), key(1).public_key()];
        assert_eq!(Ticket::open(&sealed, &keys), Ok((ticket(), key(1).public_key())));
        assert_eq!(Ticket::open(&sealed, &keys[..1]), Err(TicketError::Untrusted));
        assert_eq!(Ticket::open(&sealed, &[]), Err(TicketError::Untrusted));
    }

    /// However many keys a server trusts, a forged ticket costs it one signature at most. Spec: PROTOCOL §9.
    #[test]
    fn only_the_key_that_a_ticket_names_is_asked() {
        let keys = [key(2).public_key(), key(1).public_key()];
        let admit = |sealed: &[u8]| Ticket::admit(sealed, &keys, NOW, &shown(&[OWN]));
        // Signed by one that is trusted, in the name of another.
        let mut body = ticket().seal(&key(1));
        let mut renamed = body.split_to(TICKET_HEAD + 32).to_vec();
        renamed[1..=KEY_ID_LEN].copy_from_slice(&key_id(&keys[0]));
        let signature = key(1).sign(&[TICKET_DOMAIN, &renamed].concat());
        renamed.extend_from_slice(signature.as_bytes());
        assert_eq!(admit(&renamed), Err(TicketError::Untrusted));
        // A ticket for somebody else is refused before any signature is looked at, a late one after it.
        let forged = |ticket: Ticket| {
            let mut sealed = ticket.seal(&key(1)).to_vec();
            *sealed.last_mut().unwrap() ^= 1;
            sealed
        };
        let other = Ticket { path: PathId::new(8), ..ticket() };
        assert_eq!(admit(&forged(other)), Err(TicketError::Path));
        let expired = Ticket { issued: NOW - 100, expires: NOW - 40, ..ticket() };
        assert_eq!(admit(&forged(expired)), Err(TicketError::Untrusted));
        assert_eq!(admit(&expired.seal(&key(1))), Err(TicketError::Expired { late_s: 40 }));
    }

    /// Whichever of its keys a server has, the ticket is for it. Spec: PROTOCOL §9.
    #[test]
    fn a_ticket_may_be_for_any_of_a_few_keys() {
        let keys: Vec<SpkiHash> = (10..15).map(|byte| SpkiHash::new([byte; 32])).collect();
        assert_eq!(
            (Audience::of(keys[..0].iter().copied()), Audience::of(keys.iter().copied())),
            (None, None)
        );
        let ticket = Ticket { audience: Audience::of(keys[..4].iter().copied()).unwrap(), ..ticket() };
        let sealed = ticket.seal(&key(1));
        assert_eq!(sealed.len(), TICKET_LEN_MAX);
        assert_eq!(Ticket::open(&sealed, &[key(1).public_key()]), Ok((ticket, key(1).public_key())));
        for own in &keys[..4] {
            assert_eq!(check_at(&ticket, NOW, &[OWN, *own]), Ok(()));
        }
        assert_eq!(check_at(&ticket, NOW, &[OWN, keys[4]]), Err(TicketError::Audience));
        // Named twice, or not at all.
        for count in [0, 2, 5] {
            let mut body = sealed[..TICKET_HEAD].to_vec();
            (0..count).for_each(|_| body.extend_from_slice(OWN.as_bytes()));
            let signature = key(1).sign(&[TICKET_DOMAIN, &body].concat());
            body.extend_from_slice(signature.as_bytes());
            assert_eq!(Ticket::open(&body, &[key(1).public_key()]), Err(TicketError::Malformed));
        }
    }

    #[test]
    fn every_bit_of_a_ticket_counts() {
        let sealed = ticket().seal(&key(1));
        let keys = [key(1).public_key()];
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Ticket::open(&flipped, &keys).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert_eq!(Ticket::open(&sealed[..len], &keys), Err(TicketError::Malformed));
        }
        assert_eq!(Ticket::open(&[&sealed[..], &[0]].concat(), &keys), Err(TicketError::Malformed));
    }

    #[test]
    fn a_ticket_sealed_for_another_purpose_is_refused() {
        let sealed = ticket().seal(&key(1));
        let body = &sealed[..TICKET_HEAD + 32];
        for domain in [&b""[..], JOB_DOMAIN, ATTACH_DOMAIN] {
            let signature = key(1).sign(&[domain, body].concat());
            let forged = [body, signature.as_bytes()].concat();
            assert_eq!(Ticket::open(&forged, &[key(1).public_key()]), Err(TicketError::Untrusted));
        }
    }

    /// Spec: PROTOCOL §9.
    #[test]
    fn each_claim_is_checked() {
        let ok = ticket();
        for now in [NOW - 5, NOW, NOW + 65] {
            assert_eq!(check(&ok, now), Ok(()));
        }
        assert_eq!(check(&ok, NOW + 66), Err(TicketError::Expired { late_s: 6 }));
        assert_eq!(check(&ok, u64::MAX), Err(TicketError::Expired { late_s: u64::MAX - NOW - 60 }));
        let early = TicketError::NotYetValid { ahead_s: 6 };
        assert_eq!(check(&Ticket { issued: NOW + 6, expires: NOW + 66, ..ok }, NOW), Err(early));
        let cases = [
            (TicketError::Lifetime, Ticket { expires: NOW + 66, ..ok }),
            (TicketError::Lifetime, Ticket { expires: NOW - 1, ..ok }),
            (TicketError::Lifetime, Ticket { issued: 0, expires: u64::MAX, ..ok }),
            (TicketError::Audience, Ticket { audience: Audience::new(SpkiHash::new([8; 32])), ..ok }),
            (TicketError::Session, Ticket { session: SessionId::new([8; 16]), ..ok }),
            (TicketError::Path, Ticket { path: PathId::new(8), ..ok }),
            (TicketError::ClientKey, Ticket { client_key: PublicKey::new([8; 32]), ..ok }),
        ];
        for (error, ticket) in cases {
            assert_eq!(check(&ticket, NOW), Err(error));
            assert_eq!(PeerFault::from(error).code(), ErrorCode::AUTH_FAILED);
        }
        assert_eq!(check(&Ticket { expires: NOW + 65, ..ok }, NOW), Ok(()));
        assert_eq!(PeerFault::from(TicketError::Expired { late_s: 6 }).code(), ErrorCode::TICKET_EXPIRED);
        assert_eq!(PeerFault::from(early).code(), ErrorCode::CLOCK_SKEW);
        assert_eq!(PeerFault::from(TicketError::Untrusted).code(), ErrorCode::AUTH_FAILED);
        assert_eq!(PeerFault::from(TicketError::Malformed).code(), ErrorCode::AUTH_FAILED);
        assert_eq!(check_at(&ok, NOW, &[]), Err(TicketError::Audience));
    }

    #[test]
    fn a_proof_is_for_one_connection_only() {
        let client = key(4);
        let proof = client.sign(&attach_message(&[1; 32]));
        assert!(verify(&client.public_key(), &attach_message(&[1; 32]), &proof));
        assert!(!verify(&client.public_key(), &attach_message(&[2; 32]), &proof));
        assert!(!verify(&key(5).public_key(), &attach_message(&[1; 32]), &proof));
        assert!(attach_message(&[1; 32]).starts_with(b"kwik/1 attach\0\x01"));
    }

    /// Spec: PROTOCOL §5.
    #[test]
    fn a_job_seal_covers_every_field() {
        let (signer, payload) = (key(1), *b"movie");
        let claims = JobClaims {
            session: SESSION,
            path: PATH,
            job: JobId::new(7),
            stream: StreamId::from_u64(4).unwrap(),
            range: ByteRange::new(100, 50).unwrap(),
            total: 80,
            expiry: NOW,
            payload: &payload,
        };
        let seal = claims.seal(&signer);
        assert!(claims.verify(&signer.public_key(), &seal));
        assert!(!claims.verify(&key(2).public_key(), &seal));
        let others = [
            JobClaims { session: SessionId::new([0; 16]), ..claims },
            JobClaims { path: PathId::new(3), ..claims },
            JobClaims { job: JobId::new(8), ..claims },
            JobClaims { stream: StreamId::from_u64(5).unwrap(), ..claims },
            JobClaims { range: ByteRange::between(99, 150).unwrap(), ..claims },
            JobClaims { range: ByteRange::between(100, 151).unwrap(), ..claims },
            JobClaims { total: 81, ..claims },
            JobClaims { expiry: NOW + 1, ..claims },
            JobClaims { payload: b"Movie", ..claims },
            JobClaims { payload: b"movie\0", ..claims },
            JobClaims { payload: b"", ..claims },
        ];
        for other in others {
            assert!(!other.verify(&signer.public_key(), &seal), "{other:?}");
        }
        for bit in 0..512 {
            let mut flipped = *seal.as_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!claims.verify(&signer.public_key(), &Signature::new(flipped)), "bit {bit}");
        }
    }

    #[test]
    fn the_identity_of_a_certificate_is_its_key() {
        let issue = |key: &rcgen::KeyPair, name: &str| {
            let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
            params.self_signed(key).unwrap().der().to_vec()
        };
        let (key, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let hash = spki_hash(&issue(&key, "a.example")).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        assert_eq!(hash.as_bytes(), digest::digest(&digest::SHA256, &spki).as_ref());
        assert_eq!(spki_hash(&issue(&key, "b.example")), Some(hash));
        assert_ne!(spki_hash(&issue(&other, "a.example")), Some(hash));
        assert_eq!(spki_hash(b"no certificate"), None);
        assert_eq!(spki_hash(&[]), None);
    }
}
