//! One client's session.

use std::sync::Arc;

use kwik_tokio::{Accepted, Incoming, PrimarySession};
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::Instrument as _;

use super::{Shared, mirrors, request};
use crate::{
    protocol::{REQUESTS_AT_ONCE, codes},
    service::Stopping,
};

/// Serves one client until it is gone, or the server ends and its requests are answered.
pub(super) async fn serve_client(incoming: Incoming, shared: &Arc<Shared>, stopping: Stopping) {
    let client = incoming.remote_address();
    let span = tracing::info_span!("client", %client);
    async {
        match incoming.accept_any().await {
            Ok(Accepted::Primary(session)) => serve_session(session, shared, stopping).await,
            Ok(Accepted::Secondary(session)) => session.close(codes::MALFORMED, b"this server is no mirror"),
            Err(error) => tracing::info!(%error, "no session"),
        }
    }
    .instrument(span)
    .await;
}

async fn serve_session(session: PrimarySession, shared: &Arc<Shared>, mut stopping: Stopping) {
    tracing::info!("connected");
    // Ends with the session, and with this task.
    let mut attached = JoinSet::new();
    attached.spawn(
        mirrors::keep_all(session.clone(), shared.mirrors.clone(), shared.metrics.clone()).in_current_span(),
    );
    let places = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
    let mut requests = JoinSet::new();
    let end = loop {
        let Ok(place) = places.clone().acquire_owned().await else { break None };
        let stream = tokio::select! {
            stream = session.accept_bi() => stream,
            () = stopping.wait() => break None,
        };
        match stream {
            Ok((send, recv)) => {
                let shared = shared.clone();
                let answered = async move {
                    request::answer(send, recv, &shared).await;
                    drop(place);
                };
                requests.spawn(answered.in_current_span());
            }
            Err(error) => break Some(error),
        }
        while requests.try_join_next().is_some() {}
    };
    match end {
        Some(error) => tracing::info!(%error, "gone"),
        None => {
            // Earlier requests are answered, those from now on are not.
            while requests.join_next().await.is_some() {}
            session.close(codes::ENDING, b"the server is being stopped");
        }
    }
}
