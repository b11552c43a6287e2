//! The kernel's UDP path with nothing above it: trains of datagrams from one thread to another.

use std::{
    io::{ErrorKind, IoSliceMut},
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

use crate::{
    contender::{Ended, Fallible},
    hosts::{MTU, socket},
    meter::Meter,
    report::Measured,
};

/// Bytes that one call may send.
const SEND_MAX: usize = 65_507;
/// Bytes that one message may fill with all that was coalesced into it.
const MESSAGE_MAX: usize = 65_536;
/// Time without a datagram after which those that are missing are taken for lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends until `size` bytes have arrived, whatever is lost on the way.
pub(crate) fn raw(size: u64) -> Fallible<Measured> {
    let (sender, receiver) = (socket()?, socket()?);
    let target = receiver.local_addr()?;
    let (out, inn) = (UdpSocketState::new((&sender).into())?, UdpSocketState::new((&receiver).into())?);
    receiver.set_nonblocking(false)?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    sender.set_nonblocking(false)?;
    let over = Arc::new(AtomicBool::new(false));
    let meter = Meter::start()?;
    let stop = over.clone();
    let sending = thread::spawn(move || send(&sender, &out, target, &stop));
    let mut buf = vec![0; MESSAGE_MAX * BATCH_SIZE];
    let mut meta = [RecvMeta::default(); BATCH_SIZE];
    let mut received = 0;
    while received < size {
        let mut bufs: Vec<_> = buf.chunks_mut(MESSAGE_MAX).map(IoSliceMut::new).collect();
        let Ok(count) = inn.recv((&receiver).into(), &mut bufs, &mut meta) else { break };
        received += meta.iter().take(count).map(|meta| meta.len as u64).sum::<u64>();
    }
    let used = meter.stop()?;
    over.store(true, Ordering::Relaxed);
    sending.join().map_err(|_| Ended)??;
    if received < size { Err(Ended.into()) } else { Ok(Measured::rate(received, &used)) }
}

fn send(
    socket: &UdpSocket,
    state: &UdpSocketState,
    destination: std::net::SocketAddr,
    over: &AtomicBool,
) -> Fallible<()> {
    let segment = usize::from(MTU);
    let segments = state.max_gso_segments().min(SEND_MAX / segment);
    let contents = vec![0; segments * segment];
    let train =
        Transmit { destination, ecn: None, contents: &contents, segment_size: Some(segment), src_ip: None };
    while !over.load(Ordering::Relaxed) {
        match state.try_send(socket.into(), &train) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
