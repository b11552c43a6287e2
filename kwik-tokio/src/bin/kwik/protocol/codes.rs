//! Error codes of this application: for sessions, streams, jobs and leases.

use kwik_tokio::ErrorCode;

/// The client has what it wanted, or wants no more.
pub(crate) const DONE: ErrorCode = ErrorCode::from_u32(0);
/// This server serves as many as it may; another time.
pub(crate) const BUSY: ErrorCode = ErrorCode::from_u32(1);
/// This server ends.
pub(crate) const ENDING: ErrorCode = ErrorCode::from_u32(2);
/// The object is not what it was when the request was answered, or not the one that the job is for.
pub(crate) const CHANGED: ErrorCode = ErrorCode::from_u32(3);
/// The object cannot be read.
pub(crate) const UNREADABLE: ErrorCode = ErrorCode::from_u32(4);
/// There is no such object here.
pub(crate) const NOT_FOUND: ErrorCode = ErrorCode::from_u32(5);
/// A range is missing that no server brings.
pub(crate) const NO_SOURCE: ErrorCode = ErrorCode::from_u32(6);
/// The request does not follow the protocol.
pub(crate) const MALFORMED: ErrorCode = ErrorCode::from_u32(7);

/// Says what one of these means, for people.
pub(crate) fn meaning(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        DONE => "done",
        BUSY => "the server is busy",
        ENDING => "the server is being stopped",
        CHANGED => "the object has changed",
        UNREADABLE => "the object cannot be read there",
        NOT_FOUND => "there is no such object there",
        NO_SOURCE => "no server is left to bring the rest",
        MALFORMED => "the request does not follow the protocol",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_differ_and_have_meanings() {
        let all = [DONE, BUSY, ENDING, CHANGED, UNREADABLE, NOT_FOUND, NO_SOURCE, MALFORMED];
        let meanings: std::collections::BTreeSet<_> =
            all.into_iter().map(|code| meaning(code).unwrap()).collect();
        assert_eq!(meanings.len(), all.len());
        assert_eq!(meaning(ErrorCode::from_u32(8)), None);
    }
}
