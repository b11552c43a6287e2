//! Frames as a peer might send them: in any state, naming what exists and what does not.

use std::net::SocketAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use super::source::Source;
use crate::{
    error::ErrorCode,
    id::{
        ByteRange, JobId, LeaseId, OFFSET_MAX, PathId, PublicKey, SessionId, Signature, SpkiHash, StreamId,
    },
    limits::{LEASE_MAX, RELAY_MAX},
    wire::{
        AddPath, ClientHello, Credit, Features, Frame, JobOpen, LeaseGrant, MappingOperation, PathStatus,
        Ranges, RelayOpen, ServerHello, StreamHeader,
    },
};

/// Application streams that frames name: the first the primary opens, one of its unidirectional ones, one of the
/// client's.
pub(crate) const STREAMS: [u64; 5] = [1, 5, 9, 3, 4];
/// Ranges start below this offset.
pub(crate) const SPACE: u64 = 160 * 1024;
/// And are at most this long: longer than the smallest window.
pub(crate) const LEN_MAX: u64 = 96 * 1024;
/// No byte that is ever sent lies at or beyond this offset.
pub(crate) const END: u64 = SPACE + LEN_MAX + 1;

/// One of the session's streams; now and then one that cannot be.
pub(crate) fn stream(source: &mut Source<'_>) -> StreamId {
    let id = if source.rarely(16) { source.pick(&[0, OFFSET_MAX]) } else { source.pick(&STREAMS) };
    StreamId::from_u64(id).expect("within")
}

pub(crate) fn path(source: &mut Source<'_>) -> PathId {
    PathId::new(u32::from(source.any::<u8>() % 5))
}

pub(crate) fn job(source: &mut Source<'_>) -> JobId {
    JobId::new(source.number(6, u64::MAX))
}

pub(crate) fn lease(source: &mut Source<'_>) -> LeaseId {
    LeaseId::new(source.number(16, u64::MAX))
}

/// A range within the space, short or long.
pub(crate) fn range(source: &mut Source<'_>) -> ByteRange {
    let len = if source.rarely(4) { LEN_MAX } else { 4096 };
    ByteRange::new(source.below(SPACE), 1 + source.below(len)).expect("within")
}

pub(crate) fn code(source: &mut Source<'_>) -> ErrorCode {
    source.pick(&[
        ErrorCode::NO_ERROR,
        ErrorCode::LEASE_REVOKED,
        ErrorCode::PATH_DEAD,
        ErrorCode::from_u32(7),
        ErrorCode::from_u64(OFFSET_MAX).expect("the largest"),
    ])
}

/// An address the default policy lets a primary on loopback name, or not.
fn address(source: &mut Source<'_>) -> SocketAddr {
    SocketAddr::from((source.pick(&[[127, 0, 0, 1], [10, 0, 0, 1], [0, 0, 0, 0]]), source.pick(&[4433, 1])))
}

pub(crate) fn add_path(path: PathId, source: &mut Source<'_>) -> AddPath {
    AddPath {
        path,
        addresses: SmallVec::from_slice(&[address(source)]),
        server_name: "secondary.test".to_owned(),
        pins: if source.rarely(8) {
            SmallVec::from_slice(&[SpkiHash::new([1; 32])])
        } else {
            SmallVec::new()
        },
        ticket: Bytes::from_static(b"ticket"),
    }
}

/// Answer of a server to a hello; `session` is the one all of it is about.
pub(crate) fn server_hello(session: SessionId, source: &mut Source<'_>) -> ServerHello {
    let session = if source.rarely(32) { SessionId::new([0; 16]) } else { session };
    let version = if source.rarely(32) { 2 } else { 1 };
    ServerHello { version, features: Features(source.any()), session, app_protocol: None }
}

/// A header of any kind.
pub(crate) fn header(source: &mut Source<'_>) -> StreamHeader {
    let offset = source.number(SPACE, OFFSET_MAX);
    match source.below(4) {
        0 => StreamHeader::Public,
        1 => StreamHeader::Secondary { lease: lease(source), offset },
        2 => StreamHeader::Internal { stream: stream(source), offset },
        _ => {
            let length = source.pick(&[0, 1, 100, RELAY_MAX]);
            let seal = source.rarely(2).then(|| Signature::new([7; 64]));
            StreamHeader::Relay(RelayOpen { path: path(source), id: source.any(), length, seal })
        }
    }
}

/// A frame of any kind, most of them out of place wherever they come.
pub(crate) fn any(source: &mut Source<'_>) -> Frame {
    match source.below(3) {
        0 => about_paths(source),
        1 => about_leases(source),
        _ => about_streams(source),
    }
}

fn about_paths(source: &mut Source<'_>) -> Frame {
    match source.below(8) {
        0 => Frame::ClientHello(ClientHello {
            version: 1,
            features: Features(source.any()),
            client_key: PublicKey::new([1; 32]),
            split_streams_max: source.any(),
            app_protocols: Vec::new(),
            attach: None,
        }),
        1 => Frame::ServerHello(server_hello(SessionId::new([9; 16]), source)),
        2 => Frame::Refuse { code: code(source), reason: String::new() },
        3 => {
            let path = path(source);
            Frame::AddPath(add_path(path, source))
        }
        4 => {
            let status = source.pick(&[
                PathStatus::Active,
                PathStatus::Degraded,
                PathStatus::Dead(ErrorCode::PATH_DEAD),
            ]);
            Frame::PathReport { path: path(source), status }
        }
        5 => Frame::RemovePath { path: path(source), code: code(source), deadline_ms: source.any() },
        6 => Frame::Drain { deadline_ms: source.any() },
        _ => Frame::SessionClose { code: code(source), reason: String::new() },
    }
}

fn about_leases(source: &mut Source<'_>) -> Frame {
    match source.below(10) {
        0 => Frame::JobOpen(JobOpen {
            job: job(source),
            path: path(source),
            stream: stream(source),
            range: range(source),
            total: source.number(SPACE, OFFSET_MAX),
            expiry: source.number(4_000, u64::MAX),
            payload: Bytes::new(),
            seal: Signature::new([0; 64]),
        }),
        1 => Frame::JobAccepted { job: job(source) },
        2 => Frame::JobRefused { job: job(source), code: code(source) },
        3 => Frame::JobClose { job: job(source) },
        4 => Frame::LeaseGrant(LeaseGrant {
            lease: lease(source),
            job: job(source),
            range: range(source),
            digest: source.rarely(8).then_some([0; 32]),
            deadline_ms: source.rarely(8).then_some(0),
            hedge_of: source.rarely(8).then_some(LeaseId::new(0)),
            progress: false,
        }),
        5 => Frame::LeaseNotice {
            lease: lease(source),
            job: job(source),
            range: range(source),
            credit: source.number(SPACE, OFFSET_MAX),
        },
        6 => Frame::LeaseRefused { lease: lease(source), code: code(source) },
        7 => {
            Frame::LeaseRevoke { lease: lease(source), keep: source.number(2, LEASE_MAX), code: code(source) }
        }
        8 => Frame::LeaseDone { lease: lease(source) },
        _ => Frame::LeaseLost { lease: lease(source), code: code(source), missing: ranges(source) },
    }
}

fn about_streams(source: &mut Source<'_>) -> Frame {
    let (stream, offset) = (stream(source), source.number(SPACE, OFFSET_MAX));
    match source.below(9) {
        0 => Frame::Split { stream, offset },
        1 => Frame::SplitAck { stream, credit: offset },
        2 => Frame::StreamFinal { stream, size: offset },
        3 => Frame::StreamComplete { stream },
        4 => Frame::StreamStopped { stream, code: code(source) },
        5 => Frame::Credit(credit(source)),
        6 => Frame::OffsetSyncRequest { stream, from: offset },
        7 => Frame::OffsetSyncResponse { stream, received: ranges(source), more: source.any() },
        _ => {
            let operation = MappingOperation::Resume;
            Frame::StreamMappingUpdate { operation, stream, lease: lease(source), range: range(source) }
        }
    }
}

/// Credit of any kind.
pub(crate) fn credit(source: &mut Source<'_>) -> Credit {
    let amount = source.number(SPACE, OFFSET_MAX);
    match source.below(3) {
        0 => Credit::Offset { stream: stream(source), offset: amount },
        1 => Credit::Lease { lease: lease(source), bytes: amount },
        _ => Credit::Run { stream: stream(source), bytes: amount },
    }
}

/// None, one or two ranges, apart and rising.
pub(crate) fn ranges(source: &mut Source<'_>) -> Ranges {
    let first = range(source);
    let second = ByteRange::new(first.end() + 1, 1 + source.below(64)).expect("within");
    [first, second].into_iter().take(usize::from(source.any::<u8>() % 3)).collect()
}
