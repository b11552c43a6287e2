//! One client and its servers in memory, in virtual time; the client's part of each datagram's way is timed.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use crate::samples::Samples;

/// The place of the client among the ends.
pub(crate) const CLIENT: usize = 0;
/// The place of its first server, in KWIK the primary.
pub(crate) const SERVER: usize = 1;
/// Virtual time of one turn: what goes out in one arrives in the next, or in the same if it is for the client.
const TURN: Duration = Duration::from_micros(100);
/// Turns in which a transfer or a handshake is done, or never.
const TURNS_MAX: usize = 1_000_000;
/// A datagram of this length or more is full of stream bytes; shorter ones are acknowledgements and ends.
const FULL: usize = 1_000;
/// Datagrams asked for at once; as quinn does.
pub(crate) const TRAIN: usize = 10;
/// Bytes handed to a stream at once.
const WRITE: usize = 64 * 1024;

/// A datagram on its way.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: BytesMut,
}

/// One machine with at most one session or connection.
pub(crate) trait End {
    /// Takes a datagram and routes it; nothing else is worked off yet.
    fn handle(&mut self, now: Instant, datagram: Datagram);
    /// Works off what waits, and reads the next chunk if there is one. Returns its length, else 0.
    fn read(&mut self, now: Instant) -> u64;
    /// Gives all that it wants to send.
    fn transmit(&mut self, now: Instant, out: &mut VecDeque<Datagram>);
    /// Runs what is due.
    fn run_timers(&mut self, now: Instant);
    /// Returns whether the reader has come to the end of a stream since this was asked last.
    fn take_ended(&mut self) -> bool;
    fn address(&self) -> SocketAddr;
}

/// The client, which is the first, and its servers.
pub(crate) struct Network<E> {
    pub(crate) now: Instant,
    pub(crate) ends: Vec<E>,
    /// Datagrams that each end has sent.
    sent: Vec<VecDeque<Datagram>>,
}

impl<E: End> Network<E> {
    pub(crate) fn new(now: Instant, ends: Vec<E>) -> Self {
        let sent = ends.iter().map(|_| VecDeque::new()).collect();
        Self { now, ends, sent }
    }

    /// The client, or one of its servers.
    pub(crate) fn end(&mut self, index: usize) -> &mut E {
        self.ends.get_mut(index).expect("it was made")
    }

    /// Takes turns until `done`; nothing is noted.
    pub(crate) fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..TURNS_MAX {
            self.turn(&mut Samples::default());
            if done(self) {
                return;
            }
        }
        panic!("this takes too many turns");
    }

    /// Takes turns, in each of which `write` writes what it can, until the client has read a stream of `size` bytes to
    /// its end.
    pub(crate) fn transfer(&mut self, size: u64, samples: &mut Samples, mut write: impl FnMut(&mut Self)) {
        let mut read = 0;
        for _ in 0..TURNS_MAX {
            write(self);
            read += self.turn(samples);
            if self.end(CLIENT).take_ended() {
                assert_eq!(read, size, "a stream has the length that was written");
                return;
            }
        }
        panic!("this takes too many turns");
    }

    /// Moves all datagrams once, and time on. Returns what the client has read.
    fn turn(&mut self, samples: &mut Samples) -> u64 {
        let now = self.now;
        for (end, sent) in self.ends.iter_mut().zip(&mut self.sent) {
            end.transmit(now, sent);
        }
        let (Some((client, servers)), Some((sent, from_servers))) =
            (self.ends.split_first_mut(), self.sent.split_first_mut())
        else {
            return 0;
        };
        let mut read = 0;
        // The servers' datagrams come mixed, as from machines that send at the same time.
        while from_servers.iter().any(|queue| !queue.is_empty()) {
            for datagram in from_servers.iter_mut().filter_map(VecDeque::pop_front) {
                read += deliver(client, now, datagram, samples);
                client.transmit(now, sent);
            }
        }
        for datagram in sent.drain(..) {
            if let Some(server) = servers.iter_mut().find(|server| server.address() == datagram.to) {
                server.handle(now, datagram);
            }
        }
        self.now += TURN;
        for end in &mut self.ends {
            end.run_timers(self.now);
        }
        // What timers or ends without bytes have made readable is read, but no datagram's.
        let now = self.now;
        read + read_rest(self.end(CLIENT), now)
    }
}

/// Hands the client a datagram and times it. Returns how many bytes were read.
fn deliver(client: &mut impl End, now: Instant, datagram: Datagram, samples: &mut Samples) -> u64 {
    let full = datagram.bytes.len() >= FULL;
    let begun = Instant::now();
    client.handle(now, datagram);
    let read = client.read(now);
    let first = begun.elapsed();
    let rest = if read > 0 { read_rest(client, now) } else { 0 };
    let turn = begun.elapsed();
    if full {
        samples.push((read > 0).then_some(first), turn);
    }
    read + rest
}

fn read_rest(client: &mut impl End, now: Instant) -> u64 {
    std::iter::from_fn(|| Some(client.read(now)).filter(|read| *read > 0)).sum()
}

/// Cuts a train into datagrams.
pub(crate) fn split(
    (from, to): (SocketAddr, SocketAddr),
    train: &[u8],
    segment: Option<usize>,
    out: &mut VecDeque<Datagram>,
) {
    let segment = segment.unwrap_or(train.len()).max(1);
    out.extend(train.chunks(segment).map(|bytes| Datagram { from, to, bytes: BytesMut::from(bytes) }));
}

/// At most `left` bytes to write: the same memory again and again, so that making bytes costs nothing.
pub(crate) fn piece(left: u64) -> Bytes {
    static ZEROS: [u8; WRITE] = [0; WRITE];
    Bytes::from_static(&ZEROS).slice(..usize::try_from(left).map_or(WRITE, |left| left.min(WRITE)))
}
