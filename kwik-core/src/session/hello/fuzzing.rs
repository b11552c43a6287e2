//! Hellos as bytes against a server that has not decided: who is let in showed what it must, and nothing less.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Greeting, Welcome};
use crate::{
    config::{SecondaryConfig, ServerConfig},
    error::PeerFault,
    fuzzing::{
        source::{OP, Source},
        tls,
    },
    id::{PathId, SessionId},
    lease::{
        nonces::NonceError,
        ticket::{self, Signer as _, SigningKey, Ticket},
    },
    limits::{CLOCK_SKEW, TICKET_LIFETIME},
    rng::Rng,
    timer::Wall,
    wire::{Attach, ClientHello, Decoder, Features, Frame, encode},
};

/// The wall clock when the server starts.
const START: u64 = 1_000;
/// Secret that both ends of the connection alone know.
const EXPORTER: [u8; 32] = [8; 32];

/// Says hello with what `data` makes of a genuine hello, then with `data` itself.
///
/// # Panics
/// If somebody is let in that should not be, or kept out that should not be.
#[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
pub fn hello(data: &[u8]) {
    let start = Instant::now();
    let (setup, damage) = data.split_at(data.len().min(2 * OP));
    let mut source = Source::new(setup);
    let mut case = Case::new(&mut source);
    let genuine = case.genuine(&mut source);
    let now = start + Duration::from_secs(source.below(2 * TICKET_LIFETIME.as_secs()));
    let exporter = source.pick(&[Some(EXPORTER), Some(EXPORTER), Some(EXPORTER), Some([9; 32]), None]);
    let wall = Wall::new(start, Duration::from_secs(START));

    let mut bytes = Vec::new();
    encode(&Frame::ClientHello(genuine.clone()), &mut bytes);
    let mut edits = Source::new(damage);
    for _ in 0..edits.below(3) {
        let at = usize::try_from(edits.below(bytes.len() as u64)).unwrap_or_default();
        let with: u8 = edits.any();
        bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= with);
    }
    for bytes in [&bytes[..], damage] {
        let mut greeting = Greeting::new(start, Rng::from_seed([5; 32]), case.config.clone());
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        while let Ok(Some(frame)) = decoder.next() {
            if let Frame::ClientHello(hello) = frame {
                case.say(&mut greeting, now, wall.secs(now), &genuine, hello, exporter);
                break; // whatever the answer, the server has decided
            }
        }
    }
}

/// A server, and a client that has a ticket for it.
struct Case {
    config: Arc<ServerConfig>,
    primary: SigningKey,
    client: SigningKey,
    issued: u64,
}

impl Case {
    fn new(source: &mut Source<'_>) -> Self {
        let primary = SigningKey::from_seed([1; 32]);
        let mut tls = tls::server();
        if source.rarely(2) {
            tls.alpn_protocols = vec![b"b".to_vec(), b"a".to_vec()];
        }
        let mut config = ServerConfig::try_from(tls).expect("usable");
        if !source.rarely(4) {
            config = config.primary(Arc::new(SigningKey::from_seed([1; 32])));
        }
        if !source.rarely(4) {
            let secondary = SecondaryConfig::new(primary.public_key(), tls::certificate());
            config = config.secondary(secondary.expect("parses"));
        }
        Self { config: Arc::new(config), primary, client: SigningKey::from_seed([2; 32]), issued: START }
    }

    /// A hello to which only time, place and damage can be objected.
    fn genuine(&mut self, source: &mut Source<'_>) -> ClientHello {
        let session = SessionId::new([9; 16]);
        let path = PathId::new(source.any::<u8>().into());
        self.issued = START - 30 + source.below(60);
        let ticket = Ticket {
            session,
            path,
            audience: ticket::Audience::new(ticket::spki_hash(tls::certificate()).expect("parses")),
            client_key: self.client.public_key(),
            issued: self.issued,
            expires: self.issued + TICKET_LIFETIME.as_secs(),
            nonce: [7; 16],
        };
        let attach = Attach {
            session,
            path,
            ticket: ticket.seal(&self.primary),
            proof: self.client.sign(&ticket::attach_message(&EXPORTER)),
        };
        let names = [Bytes::from_static(b"a"), Bytes::from_static(b"c")];
        ClientHello {
            version: 1,
            features: Features(source.any()),
            client_key: self.client.public_key(),
            split_streams_max: source.any(),
            app_protocols: names.into_iter().take(usize::from(source.any::<u8>() % 3)).collect(),
            attach: (!source.rarely(3)).then_some(attach),
        }
    }

    /// Says hello and judges the answer.
    fn say(
        &self,
        greeting: &mut Greeting,
        now: Instant,
        unix: u64,
        genuine: &ClientHello,
        hello: ClientHello,
        exporter: Option<[u8; 32]>,
    ) {
        let skew = CLOCK_SKEW.as_secs();
        let in_time = (self.issued.saturating_sub(skew)..=self.issued + TICKET_LIFETIME.as_secs() + skew)
            .contains(&unix);
        let sound = hello.version == 1
            && self.config.secondary.is_some()
            && hello.client_key == genuine.client_key
            && hello.attach.is_some()
            && hello.attach == genuine.attach
            && exporter == Some(EXPORTER)
            && in_time;
        let ours = self.config.app_protocols();
        let shared = ours.iter().find(|name| hello.app_protocols.contains(name));
        let agreed = ours.is_empty() || shared.is_some();
        let plain = hello.version == 1 && self.config.primary.is_some() && hello.attach.is_none() && agreed;
        match greeting.on_hello(now, unix, hello.clone(), exporter) {
            Welcome::AskNonce { signer, nonce, expires, now: asked } => {
                assert_eq!(signer, self.primary.public_key());
                assert!(sound, "{hello:?} attaches");
                assert_eq!((nonce, expires, asked), ([7; 16], self.issued + TICKET_LIFETIME.as_secs(), unix));
                let again = greeting.on_hello(now, unix, hello, exporter);
                assert!(matches!(again, Welcome::Refuse(PeerFault::HelloAgain)), "one hello");
                let (taken, fault) = match genuine.split_streams_max % 4 {
                    0 => (Err(NonceError::Full), Some(PeerFault::TicketsTooMany)),
                    1 => (Err(NonceError::Replayed), Some(PeerFault::TicketReplayed)),
                    _ => (Ok(()), None),
                };
                let welcomed = greeting.on_nonce(now, taken);
                assert_eq!(welcomed.as_ref().err().copied(), fault, "a ticket is good for once");
                if let Ok((secondary, answer)) = welcomed {
                    assert_eq!(secondary.session(), answer.session);
                    assert_eq!(Some(answer.session), genuine.attach.as_ref().map(|attach| attach.session));
                }
                assert!(greeting.on_nonce(now, Ok(())).is_err(), "let in twice");
            }
            Welcome::Primary(primary, answer) => {
                assert!(plain, "{hello:?} gets a session");
                assert_eq!((primary.session(), answer.app_protocol), (answer.session, shared.cloned()));
            }
            Welcome::Refuse(code) => assert!(!sound && !plain, "refused with {code}: {hello:?}"),
        }
    }
}
