//! The driver on a machine of its own: virtual time, sockets in memory, and tasks that run when and in the order that
//! the test wants. Real machines stall, and then wake timers, sockets and tasks in any order.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use super::{
    Accepted, Connection, Endpoint, RecvMeta, Runtime, Socket, Timer, Writable,
    lock::{Lock, Owes},
};
use crate::{
    action::Transmit,
    config::{ClientConfig, ServerConfig, TransportConfig},
    error::ConnectionError,
    lease::ticket::SigningKey,
    session::tests::Authority,
};

const CLIENT: u16 = 1;
const SERVER: u16 = 2;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task's wake-up, once.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Buffer {
    messages: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
}

/// The machine: what the operating system and an executor would hold.
struct State {
    now: Instant,
    buffers: BTreeMap<SocketAddr, Buffer>,
    timers: Vec<(u64, Instant, Waker)>,
    timer_ids: u64,
    /// Tasks in the order they were spawned, with the host they run on.
    tasks: Vec<(u16, Arc<Flag>, Option<Task>)>,
    /// Runs in the middle of the next call that sends.
    at_send: Option<Box<dyn FnOnce() + Send>>,
}

impl Owes for State {}

#[derive(Clone)]
struct Machine(Arc<Lock<State>>);

impl Machine {
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Lock::new(State {
            now,
            buffers: BTreeMap::new(),
            timers: Vec::new(),
            timer_ids: 0,
            tasks: Vec::new(),
            at_send: None,
        })))
    }

    fn host(&self, host: u16) -> Host {
        Host { machine: self.clone(), host }
    }

    fn spawn(&self, host: u16, task: impl Future<Output = ()> + Send + 'static) {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        self.0.with(|s| s.tasks.push((host, flag, Some(Box::pin(task)))));
    }

    /// Runs the woken tasks that `may_run`, the youngest first: sessions before their endpoints.
    fn run_if(&self, may_run: impl Fn(u16, usize) -> bool) {
        let next = || {
            self.0.with(|s| {
                let mut tasks = s.tasks.iter_mut().enumerate().rev();
                tasks.find_map(|(index, (host, flag, task))| {
                    let woken =
                        task.is_some() && may_run(*host, index) && flag.0.swap(false, Ordering::Relaxed);
                    woken.then(|| (index, flag.clone(), task.take()))
                })
            })
        };
        while let Some((index, flag, Some(mut task))) = next() {
            if task.as_mut().poll(&mut Context::from_waker(&Waker::from(flag))).is_pending() {
                self.0.with(|s| s.tasks[index].2 = Some(task));
            }
        }
    }

    fn run(&self, host: u16) {
        self.run_if(|on, _| on == host);
    }

    /// Wakes who waits for a socket that has something. Returns whether there was anybody.
    fn wake_readers(&self) -> bool {
        let readers = self.0.with(|s| {
            let ready = s.buffers.values_mut().filter(|buffer| !buffer.messages.is_empty());
            ready.filter_map(|buffer| buffer.reader.take()).collect::<Vec<_>>()
        });
        let any = !readers.is_empty();
        readers.into_iter().for_each(Waker::wake);
        any
    }

    fn wake_timers(&self) {
        let due = self.0.with(|s| {
            let now = s.now;
            let (due, rest) = std::mem::take(&mut s.timers).into_iter().partition(|(_, at, _)| *at <= now);
            s.timers = rest;
            due
        });
        let due: Vec<(u64, Instant, Waker)> = due;
        due.into_iter().for_each(|(_, _, waker)| waker.wake());
    }

    fn sleep(&self, time: Duration) {
        self.0.with(|s| s.now += time);
    }

    /// Runs everything for `time`.
    fn run_for(&self, time: Duration) {
        let end = self.0.with(|s| s.now) + time;
        loop {
            self.run_if(|_, _| true);
            if self.wake_readers() {
                continue;
            }
            let next = self.0.with(|s| {
                let next = s.timers.iter().map(|(_, at, _)| *at).min().filter(|at| *at < end);
                s.now = s.now.max(next.unwrap_or(end));
                next
            });
            if next.is_none() {
                return;
            }
            self.wake_timers();
        }
    }

    /// Runs everything until `future` is done.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..100_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return value;
            }
            self.run_for(Duration::from_millis(1));
        }
        panic!("not done after 100 s");
    }

    fn buffered(&self, port: u16) -> usize {
        self.0.with(|s| s.buffers[&address(port)].messages.len())
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// One host's share of the machine.
struct Host {
    machine: Machine,
    host: u16,
}

impl Runtime for Host {
    type Socket = Port;
    type Timer = Alarm;

    fn current() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn now(&self) -> Instant {
        self.machine.0.with(|s| s.now)
    }

    fn unix_now(&self) -> Duration {
        Duration::from_secs(1_800_000_000)
    }

    fn seed(&self) -> io::Result<[u8; 32]> {
        let [_, low] = self.host.to_be_bytes();
        Ok([low; 32])
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<Port> {
        self.machine.0.with(|s| s.buffers.insert(addr, Buffer::default()));
        Ok(Port { machine: self.machine.clone(), addr })
    }

    fn timer(&self, at: Instant) -> Alarm {
        let id = self.machine.0.with(|s| {
            s.timer_ids += 1;
            s.timer_ids
        });
        Alarm { machine: self.machine.clone(), id, at }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.machine.spawn(self.host, task);
    }

    fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        work();
    }
}

struct Alarm {
    machine: Machine,
    id: u64,
    at: Instant,
}

impl Timer for Alarm {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.at = at;
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.machine.0.with(|s| {
            s.timers.retain(|(id, ..)| *id != self.id);
            if self.at <= s.now {
                return Poll::Ready(());
            }
            s.timers.push((self.id, self.at, cx.waker().clone()));
            Poll::Pending
        })
    }
}

struct Port {
    machine: Machine,
    addr: SocketAddr,
}

impl Socket for Port {
    type Writable = Always;

    fn try_send(&self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        let at_send = self.machine.0.with(|s| {
            if let Some(buffer) = s.buffers.get_mut(&transmit.destination) {
                buffer.messages.push_back((self.addr, bytes.to_vec()));
            }
            s.at_send.take()
        });
        if let Some(at_send) = at_send {
            at_send();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.machine.0.with(|s| {
            let buffer = s.buffers.entry(self.addr).or_default();
            let mut count = 0;
            for (buf, meta) in bufs.iter_mut().zip(meta) {
                let Some((addr, bytes)) = buffer.messages.pop_front() else {
                    break;
                };
                buf[..bytes.len()].copy_from_slice(&bytes);
                *meta = RecvMeta { addr, len: bytes.len(), stride: bytes.len(), ecn: None, dst_ip: None };
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            buffer.reader = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn writable(self: &Arc<Self>) -> Always {
        Always
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

struct Always;

impl Writable for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client and a server, connected.
struct Pair {
    machine: Machine,
    endpoint: Endpoint<Host>,
    client: Connection,
    server: Connection,
    _listener: Endpoint<Host>,
}

fn pair(transport: TransportConfig) -> Pair {
    let machine = Machine::new();
    let authority = Authority::new();
    let (tls, _) = authority.server("server.test");
    let config = ServerConfig::try_from(tls).unwrap().primary(Arc::new(SigningKey::from_seed([7; 32])));
    let host = machine.host(SERVER);
    let socket = host.bind(address(SERVER)).unwrap();
    let listener = Endpoint::new_from_socket(Some(config), socket, host).unwrap();
    let host = machine.host(CLIENT);
    let socket = host.bind(address(CLIENT)).unwrap();
    let endpoint = Endpoint::new_from_socket(None, socket, host).unwrap();
    let config = ClientConfig::try_from(authority.client()).unwrap().transport(transport);
    let connecting = endpoint.connect_with(config, address(SERVER), "server.test").unwrap();
    let incoming = machine.wait(listener.accept()).unwrap();
    let Ok(Accepted::Primary(server)) = machine.wait(incoming.accept_any()) else {
        panic!("no primary");
    };
    let client = machine.wait(connecting).unwrap();
    machine.run_for(Duration::from_millis(500));
    Pair { machine, endpoint, client, server: server.into(), _listener: listener }
}

/// The process has not run for longer than its idle timeout, or its session's task has not. Timers are woken first and
/// sessions run first, but a sign of life has been there all along, in the socket or in the inbox.
#[test]
fn no_peer_is_gone_while_its_datagrams_wait() {
    for endpoint_runs in [false, true] {
        let Pair { machine, endpoint: _endpoint, client, server, _listener } =
            pair(TransportConfig::default().idle_timeout(Duration::from_secs(1)));
        let mut stream = machine.wait(server.open_uni()).unwrap();
        let mut slept = 0;
        for step in [400, 200, 200, 200, 200] {
            machine.sleep(Duration::from_millis(step));
            machine.wake_timers();
            if endpoint_runs {
                run_endpoint_only(&machine);
            }
            slept += step;
            if slept < 700 {
                let mut write = pin!(stream.write_all(b"here"));
                assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
            }
            machine.run(SERVER);
        }
        assert!(endpoint_runs || machine.buffered(CLIENT) > 0);
        machine.run(CLIENT);
        assert_eq!(client.close_reason(), None);
        assert!(endpoint_runs || machine.buffered(CLIENT) == 0);
        machine.run_for(Duration::from_millis(100));
        assert_eq!((client.close_reason(), server.close_reason()), (None, None));
        // Silence is still noticed, and in time.
        let kill = |task: &mut (u16, Arc<Flag>, Option<Task>)| task.2.take();
        let killed: Vec<_> =
            machine.0.with(|s| s.tasks.iter_mut().filter(|(host, ..)| *host == SERVER).map(kill).collect());
        drop(killed);
        let before = machine.host(CLIENT).now();
        machine.wait(client.closed());
        assert_eq!(client.close_reason(), Some(ConnectionError::TimedOut));
        let after = machine.host(CLIENT).now() - before;
        assert!(after < Duration::from_millis(1100), "{after:?}");
    }
}

/// Puts `count` copies of a datagram of the server's into the client's socket.
fn flood(machine: &Machine, server: &Connection, count: usize) {
    machine.run_for(Duration::from_millis(100));
    let mut stream = machine.wait(server.open_uni()).unwrap();
    assert!(pin!(stream.write_all(&[7; 1100])).poll(&mut Context::from_waker(Waker::noop())).is_ready());
    machine.run(SERVER);
    machine.0.with(|s| {
        let messages = &mut s.buffers.get_mut(&address(CLIENT)).unwrap().messages;
        let longest = messages.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().clone();
        assert!(longest.1.len() > 1100);
        messages.extend(std::iter::repeat_n(longest, count));
    });
}

/// The client's endpoint runs, its session does not.
fn run_endpoint_only(machine: &Machine) {
    machine.wake_timers();
    machine.wake_readers();
    let endpoint = machine.0.with(|s| s.tasks.iter().position(|(host, ..)| *host == CLIENT)).unwrap();
    machine.run_if(|_, index| index == endpoint);
}

/// What windows permit to be under way has room, however late the session's task is: 20 MiB, with a window of 64.
#[test]
fn what_the_windows_permit_is_not_dropped() {
    let Pair { machine, endpoint, client, server, _listener } = pair(TransportConfig::default());
    flood(&machine, &server, 20 * 1024);
    run_endpoint_only(&machine);
    assert_eq!((machine.buffered(CLIENT), endpoint.stats().dropped_datagrams), (0, 0));
    machine.run_for(Duration::from_millis(100));
    assert_eq!((client.close_reason(), server.close_reason()), (None, None));
    assert!(client.stats().paths[&crate::PathId::PRIMARY].udp_rx_datagrams > 20 * 1024);
}

/// Beyond that the socket is left unread for a moment, then the excess is dropped; nobody else waits for long.
#[test]
fn a_session_that_is_stuck_holds_up_others_for_a_moment_only() {
    let mut small = TransportConfig::default().session_window(1 << 17).secondary_paths_max(0);
    small.stream_receive_window((1u32 << 16).into());
    let Pair { machine, endpoint, client, server, _listener } = pair(small);
    flood(&machine, &server, 10_000);
    run_endpoint_only(&machine);
    let left = machine.buffered(CLIENT);
    assert!(left > 5000, "{left} datagrams were left in the socket");
    assert_eq!(endpoint.stats().dropped_datagrams, 0);
    machine.sleep(Duration::from_millis(9));
    run_endpoint_only(&machine);
    assert_eq!((machine.buffered(CLIENT), endpoint.stats().dropped_datagrams), (left, 0));
    machine.sleep(Duration::from_millis(2));
    run_endpoint_only(&machine);
    let dropped = endpoint.stats().dropped_datagrams;
    assert_eq!(machine.buffered(CLIENT), 0);
    assert!(dropped >= left as u64, "{dropped} of {left} were dropped");
    // The session wakes up, takes what it has, and there is room again.
    machine.run_for(Duration::from_millis(200));
    flood(&machine, &server, 1000);
    machine.run_for(Duration::from_millis(200));
    assert_eq!(endpoint.stats().dropped_datagrams, dropped);
    assert_eq!((client.close_reason(), server.close_reason()), (None, None));
}

/// A session that takes what comes, if late, loses nothing: reading waits for it.
#[test]
fn reading_waits_for_a_session_that_is_merely_late() {
    let mut small = TransportConfig::default().session_window(1 << 17).secondary_paths_max(0);
    small.stream_receive_window((1u32 << 16).into());
    let Pair { machine, endpoint, client, server, _listener } = pair(small);
    flood(&machine, &server, 10_000);
    run_endpoint_only(&machine);
    assert!(machine.buffered(CLIENT) > 5000);
    machine.sleep(Duration::from_millis(5));
    machine.run_for(Duration::from_millis(100));
    assert_eq!((machine.buffered(CLIENT), endpoint.stats().dropped_datagrams), (0, 0));
    assert_eq!((client.close_reason(), server.close_reason()), (None, None));
}

/// Bound to another socket in the middle of a transfer, a client is found there at once. What was on its way to the old
/// socket is read as well.
#[test]
fn a_client_goes_over_to_another_socket() {
    const MOVED: u16 = 77;
    let Pair { machine, endpoint, client, server, _listener } = pair(TransportConfig::default());
    let mut send = machine.wait(server.open_uni()).unwrap();
    machine.wait(send.write_all(&[7; 1000])).unwrap();
    let mut recv = machine.wait(client.accept_uni()).unwrap();
    let mut buf = [0; 1000];
    machine.wait(recv.read_exact(&mut buf)).unwrap();
    machine.run_for(Duration::from_millis(200));
    assert!(pin!(send.write_all(&[8; 1000])).poll(&mut Context::from_waker(Waker::noop())).is_ready());
    machine.run(SERVER);
    assert!(machine.buffered(CLIENT) > 0);

    let socket = machine.host(CLIENT).bind(address(MOVED)).unwrap();
    endpoint.rebind_abstract(socket).unwrap();
    assert_eq!(endpoint.local_addr().unwrap(), address(MOVED));
    machine.run(CLIENT);
    assert_eq!(machine.buffered(CLIENT), 0, "what came to the old socket is left unread");
    machine.wait(recv.read_exact(&mut buf)).unwrap();
    assert_eq!(buf, [8; 1000]);
    machine.run_for(Duration::from_millis(100));
    assert_eq!(server.remote_address(), address(MOVED));

    // From now on nobody reads the old one.
    machine.0.with(|s| {
        let stray = (address(SERVER), vec![0; 100]);
        s.buffers.get_mut(&address(CLIENT)).unwrap().messages.push_back(stray);
    });
    machine.wait(send.write_all(&[9; 1000])).unwrap();
    machine.wait(recv.read_exact(&mut buf)).unwrap();
    assert_eq!((buf, machine.buffered(CLIENT)), ([9; 1000], 1));
    assert_eq!((client.close_reason(), server.close_reason()), (None, None));

    endpoint.abort();
    let socket = machine.host(CLIENT).bind(address(MOVED + 1)).unwrap();
    assert_eq!(endpoint.rebind_abstract(socket).unwrap_err().kind(), io::ErrorKind::NotConnected);
}

/// The packet that tells a server of a move leaves from the new socket, even if a session is in the middle of sending when
/// it moves: a client that has nothing more to say would not be found otherwise.
#[test]
fn a_client_that_goes_over_while_it_sends_says_so_from_there() {
    const MOVED: u16 = 77;
    let Pair { machine, endpoint, client, server, _listener } = pair(TransportConfig::default());
    machine.run_for(Duration::from_millis(200));
    let socket = machine.host(CLIENT).bind(address(MOVED)).unwrap();
    machine.0.with(|s| s.at_send = Some(Box::new(move || endpoint.rebind_abstract(socket).unwrap())));
    let mut send = machine.wait(client.open_uni()).unwrap();
    assert!(pin!(send.write_all(&[7; 100])).poll(&mut Context::from_waker(Waker::noop())).is_ready());
    machine.run(CLIENT);
    let from = machine.0.with(|s| s.buffers[&address(SERVER)].messages.back().map(|(from, _)| *from));
    assert_eq!(from, Some(address(MOVED)));
    machine.run_for(Duration::from_millis(200));
    assert_eq!(server.remote_address(), address(MOVED));
}

/// Told that the network has changed, an endpoint sends for each connection that it has made, and for no other.
#[test]
fn a_hint_makes_clients_send_and_servers_not() {
    let Pair { machine, endpoint, client: _client, server: _server, _listener: listener } =
        pair(TransportConfig::default());
    machine.run_for(Duration::from_secs(5));
    assert_eq!(machine.buffered(SERVER), 0);
    endpoint.network_changed();
    machine.run(CLIENT);
    assert_eq!(machine.buffered(SERVER), 1);
    machine.run_for(Duration::from_secs(5));
    listener.network_changed();
    machine.run(SERVER);
    assert_eq!(machine.buffered(CLIENT), 0);
}
