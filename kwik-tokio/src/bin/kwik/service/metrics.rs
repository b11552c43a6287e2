//! Counters of a server, and the page where whoever watches over it finds them.
//!
//! HTTP on a TCP address of its own: `/metrics` in the text format of Prometheus (`OpenMetrics` 1.0), `/healthz` for whether the
//! process answers, `/readyz` for whether it takes new clients. Nobody has to be trusted for that, so that the address
//! should be one of this machine or of a network of the operator's.

use std::{convert::Infallible, fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use tokio::{net::TcpListener, sync::Semaphore, time};

use super::stop::Told;
use crate::failure::Failure;

/// Connections at once; others wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// Time that a connection may take, from its beginning to its end.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// Time between two tries to accept after one that failed, for want of open files for instance.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);
/// Content type of that text.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label and its value; both are words of this program, so that there are few.
type Label = [(&'static str, &'static str); 1];

/// The counters of a server, from its start on.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    registry: Registry,
    clients: Gauge,
    clients_total: Counter,
    clients_refused: Counter,
    sent: Family<Label, Counter>,
    requests: Family<Label, Counter>,
    mirrors: Gauge,
    mirrors_lost: Counter,
    mirrors_missed: Counter,
    jobs: Family<Label, Counter>,
    leases: Family<Label, Counter>,
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self { registry: Registry::with_prefix("kwik"), ..Self::default() };
        let Self { registry, clients, clients_total, clients_refused, sent, .. } = &mut metrics;
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", version);
        registry.register("clients", "Clients that are served now", clients.clone());
        registry.register("clients_admitted", "Clients that were let in", clients_total.clone());
        registry.register(
            "clients_refused",
            "Clients that were turned away, as too many were served",
            clients_refused.clone(),
        );
        registry.register_with_unit("sent", "Bytes of objects, by who sent them", Unit::Bytes, sent.clone());
        metrics
    }

    /// Makes those of a primary.
    pub(crate) fn of_primary() -> Arc<Self> {
        let mut metrics = Self::new();
        let Self { registry, requests, mirrors, mirrors_lost, mirrors_missed, .. } = &mut metrics;
        registry.register("requests", "Requests of clients, by their end", requests.clone());
        registry.register("mirrors_attached", "Mirrors attached, over all clients", mirrors.clone());
        registry.register("mirrors_lost", "Mirrors that were attached and were lost", mirrors_lost.clone());
        registry.register(
            "mirrors_missed",
            "Attempts to attach a mirror that failed",
            mirrors_missed.clone(),
        );
        Arc::new(metrics)
    }

    /// Makes those of a mirror.
    pub(crate) fn of_mirror() -> Arc<Self> {
        let mut metrics = Self::new();
        let Self { registry, jobs, leases, .. } = &mut metrics;
        registry.register("jobs", "Jobs of primaries, by whether they were taken", jobs.clone());
        registry.register("leases", "Ranges that were asked for, by their end", leases.clone());
        Arc::new(metrics)
    }

    pub(super) fn on_client_admitted(&self) {
        self.clients.inc();
        self.clients_total.inc();
    }

    pub(super) fn on_client_gone(&self) {
        self.clients.dec();
    }

    pub(super) fn on_client_refused(&self) {
        self.clients_refused.inc();
    }

    /// Bytes of objects went out from this server.
    pub(crate) fn on_sent(&self, bytes: u64) {
        self.sent.get_or_create(&[("by", "self")]).inc_by(bytes);
    }

    /// Bytes of objects went out from mirrors.
    pub(crate) fn on_sent_by_mirrors(&self, bytes: u64) {
        self.sent.get_or_create(&[("by", "mirrors")]).inc_by(bytes);
    }

    pub(crate) fn on_request(&self, answered: bool) {
        let result = if answered { "answered" } else { "failed" };
        self.requests.get_or_create(&[("result", result)]).inc();
    }

    /// A mirror is attached, until what is returned is dropped.
    pub(crate) fn on_mirror_attached(&self) -> Attached {
        self.mirrors.inc();
        Attached(self.mirrors.clone())
    }

    pub(crate) fn on_mirror_lost(&self) {
        self.mirrors_lost.inc();
    }

    pub(crate) fn on_mirror_missed(&self) {
        self.mirrors_missed.inc();
    }

    pub(crate) fn on_job(&self, taken: bool) {
        let result = if taken { "taken" } else { "refused" };
        self.jobs.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn on_lease(&self, filled: bool) {
        let result = if filled { "filled" } else { "failed" };
        self.leases.get_or_create(&[("result", result)]).inc();
    }
}

/// A mirror that is attached.
#[derive(Debug)]
#[must_use]
pub(crate) struct Attached(Gauge);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Shows the counters at `address` for as long as the runtime lives.
///
/// # Errors
/// - A usage error if that address cannot be listened on.
pub(crate) async fn show(address: SocketAddr, metrics: Arc<Metrics>, told: Told) -> Result<(), Failure> {
    let fail = |error| Failure::input(format!("cannot listen on {address} for --metrics: {error}"));
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let local = listener.local_addr().map_err(fail)?;
    tracing::info!(http = %local, "metrics");
    drop(tokio::spawn(accept(listener, metrics, told))); // it ends with the runtime
    Ok(())
}

async fn accept(listener: TcpListener, metrics: Arc<Metrics>, told: Told) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "no connection for metrics");
                time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (metrics, told) = (metrics.clone(), told.clone());
        tokio::spawn(async move {
            let _place = place;
            let answer = service::service_fn(|request| {
                let page = page(&request, &metrics, &told);
                async { Ok::<_, Infallible>(page) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(CONNECTION_MAX).keep_alive(false);
            let connection = http.serve_connection(TokioIo::new(stream), answer);
            // Whoever asked sees that it failed; here nothing depends on it.
            let _ended = time::timeout(CONNECTION_MAX, connection).await;
        });
    }
}

fn page(request: &Request<Incoming>, metrics: &Metrics, told: &Told) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    match request.uri().path() {
        "/metrics" => {
            let mut text = String::new();
            match encode(&mut text, &metrics.registry) {
                Ok(()) => response(StatusCode::OK, TEXT, text),
                Err(fmt::Error) => plain(StatusCode::INTERNAL_SERVER_ERROR, "no text"),
            }
        }
        "/healthz" => plain(StatusCode::OK, "ok"),
        "/readyz" if told.get() => plain(StatusCode::SERVICE_UNAVAILABLE, "being stopped"),
        "/readyz" => plain(StatusCode::OK, "ready"),
        _ => plain(StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz"),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
