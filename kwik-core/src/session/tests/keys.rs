//! Keys that roll over while everything runs. Spec: PROTOCOL §9.

use super::*;
use crate::{
    config::ServerConfig,
    endpoint::{EndpointEvent, EndpointEventInner},
    error::AddPathError,
    lease::ticket::Signer as _,
};

/// A secondary's certificates and the keys of its primary, old and new.
struct Rolling {
    certificates: [(rustls::ServerConfig, CertificateDer<'static>); 2],
    signers: [Arc<SigningKey>; 2],
}

impl Rolling {
    fn new(world: &World) -> Self {
        let certificates = [(); 2].map(|()| world.authority.server("node2.test"));
        Self { certificates, signers: [7, 8].map(|seed| Arc::new(SigningKey::from_seed([seed; 32]))) }
    }

    fn identity(&self, nth: usize) -> SpkiHash {
        ticket::spki_hash(&self.certificates[nth].1).unwrap()
    }

    /// Has the secondary show one of its certificates, answer to some, and trust some of the primary's keys.
    fn secondary(&self, world: &mut World, shown: usize, answers: &[usize], trusts: &[usize]) {
        let certificate = |nth: &usize| &self.certificates[*nth].1;
        let key = |nth: &usize| self.signers[*nth].public_key();
        let mut config = SecondaryConfig::new(key(&trusts[0]), certificate(&answers[0])).unwrap();
        for more in &answers[1..] {
            config = config.certificate(certificate(more)).unwrap();
        }
        for more in &trusts[1..] {
            config = config.primary(key(more));
        }
        let server = ServerConfig::try_from(self.certificates[shown].0.clone()).unwrap().secondary(config);
        world.nodes[2].endpoint.set_server_config(Some(server)).unwrap();
    }

    /// Has the primary's next sessions sign with one of its keys.
    fn primary(&self, world: &mut World, signs: usize) {
        let server =
            ServerConfig::try_from(world.primary_tls.clone()).unwrap().primary(self.signers[signs].clone());
        world.nodes[PRIMARY].endpoint.set_server_config(Some(server)).unwrap();
    }

    /// A path whose server may hold any of these keys.
    fn path(&self, world: &World, pins: &[usize]) -> NewPath {
        let new = NewPath::new(world.nodes[2].address, "node2.test", self.identity(pins[0]));
        pins[1..].iter().fold(new, |new, pin| new.identity(self.identity(*pin)))
    }
}

/// Attaches all the time while the secondary's certificate rolls over, with leases being filled on an earlier path: the
/// primary names both keys, then the server shows the new one (and may forget the old one at once, or answer to both for a
/// while), then the primary names the new one alone. No attach fails, wherever between its steps the change comes.
#[test]
fn a_certificate_rolls_over_without_a_failed_attach() {
    for answers in [&[1][..], &[1, 0]] {
        for offset in [0, 1, 3, 6] {
            let mut world = World::new(1);
            let rolling = Rolling::new(&world);
            rolling.secondary(&mut world, 0, &[0], &[0]);
            world.connect();
            let now = world.now;
            let new = rolling.path(&world, &[0]);
            let worker = world.session(PRIMARY).add_path(now, new).unwrap();
            world.run(|w| w.session(PRIMARY).path_state(worker) == Some(PathState::Active));
            let stream = world.session(PRIMARY).open(Dir::Uni).unwrap();
            let job = NewJob::new(worker, range(0, 1 << 30), "");
            let job = world.session(PRIMARY).open_job(now, stream, job).unwrap();
            let (mut at, mut fillers) = (0, BTreeMap::<SessionHandle, Filler>::new());
            for turn in 0..60 {
                if turn == 30 {
                    world.run_for(Duration::from_millis(offset * 5));
                    rolling.secondary(&mut world, 1, answers, &[0]);
                }
                let pins: &[usize] = match turn {
                    0..10 => &[0],
                    10..50 => &[0, 1],
                    _ => &[1],
                };
                let now = world.now;
                let new = rolling.path(&world, pins);
                let lease = NewLease::new(job, range(at, at + 10_000));
                at += 10_000;
                let lease = world.session(PRIMARY).lease(now, &lease).unwrap();
                let path = world.session(PRIMARY).add_path(now, new).unwrap();
                if turn % 3 == 0 {
                    // Under way when the next one begins, and so when the change comes.
                    world.run_for(Duration::from_millis(offset * 7));
                }
                let mut done = false;
                world.run(|w| {
                    let now = w.now;
                    for (&handle, session) in &mut w.nodes[2].sessions {
                        fillers.entry(handle).or_default().turn(now, session);
                    }
                    w.session(CLIENT).accept(Dir::Uni);
                    while w.session(CLIENT).read(now, stream, usize::MAX, true).is_ok() {}
                    done |= w.session(PRIMARY).lease_outcome(lease) == Some(LeaseOutcome::Done);
                    done && w.session(PRIMARY).path_state(path) != Some(PathState::Connecting)
                });
                let state = world.session(PRIMARY).path_state(path);
                assert_eq!(state, Some(PathState::Active), "attach {turn}, {answers:?}, offset {offset}");
                let now = world.now;
                world.session(PRIMARY).remove_path(now, path).unwrap();
                // A client dials 16 times a minute.
                world.run_for(Duration::from_secs(4));
            }
        }
    }
}

/// The primary's own key rolls over: the secondary trusts both, then sessions sign with the new one, then those of the old
/// one end and it is trusted no more.
#[test]
fn a_primarys_key_rolls_over_without_a_failed_attach() {
    let mut world = World::new(1);
    let rolling = Rolling::new(&world);
    for (turn, trusts, signs) in [(0, &[0][..], 0), (1, &[0, 1], 0), (2, &[0, 1], 1), (3, &[1], 1)] {
        rolling.secondary(&mut world, 0, &[0], trusts);
        rolling.primary(&mut world, signs);
        world.connect();
        let now = world.now;
        let new = rolling.path(&world, &[0]);
        let path = world.session(PRIMARY).add_path(now, new).unwrap();
        world.run(|w| w.session(PRIMARY).path_state(path) != Some(PathState::Connecting));
        assert_eq!(world.session(PRIMARY).path_state(path), Some(PathState::Active), "turn {turn}");
        let stream = world.session(PRIMARY).open(Dir::Uni).unwrap();
        let job = world.session(PRIMARY).open_job(now, stream, NewJob::new(path, range(0, 10), "")).unwrap();
        let mut filler = Filler::default();
        world.run(|w| {
            filler.turn(w.now, w.session(2));
            w.session(PRIMARY).job_answer(job).is_some()
        });
        assert_eq!(world.session(PRIMARY).job_answer(job), Some(Ok(())), "turn {turn}");
        let now = world.now;
        world.session(CLIENT).close(now, ErrorCode::from_u32(0), b"").unwrap();
        world.run_for(Duration::from_secs(60));
    }
}

#[test]
fn as_many_keys_as_the_wire_carries() {
    let mut world = World::new(1);
    world.connect();
    let now = world.now;
    let key = |n: u8| SpkiHash::new([n; 32]);
    let new = NewPath::new(world.nodes[2].address, "node2.test", world.identities[2]);
    let four = (1..4).fold(new.clone(), |new, n| new.identity(key(n)));
    let five = four.clone().identity(key(4));
    let misuse = Err(AddPathError::Misuse(ApiMisuse::TooLong));
    assert_eq!(world.session(PRIMARY).add_path(now, five), misuse);
    let relays = (0..5).fold(new, |new, n| new.relay_key(SigningKey::from_seed([n; 32]).public_key()));
    assert_eq!(world.session(PRIMARY).add_path(now, relays), misuse);
    let path = world.session(PRIMARY).add_path(now, four.identity(key(2))).unwrap(); // twice the same is once
    world.run(|w| w.session(PRIMARY).path_state(path) == Some(PathState::Active));
    assert_eq!(world.session(PRIMARY).paths()[0].identities.len(), 4);
    // Each of the primaries that a secondary trusts costs it a verification per forged ticket.
    let rolling = Rolling::new(&world);
    let trusts = |count: usize| {
        let own = SecondaryConfig::new(rolling.signers[0].public_key(), &rolling.certificates[0].1).unwrap();
        let all = (1..count).fold(own, |trust, _| trust.primary(rolling.signers[1].public_key()));
        Some(ServerConfig::try_from(rolling.certificates[0].0.clone()).unwrap().secondary(all))
    };
    assert!(world.nodes[2].endpoint.set_server_config(trusts(16)).is_ok());
    assert!(world.nodes[2].endpoint.set_server_config(trusts(17)).is_err());
}

/// A server that signs what it relays may change its key as well.
#[test]
fn messages_of_a_server_are_believed_under_either_of_its_keys() {
    for signs in [0, 1] {
        let mut world = World::new(1);
        let rolling = Rolling::new(&world);
        let (tls, certificate) = rolling.certificates[0].clone();
        let trust = SecondaryConfig::new(rolling.signers[0].public_key(), &certificate).unwrap();
        let config =
            ServerConfig::try_from(tls).unwrap().secondary(trust.signer(rolling.signers[signs].clone()));
        world.nodes[2].endpoint.set_server_config(Some(config)).unwrap();
        world.connect();
        let new = rolling.path(&world, &[0]);
        let new = rolling.signers.iter().fold(new, |new, signer| new.relay_key(signer.public_key()));
        let now = world.now;
        let path = world.session(PRIMARY).add_path(now, new).unwrap();
        world.run(|w| w.session(PRIMARY).path_state(path) == Some(PathState::Active));
        let now = world.now;
        world.session(2).relay(now, path, Bytes::from_static(b"hello")).unwrap();
        let mut heard = None;
        world.run(|w| {
            heard = w.session(PRIMARY).take_relay();
            heard.is_some()
        });
        assert!(heard.unwrap().sealed);
    }
}

/// One of the primaries that a secondary trusts has as many tickets used as it can: that takes nothing from the others,
/// and its own are told that there are too many, not that they may not come. Spec: PROTOCOL §9.
#[test]
fn a_primary_uses_up_its_own_share_of_nonces() {
    for (busy, refused) in [(8, None), (7, Some(ErrorCode::EXCESSIVE_LOAD))] {
        let mut world = World::new(1);
        let rolling = Rolling::new(&world);
        rolling.secondary(&mut world, 0, &[0], &[0, 1]);
        world.connect();
        let signer = SigningKey::from_seed([busy; 32]).public_key();
        let (now, unix) = (world.now, UNIX.as_secs());
        let config = ClientConfig::try_from(world.tls.clone()).unwrap();
        let somewhere = world.nodes[PRIMARY].address;
        let endpoint = &mut world.nodes[2].endpoint;
        let (session, _) = endpoint.connect(now, config, somewhere, "a.test").unwrap();
        for n in 0..limits::NONCES_MAX as u128 {
            let nonce = n.to_be_bytes();
            let used = EndpointEventInner::Nonce { signer, nonce, expires: unix + 60, now: unix };
            drop(endpoint.handle_session_event(now, session, EndpointEvent(used)));
        }
        endpoint.forget(session);
        let new = rolling.path(&world, &[0]);
        let path = world.session(PRIMARY).add_path(now, new).unwrap();
        world.run(|w| w.session(PRIMARY).path_state(path) != Some(PathState::Connecting));
        let state = refused.map_or(PathState::Active, PathState::Dead);
        assert_eq!(world.session(PRIMARY).path_state(path), Some(state), "{busy}");
    }
}
