//! The first words of a client on each connection, and what is wrong with them.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kwik_core::{Signer as _, SigningKey};
use kwik_proto::v1 as pb;
use pb::FrameType as Type;
use quinn_proto::Dir;

use super::{Client, Path, flip};
use crate::{
    sim::evil::{Actor, Kind, frames, link::control, machine::Stage},
    wire,
};

impl Client {
    pub(super) fn connected(&mut self, stage: &mut Stage<'_, '_>, key: usize) {
        if self.home.is_none() {
            self.home = Some(key);
            return self.greet(stage, key);
        }
        let kind = self.kind;
        let link = stage.link(key);
        let peer = link.peer;
        let opened = link.open(Dir::Bi);
        assert_eq!(opened, Some(control()), "a server permits the control stream");
        let fresh = |path: &Path| path.link.is_none() && path.node == peer;
        let own = self.paths.iter_mut().find(|(_, path)| fresh(path)).map(|(id, path)| {
            path.link = Some(key);
            (*id, path.ticket.clone())
        });
        let first = self.paths.iter().next().map(|(id, path)| (*id, path.ticket.clone()));
        // A second connection shows the first path's ticket again.
        let Some((id, ticket)) = own.or(first) else {
            return;
        };
        let mut exporter = [0; 32];
        let exported =
            link.conn.crypto_session().export_keying_material(&mut exporter, b"EXPORTER-kwik/1 attach", b"");
        assert!(exported.is_ok(), "the handshake is done");
        let mut hello = frames::hello(&mut self.dice);
        hello.client_key = Some(Bytes::copy_from_slice(self.key.public_key().as_bytes()));
        let mut attach = pb::Attach {
            session: Some(self.session.clone()),
            path: Some(id),
            ticket: Some(ticket.clone()),
            proof: None,
        };
        let mut signer = None;
        let mut fired = kind == Some(Kind::AttachToPrimary) || kind == Some(Kind::ExpiredTicket);
        fired |= kind == Some(Kind::ReplayedTicket) && own_is_none(&self.paths, key);
        let d = &mut self.dice;
        match kind {
            Some(Kind::OthersSession) => {
                attach.session = Some(flip(&self.session, d));
                fired = true;
            }
            Some(Kind::ForgedTicket) => {
                attach.ticket = Some(forge(&ticket));
                fired = true;
            }
            Some(Kind::OthersProof) => {
                if d.chance(500) {
                    exporter = [7; 32]; // of some other connection
                } else {
                    signer = Some(SigningKey::from_seed([9; 32]));
                }
                fired = true;
            }
            Some(Kind::OthersTicket) => {
                let thief = SigningKey::from_seed([8; 32]);
                hello.client_key = Some(Bytes::copy_from_slice(thief.public_key().as_bytes()));
                signer = Some(thief);
                fired = true;
            }
            Some(Kind::WrongAudience) => {
                let other = self.paths.iter().find(|(_, path)| path.node != peer);
                let Some((other, path)) = other else {
                    return; // the next one will have somebody else's ticket to show
                };
                attach.path = Some(*other);
                attach.ticket = Some(path.ticket.clone());
                fired = true;
            }
            _ => {}
        }
        let proof = signer.as_ref().unwrap_or(&self.key).sign(&[b"kwik/1 attach\0", &exporter[..]].concat());
        attach.proof = Some(Bytes::copy_from_slice(proof.as_bytes()));
        hello.attach = Some(attach);
        if kind == Some(Kind::NoTicket) {
            hello.attach = None;
            fired = true;
        }
        link.send(Type::ClientHello, &hello);
        stage.seen.fired |= fired;
    }

    /// The first words to the primary.
    fn greet(&mut self, stage: &mut Stage<'_, '_>, key: usize) {
        let now = stage.cx.at;
        let link = stage.link(key);
        let mut hello = frames::hello(&mut self.dice);
        hello.client_key = Some(Bytes::copy_from_slice(self.key.public_key().as_bytes()));
        let d = &mut self.dice;
        if self.kind == Some(Kind::NoHello) && d.chance(500) {
            stage.seen.fired = true;
            return; // not even a stream
        }
        let opened = link.open(Dir::Bi);
        assert_eq!(opened, Some(control()), "a server permits the control stream");
        match self.kind {
            Some(Kind::NoHello) => {}
            Some(Kind::EarlyStreams) => {
                let mut opened = [1, 0];
                for (count, dir) in opened.iter_mut().zip([Dir::Bi, Dir::Uni]) {
                    while let Some(stream) = link.open(dir) {
                        *count += 1;
                        link.write(stream, vec![0; d.index(100_000)]);
                    }
                }
                assert_eq!(opened, [4, 1], "35: streams permitted before the hello");
            }
            Some(Kind::DripHello) => {
                let bytes = wire::frame(Type::ClientHello, &hello);
                let pause = d.time(Duration::from_millis(400), Duration::from_secs(3));
                self.drip = Some((now, usize::try_from(pause.as_millis()).unwrap_or(400), bytes));
            }
            Some(Kind::WrongVersion) => {
                hello.version = Some(u32::try_from(d.between(2, 1 << 32)).unwrap_or(0));
                link.send(Type::ClientHello, &hello);
            }
            Some(Kind::AbsurdCounts) => {
                hello.split_streams_max = Some(u32::MAX);
                hello.features = Some(u64::MAX);
                link.send(Type::ClientHello, &hello);
                return;
            }
            _ => {
                link.send(Type::ClientHello, &hello);
                return;
            }
        }
        stage.seen.fired = true;
    }

    /// A path is attached.
    pub(super) fn attached(&mut self, stage: &mut Stage<'_, '_>, key: usize) {
        let (now, peer) = (stage.cx.at, stage.link(key).peer);
        match self.kind {
            Some(Kind::ReplayedTicket)
                if self.paths.values().next().is_some_and(|path| path.node == peer) =>
            {
                self.dials.push((now, peer));
            }
            Some(Kind::StreamOnSecondary) if !stage.seen.fired => {
                let dir = self.dice.pick(&[Dir::Bi, Dir::Uni]);
                let link = stage.link(key);
                let stream = link.open(dir).expect("a server permits a few");
                let bytes = match dir {
                    Dir::Bi => vec![0; 1 + self.dice.index(1000)],
                    // It may have streams, but only for what the primary has relayed.
                    Dir::Uni => frames::header(Kind::SecondaryHeader, Actor::Client, &mut self.dice)
                        .expect("a header is all that it is"),
                };
                link.write(stream, bytes);
                stage.seen.fired = true;
            }
            _ => {}
        }
    }
}

/// Returns whether a connection is no path's own.
fn own_is_none(paths: &BTreeMap<u32, Path>, key: usize) -> bool {
    !paths.values().any(|path| path.link == Some(key))
}

/// Returns a ticket in which everything is right but who has signed it.
fn forge(ticket: &[u8]) -> Bytes {
    let (body, _signature) = ticket.split_at(ticket.len().saturating_sub(64));
    let stranger = SigningKey::from_seed([11; 32]);
    let signature = stranger.sign(&[b"kwik/1 ticket\0", body].concat());
    [body, signature.as_bytes()].concat().into()
}
