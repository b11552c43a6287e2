//! The mirrors: attached to every session, and again when they were lost.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use kwik_tokio::{AddPathError, ErrorCode, NewPath, PathError, PrimarySession, SpkiHash};
use tokio::{net, sync::watch, task::JoinSet, time};
use tracing::Instrument as _;

use crate::{
    protocol::{PORT, codes},
    service::Metrics,
};

/// Time before a mirror that is away is tried again; it doubles each time.
const RETRY_MIN: Duration = Duration::from_secs(2);
/// Longest time between two tries.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Time in which a mirror that is named no more may end what it has begun.
const DRAIN: Duration = Duration::from_secs(30);
/// Addresses of one server that clients are told. Spec: PROTOCOL §11.
const ADDRESSES_MAX: usize = 4;

/// A mirror, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    host: String,
    port: u16,
    pin: SpkiHash,
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, pin) = text
            .split_once('#')
            .ok_or("no pin: write HOST:PORT#PIN, with the pin that the mirror's `kwik keygen` printed")?;
        let pin = pin.parse().map_err(|error| format!("the pin is none: {error}"))?;
        let bracketed = address.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("what follows `]` is no port")?)),
            None => match address.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        if host.is_empty() || (bracketed.is_none() && host.contains(':')) {
            return Err("no host, or an IPv6 address without brackets".into());
        }
        let port =
            port.map_or(Ok(PORT), |port| port.parse().map_err(|_error| "the port is no number up to 65535"))?;
        Ok(Self { host: host.into(), port, pin })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Keeps the mirrors that are named attached to a session, for as long as it lives. The list may change.
pub(super) async fn keep_all(
    session: PrimarySession,
    mut mirrors: watch::Receiver<Vec<Mirror>>,
    metrics: Arc<Metrics>,
) {
    let mut kept = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        let named = mirrors.borrow_and_update().clone();
        for mirror in named.iter().filter(|mirror| !kept.contains(*mirror)) {
            let kept = keep(session.clone(), mirror.clone(), mirrors.clone(), metrics.clone());
            tasks.spawn(kept.in_current_span());
        }
        kept = named;
        if mirrors.changed().await.is_err() {
            // The list is final.
            while tasks.join_next().await.is_some() {}
            return;
        }
    }
}

/// Keeps a mirror attached to a session, for as long as the session lives and the mirror is named.
async fn keep(
    session: PrimarySession,
    mirror: Mirror,
    mut mirrors: watch::Receiver<Vec<Mirror>>,
    metrics: Arc<Metrics>,
) {
    let mut pause = RETRY_MIN;
    loop {
        match attach(&session, &mirror).await {
            Ok(path) => {
                tracing::info!(%mirror, %path, "mirror attached");
                pause = RETRY_MIN;
                let _attached = metrics.on_mirror_attached();
                let dead = tokio::select! {
                    dead = session.path_dead(path) => dead,
                    () = dropped(&mirror, &mut mirrors) => {
                        tracing::info!(%mirror, %path, "mirror is named no more");
                        // It fails if the path is gone already.
                        let _gone = session.drain_path(path, DRAIN);
                        return;
                    }
                };
                match dead {
                    Ok(code) => {
                        metrics.on_mirror_lost();
                        tracing::warn!(%mirror, %path, why = reason(code), %code, "mirror lost");
                    }
                    Err(_) => return,
                }
            }
            Err(missed) => {
                metrics.on_mirror_missed();
                if !missed.tell(&mirror) {
                    return;
                }
            }
        }
        tokio::select! {
            () = time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            () = dropped(&mirror, &mut mirrors) => return,
            _ = session.closed() => return,
        }
    }
}

/// Waits until a mirror is named no more.
async fn dropped(mirror: &Mirror, mirrors: &mut watch::Receiver<Vec<Mirror>>) {
    if mirrors.wait_for(|named| !named.contains(mirror)).await.is_err() {
        // The list is final.
        std::future::pending::<()>().await;
    }
}

/// Reasons that a mirror was not attached.
enum Missed {
    Address(std::io::Error),
    Path(PathError),
}

impl Missed {
    /// Logs why. Returns whether another try may succeed.
    fn tell(&self, mirror: &Mirror) -> bool {
        match self {
            Self::Address(error) => {
                tracing::warn!(
                    %mirror,
                    %error,
                    "mirror not attached: its name is not known, or this server's resolver does not answer"
                );
                true
            }
            Self::Path(PathError::Dead { code, .. }) => {
                tracing::warn!(%mirror, why = reason(*code), %code, "mirror not attached");
                true
            }
            Self::Path(PathError::Add(AddPathError::LimitExceeded(most))) => {
                tracing::warn!(%mirror, most, "mirror not attached: as many as may be are");
                true
            }
            Self::Path(PathError::Add(error @ (AddPathError::Misuse(_) | AddPathError::InvalidAddress))) => {
                tracing::error!(%mirror, %error, "mirror cannot be attached");
                false
            }
            // The session is over.
            Self::Path(_) => false,
        }
    }
}

async fn attach(session: &PrimarySession, mirror: &Mirror) -> Result<kwik_tokio::PathId, Missed> {
    let found: Vec<SocketAddr> =
        net::lookup_host((mirror.host.as_str(), mirror.port)).await.map_err(Missed::Address)?.collect();
    let mut addresses = found.into_iter().take(ADDRESSES_MAX);
    let first = addresses.next().ok_or_else(|| Missed::Address(std::io::ErrorKind::NotFound.into()))?;
    let path = NewPath::new(first, &mirror.host, mirror.pin);
    session.add_path(addresses.fold(path, NewPath::address)).await.map_err(Missed::Path)
}

/// Says what a code means for whoever runs the servers.
fn reason(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::AUTH_FAILED => {
            "the client does not trust its certificate, it has another key than the pin says, or it does not trust this \
             primary's public key (kwik mirror --trust); the logs of both say which"
        }
        ErrorCode::AUTH_TIMEOUT => "it answered too slowly",
        ErrorCode::CLOCK_SKEW => "its clock and this server's differ: set them, by NTP for instance",
        ErrorCode::TICKET_EXPIRED => {
            "the ticket was too old when it came there: the clocks differ, or the client was slow"
        }
        ErrorCode::DIAL_REFUSED => "the client does not dial such an address",
        ErrorCode::INVALID_STREAM_ROLE => "the server at that address is no mirror",
        ErrorCode::VERSION => "it speaks another version of the protocol",
        ErrorCode::EXCESSIVE_LOAD | ErrorCode::LIMIT_EXCEEDED => "it has more to do than it may",
        ErrorCode::PATH_STALLED => "it fell silent",
        ErrorCode::DIGEST_MISMATCH => {
            "it brought other bytes than this server has: another version of an object, or worse"
        }
        ErrorCode::LEASE_VIOLATION | ErrorCode::DATA_CONFLICT => "it sent what it was not asked for",
        ErrorCode::DRAINING => "it takes no new work",
        ErrorCode::PATH_DEAD => "nobody answers there, or no more",
        code => codes::meaning(code).unwrap_or("of another kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_named() {
        let pin = "0f".repeat(32);
        for (text, shown) in [
            ("m1.example:99", "m1.example:99"),
            ("m1.example", "m1.example:5945"),
            ("10.0.0.1:7", "10.0.0.1:7"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:5945"),
        ] {
            let mirror: Mirror = format!("{text}#{pin}").parse().unwrap();
            assert_eq!(mirror.to_string(), shown);
            assert_eq!(mirror.pin.to_string(), pin);
        }
        for text in
            ["m1.example:99", "m1#0f", ":7#PIN", "::1#PIN", "m:70000#PIN", "[::1#PIN", "[::1]7#PIN", "#PIN"]
        {
            assert!(text.replace("PIN", &pin).parse::<Mirror>().is_err(), "{text}");
        }
    }
}
