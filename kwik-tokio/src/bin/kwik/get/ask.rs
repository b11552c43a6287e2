//! Requests to the primary, and what its refusals mean here.

use kwik_tokio::{ByteRange, Connection, ConnectionError, ErrorCode, ReadError, ReadExactError, RecvStream};

use crate::{
    failure::{Cause, Failure},
    protocol::{
        Answer, Code, Entry, Layout, MessageError, ObjectPath, Part, Parts, Reader, Refusal, Request, Want,
        Wanted, codes, encode,
    },
};

/// The answer to a request for bytes: the data follow in `stream`.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) parts: Vec<Part>,
    pub(super) layout: Layout,
    pub(super) stream: RecvStream,
}

/// Asks for bytes of objects.
pub(super) async fn get(connection: &Connection, wants: Vec<Want>) -> Result<Reply, Failure> {
    let wants = Parts::new(wants).map_err(|error| Failure::run(error.to_string()))?;
    let mut stream = send(connection, &Request::Get(wants.clone())).await?;
    let mut reader = Reader::new(&mut stream);
    let parts = loop {
        match reader.next().await.map_err(|error| unread(&error))? {
            Answer::Working { .. } => {}
            Answer::Parts(parts) => break parts,
            Answer::Refused(refusal) => return Err(refused(&refusal, wants.get(0).map(|want| &want.path))),
            Answer::Listing(_) | Answer::ListingEnd { .. } => return Err(nonsense("a listing, unasked")),
        }
    };
    let base = reader.offset();
    if parts.len() != wants.len() {
        return Err(nonsense("an answer to another request"));
    }
    let mut ranges = Vec::new();
    for (number, (want, part)) in wants.iter().zip(parts.iter()).enumerate() {
        let Part::Sent(tree) = part else {
            continue;
        };
        match &want.wanted {
            Wanted::Tree => {}
            Wanted::Whole => ranges.extend(ByteRange::between(0, tree.len()).map(|whole| (number, whole))),
            Wanted::Rest { version, ranges: rest } => {
                if tree.version() != *version || rest.end() > tree.len() {
                    return Err(nonsense("another version than was asked for"));
                }
                ranges.extend(rest.iter().map(|range| (number, range)));
            }
        }
    }
    let layout = Layout::new(base, ranges).ok_or_else(|| nonsense("more than a stream can carry"))?;
    Ok(Reply { parts: parts.into_iter().collect(), layout, stream })
}

/// Lists a directory and all below it. Returns how many files were left out, too.
pub(super) async fn list(
    connection: &Connection,
    dir: Option<&ObjectPath>,
) -> Result<(Vec<Entry>, u64), Failure> {
    let mut stream = send(connection, &Request::List { dir: dir.cloned(), recursive: true }).await?;
    let mut reader = Reader::new(&mut stream);
    let mut all = Vec::new();
    loop {
        match reader.next().await.map_err(|error| unread(&error))? {
            Answer::Working { .. } => {}
            Answer::Listing(entries) => all.extend(entries),
            Answer::ListingEnd { left_out } => return Ok((all, left_out)),
            Answer::Refused(refusal) => return Err(refused(&refusal, dir)),
            Answer::Parts(_) => return Err(nonsense("objects, unasked")),
        }
    }
}

async fn send(connection: &Connection, request: &Request) -> Result<RecvStream, Failure> {
    let lost = |error: ConnectionError| lost(&error);
    let (mut send, recv) = connection.open_bi().await.map_err(lost)?;
    let message = encode(request).map_err(|error| Failure::input(error.to_string()))?;
    let sent = send.write_all(&message).await;
    if sent.is_ok() {
        // If it is stopped, the answer says why.
        send.finish().unwrap_or_default();
    }
    Ok(recv)
}

/// Says what a refusal means.
pub(super) fn refused(refusal: &Refusal, path: Option<&ObjectPath>) -> Failure {
    let name = path.map_or("/", ObjectPath::as_str);
    let failure = |cause| Failure::new(cause, format!("{name}: {refusal}"));
    match refusal.code {
        Code::NotFound => failure(Cause::NotFound),
        Code::IsDirectory => failure(Cause::Usage).remedy("--recursive fetches what is in it"),
        Code::Forbidden | Code::NotRegular | Code::Unreadable => failure(Cause::Refused),
        Code::Busy | Code::Ending => failure(Cause::Refused).remedy("try again later"),
        Code::Changed => failure(Cause::Changed).remedy("fetch it again"),
        Code::Malformed => failure(Cause::Run),
    }
}

/// Says what it means that a stream of data ended early.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest are mistakes of this program's")]
pub(super) fn broken(error: &ReadError) -> Failure {
    match error {
        ReadError::Reset(code) => reset(*code),
        ReadError::ConnectionLost(error) => lost(error),
        ReadError::Incomplete { missing, code, .. } => Failure::new(
            Cause::NoSource,
            format!("bytes {missing} are missing and nobody brings them: {code}"),
        ),
        ReadError::Conflict { .. } => Failure::new(Cause::Digest, error.to_string()),
        _ => Failure::run(error.to_string()),
    }
}

fn reset(code: ErrorCode) -> Failure {
    let why = codes::meaning(code).map_or_else(|| code.to_string(), str::to_owned);
    let cause = match code {
        codes::CHANGED => Cause::Changed,
        codes::NOT_FOUND => Cause::NotFound,
        codes::BUSY | codes::UNREADABLE => Cause::Refused,
        codes::ENDING | codes::NO_SOURCE => Cause::NoSource,
        _ => Cause::Run,
    };
    Failure::new(cause, format!("the server broke it off: {why}"))
}

/// Says what the end of the session means.
pub(super) fn lost(error: &ConnectionError) -> Failure {
    if let ConnectionError::ApplicationClosed(close) = error {
        let code = close.error_code;
        if let Some(meaning) = codes::meaning(code) {
            let cause = if code == codes::BUSY { Cause::Refused } else { Cause::NoSource };
            return Failure::new(cause, format!("the primary ended the session: {meaning}"));
        }
    }
    Failure::new(Cause::NoSource, format!("the primary is lost: {error}"))
}

fn unread(error: &MessageError) -> Failure {
    match error {
        MessageError::Stream(ReadExactError::ReadError(error)) => broken(error),
        MessageError::Stream(_)
        | MessageError::TooLong(_)
        | MessageError::Malformed(_)
        | MessageError::Unbounded => nonsense(&error.to_string()),
    }
}

fn nonsense(what: &str) -> Failure {
    Failure::run(format!("the server does not follow the protocol: {what}")).remedy("is it kwik serve?")
}
