use std::{error::Error, net::SocketAddr};

use kwik_tokio::{Accepted, ByteRange, Incoming, LeaseOutcome, NewJob, NewPath, SpkiHash};

/// Serves one client, the first half of what it asks for from a mirror, which has the certificate with this key.
pub async fn serve(
    incoming: Incoming,
    mirror: SocketAddr,
    identity: SpkiHash,
    object: &[u8],
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let Accepted::Primary(session) = incoming.accept_any().await? else { return Ok(()) };
    let (mut send, mut recv) = session.accept_bi().await?;
    let name = recv.read_to_end(100).await?;

    // Attach the mirror: its address, the name on its certificate, and the hash of its key.
    let path = session.add_path(NewPath::new(mirror, "mirror.example", identity)).await?;

    // Ask it for the first half of the stream; the payload tells its application what to send.
    let (head, tail) = object.split_at(object.len() / 2);
    let first = ByteRange::new(0, head.len() as u64).ok_or("empty")?;
    let job = send.open_job(NewJob::new(path, first, name))?;
    let mut lease = job.lease(first)?;

    // Write the rest from here, and at the same time what the lease turns out not to bring, which can be leased to another
    // server as well: its reader takes nothing behind a hole, so the rest would wait for that.
    let rest = ByteRange::new(first.end(), tail.len() as u64).ok_or("empty")?;
    let write = async |range: ByteRange| {
        let bytes = &object[range.start() as usize..range.end() as usize];
        send.write_at(range)?.write_all(bytes).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    let fill = async {
        if let LeaseOutcome::Lost { missing, .. } = lease.outcome().await? {
            for range in missing {
                write(range).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(write(rest), fill)?;
    send.finish()?;

    // As in quinn, a session ends with its last handle, whatever is still on its way: the client says when it is done.
    session.closed().await;
    Ok(())
}
