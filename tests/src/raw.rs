//! Peers that speak `kwik/1` by hand over plain quinn. They answer a hello properly; what they do then is the test's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use kwik_proto::v1 as pb;
use kwik_tokio::{PublicKey, Signer, SigningKey, SpkiHash};
use pb::FrameType;
use prost::Message;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

use crate::{
    authority::{Authority, Identity},
    soon, wire,
};

/// The ALPN of the protocol.
pub const ALPN: &[u8] = b"kwik/1";
/// TLS exporter label of the attach proof.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-kwik/1 attach";

/// A server on plain quinn.
#[derive(Debug)]
pub struct RawServer {
    /// Its endpoint.
    pub endpoint: quinn::Endpoint,
    /// Its certificate.
    pub identity: Identity,
}

impl RawServer {
    /// Opens a server on loopback.
    #[must_use]
    pub fn new(authority: &Authority, name: &str) -> Self {
        Self::with_alpn(authority.issue(name), ALPN)
    }

    /// Opens a server on loopback that speaks `alpn`.
    #[must_use]
    pub fn with_alpn(identity: Identity, alpn: &[u8]) -> Self {
        let mut tls = identity.tls.clone();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3");
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport()));
        let endpoint = quinn::Endpoint::server(config, loopback()).expect("a free port");
        Self { endpoint, identity }
    }

    /// Returns where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("a bound socket")
    }

    /// Waits for a client and its hello.
    pub async fn accept(&self) -> RawPeer {
        soon("a client and its hello", async {
            let incoming = self.endpoint.accept().await.expect("the endpoint is open");
            let connection = incoming.await.expect("the client's handshake");
            let (send, recv) = connection.accept_bi().await.expect("the client's control stream");
            let mut control = Control::new(send, recv);
            let hello = control.expect(FrameType::ClientHello).await;
            RawPeer { connection, control, hello }
        })
        .await
    }
}

/// A connection of plain quinn with its control stream.
#[derive(Debug)]
pub struct RawPeer {
    /// The connection.
    pub connection: quinn::Connection,
    /// Its control stream.
    pub control: Control,
    /// First frame of the client.
    pub hello: pb::ClientHello,
}

impl RawPeer {
    /// Answers a secondary's hello as an honest server would.
    pub async fn welcome(&mut self) {
        let attach = self.hello.attach.clone().expect("a secondary's hello");
        self.welcome_to(attach.session()).await;
    }

    /// Answers a hello with a session.
    pub async fn welcome_to(&mut self, session: &[u8]) {
        let hello = pb::ServerHello {
            version: Some(1),
            features: Some(0),
            session: Some(Bytes::copy_from_slice(session)),
            app_protocol: None,
        };
        self.control.send(FrameType::ServerHello, &hello).await;
    }

    /// Opens a unidirectional stream and writes `bytes`, header and all, on it.
    pub async fn open_uni(&self, bytes: &[u8]) -> quinn::SendStream {
        let mut stream =
            soon("room for a stream", self.connection.open_uni()).await.expect("a live connection");
        // Whoever is cut may be cut before all is written.
        let _cut = stream.write_all(bytes).await;
        stream
    }

    /// Waits for the end of the connection and returns the code it was closed with.
    pub async fn closed(&self) -> u64 {
        close_code(&self.connection).await
    }
}

/// A control stream.
#[derive(Debug)]
pub struct Control {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    buffer: Vec<u8>,
}

impl Control {
    /// Takes over both halves of a stream.
    #[must_use]
    pub fn new(send: quinn::SendStream, recv: quinn::RecvStream) -> Self {
        Self { send, recv, buffer: Vec::new() }
    }

    /// Sends a frame.
    pub async fn send(&mut self, kind: FrameType, body: &impl Message) {
        self.send_bytes(&wire::frame(kind, body)).await;
    }

    /// Sends bytes, whatever they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.expect("a live control stream");
    }

    /// Returns the half towards the peer.
    pub fn sender(&mut self) -> &mut quinn::SendStream {
        &mut self.send
    }

    /// Returns the next frame; `None` once the peer has ended the stream or the connection.
    pub async fn next(&mut self) -> Option<(FrameType, Vec<u8>)> {
        loop {
            if let Some(frame) = wire::take_frame(&mut self.buffer) {
                return Some(frame);
            }
            let chunk = self.recv.read_chunk(usize::MAX, true).await.ok()??;
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }

    /// Skips frames up to the next of type `kind` and returns its body.
    pub async fn expect<M: Message + Default>(&mut self, kind: FrameType) -> M {
        soon(kind.as_str_name(), async {
            loop {
                let (got, body) = self.next().await.expect("the control stream is open");
                if got == kind {
                    return M::decode(&*body).expect("a valid body");
                }
            }
        })
        .await
    }
}

/// Waits for the peer to end a connection and returns the code it did so with.
pub async fn close_code(connection: &quinn::Connection) -> u64 {
    let error = soon("the end of the connection", connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = error else {
        panic!("closed otherwise: {error}");
    };
    close.error_code.into_inner()
}

/// Dials as a client on plain quinn. Returns the connection with its control stream open and nothing said.
///
/// # Errors
/// - Whatever ended the handshake.
pub async fn dial(
    endpoint: &quinn::Endpoint,
    authority: &Authority,
    alpn: &[u8],
    address: SocketAddr,
    name: &str,
) -> Result<(quinn::Connection, Control), quinn::ConnectionError> {
    let mut tls = authority.client();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")));
    config.transport_config(Arc::new(transport()));
    let connecting = endpoint.connect_with(config, address, name).expect("a valid address");
    let connection = soon("the handshake", connecting).await?;
    let (send, recv) = connection.open_bi().await?;
    Ok((connection, Control::new(send, recv)))
}

/// Opens an endpoint of plain quinn that only dials.
#[must_use]
pub fn dialler() -> quinn::Endpoint {
    quinn::Endpoint::client(loopback()).expect("a free port")
}

/// Returns what a client proves its key with: the signature over the connection's exporter.
#[must_use]
pub fn attach_proof(connection: &quinn::Connection, key: &SigningKey) -> Vec<u8> {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").expect("an established connection");
    key.sign(&[b"kwik/1 attach\0", &exporter[..]].concat()).as_bytes().to_vec()
}

/// A ticket by hand.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The session.
    pub session: [u8; 16],
    /// The path.
    pub path: u32,
    /// Server that it is for.
    pub audience: SpkiHash,
    /// Key of the client that may show it.
    pub client_key: PublicKey,
    /// Seconds since the Unix epoch.
    pub issued: u64,
    /// Seconds since the Unix epoch.
    pub expires: u64,
    /// Random bytes that make it new.
    pub nonce: [u8; 16],
}

impl Ticket {
    /// Returns its wire form, signed by `signer`. Spec: PROTOCOL §9.
    #[must_use]
    pub fn seal(&self, signer: &dyn Signer) -> Vec<u8> {
        let mut body = vec![3];
        body.extend(&signer.public_key().as_bytes()[..8]);
        body.extend(self.session);
        body.extend(self.path.to_be_bytes());
        body.extend(self.client_key.as_bytes());
        body.extend(self.issued.to_be_bytes());
        body.extend(self.expires.to_be_bytes());
        body.extend(self.nonce);
        body.extend(self.audience.as_bytes());
        let signature = signer.sign(&[b"kwik/1 ticket\0", &body[..]].concat());
        body.extend(signature.as_bytes());
        body
    }
}

/// Returns seconds since the Unix epoch.
#[must_use]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Returns an address on loopback with any free port.
#[must_use]
pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Returns an address on loopback.
#[must_use]
pub fn loopback_port(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Returns a range as the wire has it.
#[must_use]
pub fn range(start: u64, length: u64) -> Option<pb::ByteRange> {
    Some(pb::ByteRange { start: Some(start), length: Some(length) })
}

/// Returns bytes of a secondary stream: its header, then `bytes`.
#[must_use]
pub fn secondary_stream(lease: u64, offset: u64, bytes: &Bytes) -> Vec<u8> {
    let open = pb::SecondaryStreamOpen { lease: Some(lease), offset: Some(offset) };
    let mut out = wire::header(pb::StreamHeaderType::SecondaryStreamOpen, &open);
    out.extend_from_slice(bytes);
    out
}

fn transport() -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config.keep_alive_interval(Some(Duration::from_secs(1)));
    config
}
