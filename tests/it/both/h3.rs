// A server of HTTP/3 and its client, written for `h3-quinn`.
use std::{error::Error, net::Ipv4Addr, sync::Arc};

use bytes::{Buf as _, Bytes};
use h3::{error::Code, quic, server::RequestStream};
use h3_transport::quinn::{ClientConfig, Endpoint, ServerConfig, crypto::rustls::{QuicClientConfig, QuicServerConfig}};
use http::{HeaderMap, Request, Response, StatusCode};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::Notify;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const BIG: usize = 700_000;

fn endpoints() -> Fallible<(Endpoint, Endpoint)> {
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der = CertificateDer::from(cert.cert);
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key.into())?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let server = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    client.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
    Ok((client, server))
}

async fn answer<T>(request: Request<()>, mut stream: RequestStream<T, Bytes>, given_up: &Notify) -> Fallible<String>
where
    T: quic::BidiStream<Bytes>,
{
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/big" => {
            stream.send_response(Response::builder().header("content-length", BIG).body(())?).await?;
            for at in (0..BIG).step_by(BIG / 7) {
                stream.send_data(Bytes::from(vec![at.to_le_bytes()[0]; BIG / 7])).await?;
            }
        }
        "/refused" => {
            stream.stop_sending(Code::H3_NO_ERROR);
            stream.stop_stream(Code::H3_REQUEST_REJECTED);
            return Ok(path);
        }
        "/unwanted" => {
            stream.send_response(Response::new(())).await?;
            loop {
                if let Err(error) = stream.send_data(Bytes::from_static(&[0; 10_000])).await {
                    given_up.notify_one();
                    return Ok(format!("{path}: {error}"));
                }
            }
        }
        _ => {
            if path == "/given-up" {
                given_up.notified().await;
            }
            let mut body = Vec::new();
            while let Some(mut piece) = stream.recv_data().await? {
                body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
            }
            let mut trailers = stream.recv_trailers().await?.unwrap_or_default();
            let status = if path == "/echo" { StatusCode::OK } else { StatusCode::NOT_FOUND };
            stream.send_response(Response::builder().status(status).body(())?).await?;
            stream.send_data(Bytes::from(body)).await?;
            if let Some(name) = trailers.remove("name") {
                trailers.insert("greeted", name);
                stream.send_trailers(trailers).await?;
            }
        }
    }
    stream.finish().await?;
    Ok(path)
}

async fn serve(server: Endpoint) -> Fallible<Vec<String>> {
    let connection = server.accept().await.ok_or("closed")?.await?;
    let mut connection = h3::server::Connection::new(h3_transport::Connection::new(connection)).await?;
    let mut answers = Vec::new();
    let given_up = Arc::new(Notify::new());
    let ended = loop {
        match connection.accept().await {
            Ok(Some(resolver)) => {
                let given_up = given_up.clone();
                answers.push(tokio::spawn(async move {
                    let (request, stream) = resolver.resolve_request().await?;
                    answer(request, stream, &given_up).await
                }));
            }
            Ok(None) => break "all is done".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    let mut said = Vec::new();
    for answer in answers {
        said.push(answer.await??);
    }
    said.sort();
    said.push(ended);
    server.wait_idle().await;
    Ok(said)
}

pub(super) async fn program() -> Fallible<Vec<String>> {
    let (client, server) = endpoints()?;
    let connecting = client.connect(server.local_addr()?, "localhost")?;
    let serving = tokio::spawn(serve(server));
    let connection = h3_transport::Connection::new(connecting.await?);
    let (mut driver, mut requests) = h3::client::new(connection).await?;
    let driving = tokio::spawn(async move { driver.wait_idle().await.to_string() });
    let mut said = Vec::new();
    let uri = |path: &str| format!("https://localhost{path}");

    // A question and its answer, each with a body and trailers.
    let mut stream = requests.send_request(Request::post(uri("/echo")).body(())?).await?;
    for word in ["hello, ", "is anybody there?"] {
        stream.send_data(Bytes::from_static(word.as_bytes())).await?;
    }
    stream.send_trailers(HeaderMap::from_iter([("name".parse()?, "nobody".parse()?)])).await?;
    stream.finish().await?;
    let response = stream.recv_response().await?;
    let mut body = Vec::new();
    while let Some(mut piece) = stream.recv_data().await? {
        body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
    }
    said.push(format!("{} {}", response.status(), String::from_utf8(body)?));
    said.push(format!("{:?}", stream.recv_trailers().await?.ok_or("no trailers")?.get("greeted")));

    // Many at once, and one of them long.
    let paths = (0..30).map(|number| if number == 7 { "/big".to_owned() } else { format!("/{number}") });
    let mut fetching = Vec::new();
    for path in paths {
        let (mut requests, uri) = (requests.clone(), uri(&path));
        fetching.push(tokio::spawn(async move {
            let mut stream = requests.send_request(Request::get(uri).body(())?).await?;
            stream.finish().await?;
            let response = stream.recv_response().await?;
            let mut size = 0;
            while let Some(piece) = stream.recv_data().await? {
                size += piece.remaining();
            }
            Fallible::Ok(format!("{path}: {} {size}", response.status()))
        }));
    }
    for fetched in fetching {
        said.push(fetched.await??);
    }

    // One that is refused, and one that is given up.
    let mut stream = requests.send_request(Request::get(uri("/refused")).body(())?).await?;
    said.push(stream.recv_response().await.err().ok_or("it is not refused")?.to_string());
    let stream = requests.send_request(Request::get(uri("/unwanted")).body(())?).await?;
    let (mut send, mut recv) = stream.split();
    send.finish().await?;
    recv.recv_response().await?;
    recv.stop_sending(Code::H3_REQUEST_CANCELLED);
    let mut stream = requests.send_request(Request::get(uri("/given-up")).body(())?).await?;
    stream.finish().await?;
    said.push(stream.recv_response().await?.status().to_string());

    // The last of those who ask is gone.
    drop((send, recv, stream, requests));
    said.push(driving.await?);
    said.extend(serving.await??);
    client.wait_idle().await;
    Ok(said)
}
