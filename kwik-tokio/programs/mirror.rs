use std::error::Error;

use kwik_tokio::{Accepted, Incoming};

/// Fills what the primary of one client asks for, until that client is gone.
pub async fn serve(incoming: Incoming, object: &'static [u8]) -> Result<(), Box<dyn Error>> {
    let Accepted::Secondary(session) = incoming.accept_any().await? else { return Ok(()) };
    while let Ok(mut job) = session.accept_job().await {
        tokio::spawn(async move {
            while let Some(lease) = job.next_lease().await {
                // Each in a task of its own: one that waits for credit must not hold up one that the reader needs first.
                tokio::spawn(async move {
                    let range = lease.range();
                    let bytes = &object[range.start() as usize..range.end() as usize];
                    lease.open().write_all(bytes).await
                });
            }
        });
    }
    Ok(())
}
