//! quinn-proto alone: one client, one server, one unidirectional stream.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use kwik_core::limits;
use kwik_tests::authority::Authority;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event,
    ReadError, ServerConfig, StreamEvent, StreamId, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use crate::{
    Contestant,
    network::{Datagram, End, Network, SERVER, TRAIN, piece, split},
    samples::Samples,
};

/// One of the two.
struct Peer {
    endpoint: Endpoint,
    address: SocketAddr,
    connection: Option<(ConnectionHandle, Connection)>,
    buf: Vec<u8>,
    connected: bool,
    /// Stream that is being read, if there may be something of it.
    stream: Option<StreamId>,
    readable: bool,
    ended: bool,
}

impl Peer {
    fn new(index: u16, server: Option<ServerConfig>) -> Self {
        let config = Arc::new(EndpointConfig::default());
        Self {
            endpoint: Endpoint::new(config, server.map(Arc::new), true, Some([7; 32])),
            address: SocketAddr::from(([127, 0, 0, 1], 4000 + index)),
            connection: None,
            buf: Vec::new(),
            connected: false,
            stream: None,
            readable: false,
            ended: false,
        }
    }

    /// Takes what the connection reports.
    fn poll(&mut self) {
        let Some((_, connection)) = &mut self.connection else { return };
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    self.stream = connection.streams().accept(Dir::Uni);
                    self.readable = true;
                }
                Event::Stream(StreamEvent::Readable { .. }) => self.readable = true,
                Event::ConnectionLost { reason } => panic!("{reason}"),
                Event::HandshakeDataReady
                | Event::Stream(_)
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
    }
}

impl End for Peer {
    fn handle(&mut self, now: Instant, datagram: Datagram) {
        self.buf.clear();
        let Datagram { from, bytes, .. } = datagram;
        match self.endpoint.handle(now, from, None, None, bytes, &mut self.buf) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, now, &mut self.buf, None);
                self.connection = Some(accepted.expect("an honest client"));
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    fn read(&mut self, _: Instant) -> u64 {
        self.poll();
        let (Some((_, connection)), Some(stream), true) = (&mut self.connection, self.stream, self.readable)
        else {
            return 0;
        };
        let mut stream = connection.recv_stream(stream);
        let mut chunks = stream.read(true).expect("not read to its end");
        let read = match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => chunk.bytes.len() as u64,
            Ok(None) => {
                (self.stream, self.ended, self.readable) = (None, true, false);
                0
            }
            Err(ReadError::Blocked) => {
                self.readable = false;
                0
            }
            Err(ReadError::Reset(code)) => panic!("reset: {code}"),
        };
        // What it wants to send is asked for after every datagram.
        drop(chunks);
        read
    }

    fn transmit(&mut self, now: Instant, out: &mut VecDeque<Datagram>) {
        self.poll();
        let Some((handle, connection)) = &mut self.connection else { return };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(answer);
            }
        }
        self.buf.clear();
        while let Some(transmit) = connection.poll_transmit(now, TRAIN, &mut self.buf) {
            let train = self.buf.get(..transmit.size).unwrap_or_default();
            split((self.address, transmit.destination), train, transmit.segment_size, out);
            self.buf.clear();
        }
    }

    fn run_timers(&mut self, now: Instant) {
        if let Some((_, connection)) = &mut self.connection
            && connection.poll_timeout().is_some_and(|at| at <= now)
        {
            connection.handle_timeout(now);
        }
    }

    fn take_ended(&mut self) -> bool {
        std::mem::take(&mut self.ended)
    }

    fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The two.
pub(crate) struct Pair(Network<Peer>);

impl Pair {
    pub(crate) fn new(authority: &Authority) -> Self {
        let now = Instant::now();
        let mut tls = authority.issue("server.test").tls;
        tls.alpn_protocols = vec![b"plain/1".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3");
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport());
        let server = Peer::new(1, Some(config));

        let mut client = Peer::new(0, None);
        let mut tls = authority.client();
        tls.alpn_protocols = vec![b"plain/1".to_vec()];
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")));
        config.transport_config(transport());
        let connection = client.endpoint.connect(now, config, server.address, "server.test");
        client.connection = Some(connection.expect("a usable name and address"));

        let mut network = Network::new(now, vec![client, server]);
        network.run_until(|network| network.ends.iter().all(|end| end.connected));
        Self(network)
    }
}

impl Contestant for Pair {
    fn transfer(&mut self, size: u64, samples: &mut Samples) {
        let mut stream = None;
        let mut left = size;
        self.0.transfer(size, samples, |network| {
            let (_, connection) = network.end(SERVER).connection.as_mut().expect("connected");
            stream = stream.or_else(|| connection.streams().open(Dir::Uni));
            let Some(id) = stream else { return };
            let mut stream = connection.send_stream(id);
            while left > 0 {
                match stream.write_chunks(&mut [piece(left)]) {
                    Ok(written) => left -= written.bytes as u64,
                    Err(quinn_proto::WriteError::Blocked) => return,
                    Err(error) => panic!("{error}"),
                }
                if left == 0 {
                    stream.finish().expect("open");
                }
            }
        });
    }
}

/// The windows that KWIK has by default.
fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(limits::QUIC_STREAM_WINDOW.into()).send_window(limits::QUIC_SEND_WINDOW);
    Arc::new(transport)
}
