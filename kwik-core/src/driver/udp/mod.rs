//! UDP sockets that send and receive many datagrams at once, as `quinn-udp` does it.
//!
//! Every adapter has its runtime's own kind of socket, and asks the system for the same through it: segmentation offload
//! both ways, ECN, the address that a datagram was sent to, no fragments, large buffers. That is here, once. The socket
//! stays the adapter's, and so does waiting for it.
#![expect(
    clippy::disallowed_types,
    reason = "a socket is opened for an adapter, which owns it from then on; the core proper has none"
)]

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Instant,
};

/// A borrowed socket, made from whatever a runtime's socket type is by `(&socket).into()`.
pub use quinn_udp::UdpSockRef;
use quinn_udp::{BATCH_SIZE, EcnCodepoint, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use self::offload::Offload;
use super::runtime::RecvMeta;
use crate::action::{Ecn, Transmit};

mod offload;

/// Bytes the kernel is asked to buffer per direction: 50 ms at 80 MB/s. It may grant less.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Opens a socket bound to `addr`, as [`Runtime::bind`](super::Runtime::bind) asks for it: an IPv6 one takes IPv4 too where
/// the system allows it.
///
/// # Errors
/// - Whatever the operating system says.
pub fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        if let Err(error) = socket.set_only_v6(false) {
            tracing::debug!(%error, "socket reaches IPv6 only");
        }
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Returns the address of this machine's own that datagrams to `destination` would leave from, as
/// [`Runtime::source_for`](super::Runtime::source_for) asks for it.
#[must_use]
pub fn source_for(destination: SocketAddr) -> Option<IpAddr> {
    let any = if destination.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(destination).ok()?; // sends nothing, and has the system choose
    socket.local_addr().ok().map(|local| local.ip())
}

/// Abilities of one socket, and what has failed on it.
///
/// Each call is given the socket: it belongs to the adapter, in its runtime's own type.
#[derive(Debug)]
pub struct UdpState {
    inner: UdpSocketState,
    offload: Offload,
    only_v6: bool,
}

impl UdpState {
    /// Prepares `socket`, which becomes non-blocking: large buffers, no fragments, ECN and destinations reported.
    ///
    /// `now` is the runtime's clock. It is read when segmentation offload fails, and while some destination goes without.
    ///
    /// # Errors
    /// - Whatever the operating system says.
    pub fn new(socket: &UdpSocket, now: fn() -> Instant) -> io::Result<Self> {
        let inner = UdpSocketState::new(socket.into())?; // makes it non-blocking, too
        for (what, set, size, setting) in [
            (
                "send",
                inner.set_send_buffer_size(socket.into(), BUFFER_BYTES),
                inner.send_buffer_size(socket.into()),
                "net.core.wmem_max",
            ),
            (
                "receive",
                inner.set_recv_buffer_size(socket.into(), BUFFER_BYTES),
                inner.recv_buffer_size(socket.into()),
                "net.core.rmem_max",
            ),
        ] {
            if let Err(error) = set {
                tracing::debug!(%error, what, "socket buffer stays at the system's default");
            }
            match size {
                Ok(size) if size < BUFFER_BYTES => tracing::warn!(
                    what,
                    size,
                    wanted = BUFFER_BYTES,
                    "small socket buffer: fast paths lose packets; on Linux `sysctl -w {setting}={BUFFER_BYTES}` lets it grow"
                ),
                Ok(_) | Err(_) => {}
            }
        }
        let only_v6 = socket.local_addr()?.is_ipv6() && SockRef::from(socket).only_v6().unwrap_or(false);
        let offload = Offload::new(inner.max_gso_segments(), now);
        Ok(Self { inner, offload, only_v6 })
    }

    /// Sends `bytes`, as [`Socket::try_send`](super::Socket::try_send) asks for it.
    ///
    /// # Errors
    /// - [`io::ErrorKind::WouldBlock`] if there is no room.
    /// - Whatever else the operating system says.
    pub fn try_send(&self, socket: UdpSockRef<'_>, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        let train = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(|ecn| match ecn {
                Ecn::Ect0 => EcnCodepoint::Ect0,
                Ecn::Ect1 => EcnCodepoint::Ect1,
                Ecn::Ce => EcnCodepoint::Ce,
            }),
            contents: bytes,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let result = self.inner.try_send(socket, &train);
        if transmit.segment_size.is_some() {
            self.offload.note(transmit.destination, &result);
        }
        result
    }

    /// Fills `bufs` and `meta` with what the system has, and returns how many of each.
    ///
    /// # Errors
    /// - [`io::ErrorKind::WouldBlock`] if it has nothing.
    /// - Whatever else the operating system says.
    pub fn recv(
        &self,
        socket: UdpSockRef<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<usize> {
        let mut received = [quinn_udp::RecvMeta::default(); BATCH_SIZE];
        let room = bufs.len().min(meta.len()).min(BATCH_SIZE);
        let (bufs, _) = bufs.split_at_mut(room);
        let (received, _) = received.split_at_mut(room);
        let count = self.inner.recv(socket, bufs, received)?;
        for (to, from) in meta.iter_mut().zip(received).take(count) {
            *to = RecvMeta {
                addr: from.addr,
                len: from.len,
                stride: from.stride,
                ecn: from.ecn.map(|ecn| match ecn {
                    EcnCodepoint::Ect0 => Ecn::Ect0,
                    EcnCodepoint::Ect1 => Ecn::Ect1,
                    EcnCodepoint::Ce => Ecn::Ce,
                }),
                dst_ip: from.dst_ip,
            };
        }
        Ok(count)
    }

    /// Returns [`Socket::only_v6`](super::Socket::only_v6).
    #[must_use]
    pub const fn only_v6(&self) -> bool {
        self.only_v6
    }

    /// Returns [`Socket::max_gso_segments`](super::Socket::max_gso_segments).
    #[must_use]
    pub fn max_gso_segments(&self, destination: SocketAddr) -> usize {
        self.offload.segments(destination)
    }

    /// Returns [`Socket::max_gro_segments`](super::Socket::max_gro_segments).
    #[must_use]
    pub fn max_gro_segments(&self) -> usize {
        self.inner.gro_segments()
    }

    /// Returns [`Socket::may_fragment`](super::Socket::may_fragment).
    #[must_use]
    pub fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the clock that an adapter passes")]
    fn now() -> Instant {
        Instant::now()
    }

    fn recv(state: &UdpState, socket: &UdpSocket) -> Vec<(RecvMeta, Vec<u8>)> {
        let mut buf = vec![0; 4 * 65_536];
        let mut meta = [RecvMeta::default(); 4];
        for _ in 0..1000 {
            let mut bufs: Vec<_> = buf.chunks_mut(65_536).map(IoSliceMut::new).collect();
            match state.recv(socket.into(), &mut bufs, &mut meta) {
                Ok(count) => {
                    let got = meta.iter().zip(buf.chunks(65_536)).take(count);
                    return got.map(|(meta, buf)| (*meta, buf[..meta.len].to_vec())).collect();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        Vec::new()
    }

    /// A train, its marks, and the address that it was sent to, all through a wildcard socket.
    #[test]
    fn a_train_arrives_with_what_was_said_of_it() {
        let from = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let to = bind(([0, 0, 0, 0], 0).into()).unwrap();
        let (sends, recvs) = (UdpState::new(&from, now).unwrap(), UdpState::new(&to, now).unwrap());
        let destination = SocketAddr::from(([127, 0, 0, 1], to.local_addr().unwrap().port()));
        let segments = sends.max_gso_segments(destination).min(4);
        let bytes: Vec<u8> = (0..segments * 1000).map(|at| at.to_le_bytes()[0]).collect();
        let train = Transmit {
            destination,
            ecn: Some(Ecn::Ect0),
            size: bytes.len(),
            segment_size: (segments > 1).then_some(1000),
            src_ip: None,
        };
        sends.try_send((&from).into(), &train, &bytes).unwrap();
        let mut arrived = Vec::new();
        while arrived.len() < bytes.len() {
            let got = recv(&recvs, &to);
            assert!(!got.is_empty(), "{} of {} bytes", arrived.len(), bytes.len());
            for (meta, part) in got {
                assert_eq!((meta.addr, meta.stride), (from.local_addr().unwrap(), 1000));
                #[cfg(target_os = "linux")]
                assert_eq!((meta.ecn, meta.dst_ip), (Some(Ecn::Ect0), Some(destination.ip())));
                arrived.extend(part);
            }
        }
        assert_eq!(arrived, bytes);
        let empty = recvs.recv((&to).into(), &mut [], &mut []);
        assert!(matches!(empty, Ok(0)) || empty.unwrap_err().kind() == io::ErrorKind::WouldBlock);
    }

    /// Whatever the system's default is, which most systems but Linux have the other way round.
    #[test]
    fn an_ipv6_socket_takes_ipv4_and_says_what_it_takes() {
        let any = SocketAddr::from(([0_u16; 8], 0));
        let mixed = match bind(any) {
            Ok(socket) => socket,
            Err(error) => {
                // No IPv6 at all here, and then that is what any such socket says.
                assert_eq!(UdpSocket::bind(any).unwrap_err().kind(), error.kind());
                return;
            }
        };
        assert!(!UdpState::new(&mixed, now).unwrap().only_v6());
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_only_v6(true).unwrap();
        socket.bind(&any.into()).unwrap();
        assert!(UdpState::new(&socket.into(), now).unwrap().only_v6());
    }

    #[test]
    fn the_system_says_where_datagrams_leave_from() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source_for(SocketAddr::new(loopback, 443)), Some(loopback));
    }
}
