//! Every frame and header there can be, for property tests.
//!
//! The strategies of single fields and of groups are boxed: unboxed, the trees they build fill a test thread's stack.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use bytes::Bytes;
use proptest::{
    array::{uniform16, uniform32},
    collection::{btree_set, vec},
    option,
    prelude::*,
};

use super::frame::{
    AddPath, Attach, ClientHello, Credit, Features, Frame, JobOpen, LeaseGrant, MappingOperation, PathStatus,
    ProgressReport, Ranges, RelayOpen, ServerHello, StreamHeader,
};
use crate::{
    action::ReaderStatus,
    error::ErrorCode,
    id::{
        ByteRange, JobId, LeaseId, OFFSET_MAX, PathId, PublicKey, SessionId, Signature, SpkiHash, StreamId,
    },
    limits::{
        APP_ALPN_LEN_MAX, APP_ALPN_MAX, APP_ALPN_TOTAL_MAX, JOB_PAYLOAD_MAX, LEASE_MAX, PATH_ADDRESSES_MAX,
        PATH_PINS_MAX, REASON_MAX, RELAY_MAX, REPEATED_MAX, SERVER_NAME_MAX, TICKET_MAX,
    },
};

/// Number of variants of [`Frame`], and so of the distinct frames that [`largest`] gives.
pub(crate) const KINDS: usize = 28;

/// Any valid frame.
pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![sessions(), leases(), streams()]
}

/// Any valid header.
pub(crate) fn header() -> impl Strategy<Value = StreamHeader> {
    prop_oneof![
        Just(StreamHeader::Public),
        (lease(), count()).prop_map(|(lease, offset)| StreamHeader::Secondary { lease, offset }),
        (stream(), count()).prop_map(|(stream, offset)| StreamHeader::Internal { stream, offset }),
        (path(), number(), 0..=RELAY_MAX, option::of(signature())).prop_map(|(path, id, length, seal)| {
            StreamHeader::Relay(RelayOpen { path, id, length, seal })
        }),
    ]
}

/// One frame of each kind, as large as its bounds permit.
pub(crate) fn largest() -> Vec<Frame> {
    let path = PathId::new(u32::MAX);
    let job = JobId::new(u64::MAX);
    let lease = LeaseId::new(u64::MAX);
    let stream = StreamId::from_u64(OFFSET_MAX).expect("the largest");
    let code = ErrorCode::from_u64(OFFSET_MAX).expect("the largest");
    let credit = OFFSET_MAX;
    let range = ByteRange::new(OFFSET_MAX - LEASE_MAX, LEASE_MAX).expect("ends at the largest offset");
    let gaps: Ranges = (0..REPEATED_MAX as u64)
        .rev()
        .map(|n| ByteRange::new(OFFSET_MAX - (n + 1) * (1 << 55), 1 << 54).expect("within"))
        .collect();
    let reason = "r".repeat(REASON_MAX);
    let ticket = Bytes::from(vec![7; TICKET_MAX]);
    let operation = MappingOperation::Resume;
    vec![
        Frame::ClientHello(ClientHello {
            version: u32::MAX,
            features: Features(u64::MAX),
            client_key: PublicKey::new([1; 32]),
            split_streams_max: u32::MAX,
            app_protocols: vec![Bytes::from(vec![b'a'; APP_ALPN_TOTAL_MAX / APP_ALPN_MAX]); APP_ALPN_MAX],
            attach: Some(Attach {
                session: SessionId::new([2; 16]),
                path,
                ticket: ticket.clone(),
                proof: Signature::new([3; 64]),
            }),
        }),
        Frame::ServerHello(ServerHello {
            version: u32::MAX,
            features: Features(u64::MAX),
            session: SessionId::new([2; 16]),
            app_protocol: Some(Bytes::from(vec![b'a'; APP_ALPN_LEN_MAX])),
        }),
        Frame::Refuse { code, reason: reason.clone() },
        Frame::AddPath(AddPath {
            path,
            addresses: [SocketAddr::from((Ipv6Addr::LOCALHOST, u16::MAX)); PATH_ADDRESSES_MAX]
                .into_iter()
                .collect(),
            server_name: "n".repeat(SERVER_NAME_MAX),
            pins: [SpkiHash::new([4; 32]); PATH_PINS_MAX].into_iter().collect(),
            ticket,
        }),
        Frame::PathReport { path, status: PathStatus::Dead(code) },
        Frame::RemovePath { path, code, deadline_ms: u64::MAX },
        Frame::Drain { deadline_ms: u64::MAX },
        Frame::JobOpen(JobOpen {
            job,
            path,
            stream,
            range: ByteRange::between(0, OFFSET_MAX).expect("all there is"),
            total: OFFSET_MAX,
            expiry: u64::MAX,
            payload: Bytes::from(vec![5; JOB_PAYLOAD_MAX]),
            seal: Signature::new([6; 64]),
        }),
        Frame::JobAccepted { job },
        Frame::JobRefused { job, code },
        Frame::JobClose { job },
        Frame::LeaseGrant(LeaseGrant {
            lease,
            job,
            range,
            digest: Some([8; 32]),
            deadline_ms: Some(u64::MAX),
            hedge_of: Some(lease),
            progress: true,
        }),
        Frame::LeaseNotice { lease, job, range, credit },
        Frame::LeaseRefused { lease, code },
        Frame::LeaseRevoke { lease, keep: OFFSET_MAX, code },
        Frame::LeaseDone { lease },
        Frame::LeaseLost { lease, code, missing: gaps.clone() },
        Frame::Split { stream, offset: OFFSET_MAX },
        Frame::SplitAck { stream, credit },
        Frame::StreamFinal { stream, size: OFFSET_MAX },
        Frame::StreamComplete { stream },
        Frame::StreamStopped { stream, code },
        Frame::Credit(Credit::Lease { lease, bytes: OFFSET_MAX }),
        Frame::OffsetSyncRequest { stream, from: OFFSET_MAX },
        Frame::OffsetSyncResponse { stream, received: gaps, more: true },
        Frame::StreamMappingUpdate { operation, stream, lease, range },
        Frame::ProgressReport(ProgressReport {
            path,
            rtt_us: Some(u64::MAX),
            late: OFFSET_MAX,
            overlap: OFFSET_MAX,
            leases: vec![(lease, OFFSET_MAX); REPEATED_MAX],
            readers: vec![(stream, ReaderStatus { position: OFFSET_MAX, window: OFFSET_MAX }); REPEATED_MAX],
        }),
        Frame::SessionClose { code, reason },
    ]
}

/// One header of each kind, as large as its bounds permit.
pub(crate) fn largest_headers() -> Vec<StreamHeader> {
    vec![
        StreamHeader::Public,
        StreamHeader::Secondary { lease: LeaseId::new(u64::MAX), offset: OFFSET_MAX },
        StreamHeader::Internal {
            stream: StreamId::from_u64(OFFSET_MAX).expect("the largest"),
            offset: OFFSET_MAX,
        },
        StreamHeader::Relay(RelayOpen {
            path: PathId::new(u32::MAX),
            id: u64::MAX,
            length: RELAY_MAX,
            seal: Some(Signature::new([0xff; 64])),
        }),
    ]
}

/// Hellos, refusals, paths, the end of a session.
fn sessions() -> BoxedStrategy<Frame> {
    let status =
        prop_oneof![Just(PathStatus::Active), Just(PathStatus::Degraded), code().prop_map(PathStatus::Dead)];
    prop_oneof![
        client_hello().prop_map(Frame::ClientHello),
        server_hello().prop_map(Frame::ServerHello),
        (code(), reason()).prop_map(|(code, reason)| Frame::Refuse { code, reason }),
        add_path().prop_map(Frame::AddPath),
        (path(), status).prop_map(|(path, status)| Frame::PathReport { path, status }),
        (path(), code(), number()).prop_map(|(path, code, deadline_ms)| Frame::RemovePath {
            path,
            code,
            deadline_ms
        }),
        number().prop_map(|deadline_ms| Frame::Drain { deadline_ms }),
        (code(), reason()).prop_map(|(code, reason)| Frame::SessionClose { code, reason }),
    ]
    .boxed()
}

fn leases() -> BoxedStrategy<Frame> {
    prop_oneof![
        job_open().prop_map(Frame::JobOpen),
        job().prop_map(|job| Frame::JobAccepted { job }),
        (job(), code()).prop_map(|(job, code)| Frame::JobRefused { job, code }),
        job().prop_map(|job| Frame::JobClose { job }),
        lease_grant().prop_map(Frame::LeaseGrant),
        progress_report().prop_map(Frame::ProgressReport),
        (lease(), job(), lease_range(), count()).prop_map(|(lease, job, range, credit)| Frame::LeaseNotice {
            lease,
            job,
            range,
            credit
        }),
        (lease(), code()).prop_map(|(lease, code)| Frame::LeaseRefused { lease, code }),
        (lease(), count(), code()).prop_map(|(lease, keep, code)| Frame::LeaseRevoke { lease, keep, code }),
        lease().prop_map(|lease| Frame::LeaseDone { lease }),
        (lease(), code(), ranges()).prop_map(|(lease, code, missing)| Frame::LeaseLost {
            lease,
            code,
            missing
        }),
    ]
    .boxed()
}

fn streams() -> BoxedStrategy<Frame> {
    let operation = prop_oneof![
        Just(MappingOperation::Create),
        Just(MappingOperation::Update),
        Just(MappingOperation::Suspend),
        Just(MappingOperation::Resume),
    ];
    let credit = prop_oneof![
        (stream(), count()).prop_map(|(stream, offset)| Credit::Offset { stream, offset }),
        (lease(), count()).prop_map(|(lease, bytes)| Credit::Lease { lease, bytes }),
        (stream(), count()).prop_map(|(stream, bytes)| Credit::Run { stream, bytes }),
    ];
    prop_oneof![
        (stream(), count()).prop_map(|(stream, offset)| Frame::Split { stream, offset }),
        (stream(), count()).prop_map(|(stream, credit)| Frame::SplitAck { stream, credit }),
        (stream(), count()).prop_map(|(stream, size)| Frame::StreamFinal { stream, size }),
        stream().prop_map(|stream| Frame::StreamComplete { stream }),
        (stream(), code()).prop_map(|(stream, code)| Frame::StreamStopped { stream, code }),
        credit.prop_map(Frame::Credit),
        (stream(), count()).prop_map(|(stream, from)| Frame::OffsetSyncRequest { stream, from }),
        (stream(), ranges(), any::<bool>()).prop_map(|(stream, received, more)| Frame::OffsetSyncResponse {
            stream,
            received,
            more
        }),
        (operation, stream(), lease(), lease_range()).prop_map(|(operation, stream, lease, range)| {
            Frame::StreamMappingUpdate { operation, stream, lease, range }
        }),
    ]
    .boxed()
}

/// Any number, often a small one or the largest: those change the length on the wire.
fn number() -> BoxedStrategy<u64> {
    prop_oneof![any::<u64>(), 0..300_u64, Just(u64::MAX)].boxed()
}

/// An offset or byte count.
fn count() -> BoxedStrategy<u64> {
    prop_oneof![0..=OFFSET_MAX, 0..300_u64, Just(OFFSET_MAX)].boxed()
}

fn code() -> impl Strategy<Value = ErrorCode> {
    count().prop_map(|code| ErrorCode::from_u64(code).expect("within"))
}

fn stream() -> impl Strategy<Value = StreamId> {
    count().prop_map(|id| StreamId::from_u64(id).expect("within"))
}

fn path() -> impl Strategy<Value = PathId> {
    any::<u32>().prop_map(PathId::new)
}

fn job() -> impl Strategy<Value = JobId> {
    number().prop_map(JobId::new)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    number().prop_map(LeaseId::new)
}

fn range() -> BoxedStrategy<ByteRange> {
    (0..OFFSET_MAX, 1..=OFFSET_MAX)
        .prop_map(|(start, len)| ByteRange::new(start, len.min(OFFSET_MAX - start)).expect("within"))
        .boxed()
}

fn lease_range() -> BoxedStrategy<ByteRange> {
    (0..OFFSET_MAX, 1..=LEASE_MAX)
        .prop_map(|(start, len)| ByteRange::new(start, len.min(OFFSET_MAX - start)).expect("within"))
        .boxed()
}

fn ranges() -> BoxedStrategy<Ranges> {
    // An even number of distinct offsets, rising: two make a range, and two ranges never share an end.
    btree_set(count(), 0..=2 * REPEATED_MAX)
        .prop_map(|offsets: BTreeSet<u64>| {
            let offsets: Vec<u64> = offsets.into_iter().collect();
            let ends = offsets.chunks_exact(2);
            ends.map(|ends| ByteRange::between(ends[0], ends[1]).expect("rising")).collect()
        })
        .boxed()
}

fn filled(max: usize) -> BoxedStrategy<Bytes> {
    vec(any::<u8>(), 1..=max).prop_map(Bytes::from).boxed()
}

fn signature() -> impl Strategy<Value = Signature> {
    vec(any::<u8>(), 64).prop_map(|bytes| Signature::new(bytes.try_into().expect("64 bytes")))
}

fn session() -> impl Strategy<Value = SessionId> {
    uniform16(any::<u8>()).prop_map(SessionId::new)
}

/// Any text within the cap; characters take up to four bytes.
fn reason() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=REASON_MAX / 4).prop_map(String::from_iter)
}

fn client_hello() -> BoxedStrategy<ClientHello> {
    let attach = (session(), path(), filled(TICKET_MAX), signature())
        .prop_map(|(session, path, ticket, proof)| Attach { session, path, ticket, proof });
    let app_protocols = vec(filled(APP_ALPN_TOTAL_MAX / APP_ALPN_MAX), 0..=APP_ALPN_MAX);
    let key = uniform32(any::<u8>()).prop_map(PublicKey::new);
    (any::<u32>(), number(), key, any::<u32>(), app_protocols, option::of(attach))
        .prop_map(|(version, features, client_key, split_streams_max, app_protocols, attach)| ClientHello {
            version,
            features: Features(features),
            client_key,
            split_streams_max,
            app_protocols,
            attach,
        })
        .boxed()
}

fn server_hello() -> BoxedStrategy<ServerHello> {
    (any::<u32>(), number(), session(), option::of(filled(APP_ALPN_LEN_MAX)))
        .prop_map(|(version, features, session, app_protocol)| ServerHello {
            version,
            features: Features(features),
            session,
            app_protocol,
        })
        .boxed()
}

fn add_path() -> BoxedStrategy<AddPath> {
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    let address = (ip, 1..=u16::MAX).prop_map(SocketAddr::from);
    let pin = uniform32(any::<u8>()).prop_map(SpkiHash::new);
    let name = vec(any::<char>(), 1..=SERVER_NAME_MAX / 4).prop_map(String::from_iter);
    (path(), vec(address, 1..=PATH_ADDRESSES_MAX), name, vec(pin, 0..=PATH_PINS_MAX), filled(TICKET_MAX))
        .prop_map(|(path, addresses, server_name, pins, ticket)| AddPath {
            path,
            addresses: addresses.into(),
            server_name,
            pins: pins.into(),
            ticket,
        })
        .boxed()
}

fn job_open() -> BoxedStrategy<JobOpen> {
    let payload = vec(any::<u8>(), 0..=JOB_PAYLOAD_MAX).prop_map(Bytes::from);
    (job(), path(), stream(), range(), count(), number(), payload, signature())
        .prop_map(|(job, path, stream, range, total, expiry, payload, seal)| JobOpen {
            job,
            path,
            stream,
            range,
            total,
            expiry,
            payload,
            seal,
        })
        .boxed()
}

fn lease_grant() -> BoxedStrategy<LeaseGrant> {
    let digest = option::of(uniform32(any::<u8>()));
    (lease(), job(), lease_range(), digest, option::of(number()), option::of(lease()), any::<bool>())
        .prop_map(|(lease, job, range, digest, deadline_ms, hedge_of, progress)| LeaseGrant {
            lease,
            job,
            range,
            digest,
            deadline_ms,
            hedge_of,
            progress,
        })
        .boxed()
}

fn progress_report() -> BoxedStrategy<ProgressReport> {
    let reader = (stream(), count(), count())
        .prop_map(|(stream, position, window)| (stream, ReaderStatus { position, window }));
    let leases = vec((lease(), count()), 0..=REPEATED_MAX);
    (path(), option::of(number()), count(), count(), leases, vec(reader, 0..=REPEATED_MAX))
        .prop_map(|(path, rtt_us, late, overlap, leases, readers)| ProgressReport {
            path,
            rtt_us,
            late,
            overlap,
            leases,
            readers,
        })
        .boxed()
}

#[test]
fn largest_gives_every_kind_once() {
    let kinds: Vec<_> = largest().iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), KINDS);
    for (at, kind) in kinds.iter().enumerate() {
        assert!(!kinds[..at].contains(kind), "entry {at} repeats a kind");
    }
}

proptest! {
    #[test]
    fn ranges_neither_touch_nor_overlap(ranges in ranges()) {
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].start()));
        prop_assert!(ranges.len() <= REPEATED_MAX);
    }
}
