//! The first words on a server: who is this client, and which role does it want us in. Spec: PROTOCOL §4, §9.

#[cfg(any(test, fuzzing))]
mod fuzzing;

#[cfg(any(test, fuzzing))]
pub use fuzzing::hello;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use super::{primary::Primary, secondary::Secondary};
use crate::{
    config::ServerConfig,
    error::PeerFault,
    id::{PathId, PublicKey, SessionId},
    lease::{
        nonces::NonceError,
        ticket::{self, Shown, Ticket},
    },
    limits,
    rng::Rng,
    wire::{Attach, ClientHello, Features, ServerHello},
};

/// A server that has not decided yet.
#[derive(Debug)]
pub(super) struct Greeting {
    config: Arc<ServerConfig>,
    rng: Rng,
    deadline: Instant,
    /// A secondary hello that only waits for the endpoint to say that its ticket is new.
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    session: SessionId,
    path: PathId,
    primary: PublicKey,
    /// Features that the client knows.
    features: Features,
}

/// Answer to a hello.
#[derive(Debug)]
pub(super) enum Welcome {
    /// Be the primary of a new session.
    Primary(Primary, ServerHello),
    /// Ask the endpoint whether the ticket is shown for the first time.
    AskNonce {
        signer: PublicKey,
        nonce: [u8; 16],
        expires: u64,
        now: u64,
    },
    Refuse(PeerFault),
}

impl Greeting {
    pub(super) fn new(now: Instant, rng: Rng, config: Arc<ServerConfig>) -> Self {
        let deadline = now + config.transport.hello_timeout;
        Self { config, rng, deadline, pending: None }
    }

    /// Handshake and hello must be done by then.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The hello arrived, when the wall clock said `unix`; `exporter` is what both ends of the connection alone know.
    pub(super) fn on_hello(
        &mut self,
        now: Instant,
        unix: u64,
        hello: ClientHello,
        exporter: Option<[u8; 32]>,
    ) -> Welcome {
        if self.pending.is_some() {
            return Welcome::Refuse(PeerFault::HelloAgain);
        }
        if hello.version != limits::VERSION {
            return Welcome::Refuse(PeerFault::HelloVersion);
        }
        let checked = match hello.attach {
            Some(attach) => self.check_attach(unix, &hello.client_key, hello.features, &attach, exporter),
            None => self.welcome_primary(now, &hello),
        };
        checked.unwrap_or_else(Welcome::Refuse)
    }

    fn welcome_primary(&mut self, now: Instant, hello: &ClientHello) -> Result<Welcome, PeerFault> {
        let signer = self.config.primary.clone().ok_or(PeerFault::RoleNotServed)?;
        let app_protocol = self.choose_protocol(&hello.app_protocols)?;
        let primary = Primary::new(
            now,
            signer,
            self.rng.fork("primary"),
            hello.client_key,
            hello.features,
            hello.split_streams_max,
            self.config.transport.secondary_paths_max,
        );
        let answer = ServerHello {
            version: limits::VERSION,
            features: Features::OFFERED,
            session: primary.session(),
            app_protocol,
        };
        Ok(Welcome::Primary(primary, answer))
    }

    /// The server's preference decides, as in TLS. One that names protocols speaks no other, and who offers none gets none.
    fn choose_protocol(&self, offered: &[Bytes]) -> Result<Option<Bytes>, PeerFault> {
        let ours = self.config.app_protocols();
        if ours.is_empty() {
            return Ok(None);
        }
        ours.iter().find(|name| offered.contains(name)).cloned().map(Some).ok_or(PeerFault::ProtocolUnknown)
    }

    /// The ticket must be for this client, this server and now; the client must hold the key it names.
    fn check_attach(
        &mut self,
        now_unix: u64,
        client_key: &PublicKey,
        features: Features,
        attach: &Attach,
        exporter: Option<[u8; 32]>,
    ) -> Result<Welcome, PeerFault> {
        let config = self.config.secondary.as_ref().ok_or(PeerFault::RoleNotServed)?;
        let shown = Shown { session: attach.session, path: attach.path, own: &config.identities, client_key };
        let (ticket, primary) =
            Ticket::admit(&attach.ticket, &config.primaries, now_unix, &shown).map_err(|error| {
                error.tell(attach.session, attach.path);
                PeerFault::from(error)
            })?;
        let exporter = exporter.ok_or(PeerFault::NoExporter)?;
        if !ticket::verify(client_key, &ticket::attach_message(&exporter), &attach.proof) {
            return Err(PeerFault::ProofWrong);
        }
        self.pending = Some(Pending { session: attach.session, path: attach.path, primary, features });
        let (nonce, expires) = (ticket.nonce, ticket.expires);
        Ok(Welcome::AskNonce { signer: primary, nonce, expires, now: now_unix })
    }

    /// The endpoint has looked the nonce up.
    pub(super) fn on_nonce(
        &mut self,
        now: Instant,
        taken: Result<(), NonceError>,
    ) -> Result<(Secondary, ServerHello), PeerFault> {
        let pending = self.pending.take().ok_or(PeerFault::HelloAgain)?;
        taken?;
        let signer = self.config.secondary.as_ref().and_then(|config| config.signer.clone());
        let secondary =
            Secondary::new(now, pending.session, pending.path, pending.primary, pending.features, signer);
        let answer = ServerHello {
            version: limits::VERSION,
            features: Features::OFFERED,
            session: pending.session,
            app_protocol: None,
        };
        Ok((secondary, answer))
    }
}
