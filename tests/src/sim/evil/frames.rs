//! Bytes for control streams and stream headers that no role may send.

use bytes::Bytes;
use kwik_proto::v1 as pb;
use pb::FrameType as Type;
use prost::Message;

use super::{Actor, Kind};
use crate::{sim::dice::Dice, wire};

/// Beyond every offset and count there is: 2^62 and more.
pub(super) fn beyond(d: &mut Dice) -> u64 {
    d.between(1 << 62, u64::MAX)
}

/// Returns what a kind of attack writes to a control stream, if that is all it does.
pub(super) fn control(kind: Kind, actor: Actor, d: &mut Dice) -> Option<Vec<u8>> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others do more")]
    Some(match kind {
        Kind::Malformed => {
            let types: &[Type] = match actor {
                Actor::Secondary => &[Type::JobAccepted, Type::JobRefused, Type::LeaseRefused],
                Actor::Primary => &[Type::Split, Type::AddPath, Type::JobOpen, Type::LeaseGrant],
                Actor::Client => &[Type::LeaseDone, Type::SplitAck, Type::PathReport, Type::Credit],
            };
            let body = match d.below(3) {
                0 => Vec::new(), // nothing of what must be there
                1 => vec![0xff; usize::try_from(d.between(1, 40)).unwrap_or(1)], // an integer without an end
                _ => vec![0x0f], // a wire type that does not exist
            };
            wire::framed(d.pick(types) as u64, &body)
        }
        Kind::HugeLength => {
            let mut bytes = wire::varint(d.magnitude(4097, (1 << 62) - 1));
            bytes.extend(wire::varint(Type::JobAccepted as u64));
            bytes
        }
        Kind::TooManyEntries => {
            // Two bytes each on the wire, and many times that once decoded.
            let entries = usize::try_from(d.between(65, 2000)).unwrap_or(65);
            let missing = vec![pb::ByteRange { start: None, length: None }; entries];
            wire::frame(Type::LeaseLost, &pb::LeaseLost { lease: Some(1), code: Some(1), missing })
        }
        Kind::EnumZero => match d.below(3) {
            0 => wire::framed(0, &vec![0; d.index(100)]),
            1 => {
                let report = pb::PathReport { path: Some(1), state: Some(0), code: None };
                wire::frame(Type::PathReport, &report)
            }
            _ => wire::frame(Type::StreamMappingUpdate, &mapping(d, 0)),
        },
        Kind::UnknownOdd => {
            let kind = d.magnitude(60, (1 << 62) - 2) | 1;
            wire::framed(kind, &vec![7; d.index(200)])
        }
        Kind::ForeignFrame => foreign(actor, d),
        _ => return None,
    })
}

/// Returns what a kind of attack writes to a unidirectional stream, if that is all it does.
pub(super) fn header(kind: Kind, actor: Actor, d: &mut Dice) -> Option<Vec<u8>> {
    use pb::StreamHeaderType as Header;
    let internal = |d: &mut Dice| {
        let open = pb::InternalOpen { stream: Some(3), offset: Some(d.below(1 << 40)) };
        wire::header(Header::InternalOpen, &open)
    };
    let secondary = |d: &mut Dice| {
        let open =
            pb::SecondaryStreamOpen { lease: Some(d.magnitude(1, 1 << 40)), offset: Some(d.below(1 << 40)) };
        wire::header(Header::SecondaryStreamOpen, &open)
    };
    // The secondary that attacks has path 3; no primary here names a hundredth.
    let own = if actor == Actor::Secondary { 3 } else { 1 };
    let other = if actor == Actor::Secondary { u32::try_from(d.below(3)).unwrap_or(0) } else { 100 };
    let relay = |d: &mut Dice, path: u32, length: u64, sealed: bool| {
        let seal = bytes(d, 64).filter(|_| sealed);
        let length = u32::try_from(length).ok();
        let open = pb::RelayOpen { path: Some(path), id: Some(d.below(100)), length, seal };
        wire::header(Header::RelayOpen, &open)
    };
    let whole = |mut header: Vec<u8>, len: usize| {
        header.extend(vec![0x55; len]);
        header
    };
    let mut bytes = match (kind, actor) {
        (Kind::RelayOthers, _) => return Some(relay(d, other, 100, true)),
        (Kind::RelayOwn, _) => return Some(relay(d, own, 2000, true)),
        (Kind::RelayLong, _) => {
            let length = d.magnitude(64 * 1024 + 1, 1 << 31);
            return Some(relay(d, own, length, true));
        }
        (Kind::RelayExcess, _) => {
            let (length, more) = (d.below(1000), d.between(1, 1000));
            let header = relay(d, own, length, true);
            return Some(whole(header, usize::try_from(length + more).unwrap_or(1)));
        }
        (Kind::RelayUnsealed, _) => return Some(whole(relay(d, own, 100, false), 100)),
        (Kind::HugeHeader, _) => wire::varint(d.magnitude(129, (1 << 62) - 1)),
        (Kind::UnknownHeader, _) => {
            wire::framed(if d.chance(300) { 0 } else { d.magnitude(5, 1 << 60) }, b"")
        }
        (Kind::PublicStream, _) => wire::header(Header::PublicStream, &pb::PublicStream {}),
        (Kind::InternalHeader, _) => internal(d),
        (Kind::SecondaryHeader, Actor::Client) => {
            if d.chance(500) {
                internal(d)
            } else {
                secondary(d)
            }
        }
        (Kind::SecondaryHeader, _) => secondary(d),
        _ => return None,
    };
    bytes.extend(vec![0x55; d.index(3000)]);
    Some(bytes)
}

/// A whole message with a seal that nobody made.
pub(super) fn relay(path: u32, id: u64, d: &mut Dice) -> Vec<u8> {
    let open = pb::RelayOpen { path: Some(path), id: Some(id), length: Some(100), seal: bytes(d, 64) };
    let mut message = wire::header(pb::StreamHeaderType::RelayOpen, &open);
    message.extend(vec![0x55; 100]);
    message
}

/// A flood of `len` bytes or a little less: frames about what is gone, was said before or changes nothing, of all kinds that
/// break no rule, or such as are to be skipped.
pub(super) fn flood(actor: Actor, job: u64, len: usize, d: &mut Dice) -> Vec<u8> {
    if d.chance(300) {
        let skipped = wire::framed(d.magnitude(54, 1 << 20) & !1, b"");
        return skipped.repeat(len / skipped.len());
    }
    let mut mix = Vec::new();
    for _ in 0..d.between(1, 40) {
        mix.extend(harmless(actor, job, d));
    }
    mix.repeat(len / mix.len())
}

pub(super) fn harmless(actor: Actor, job: u64, d: &mut Dice) -> Vec<u8> {
    let gone = Some(1 << 40);
    match (actor, d.below(5)) {
        (Actor::Secondary, 0) => {
            wire::frame(Type::JobRefused, &pb::JobRefused { job: gone, code: Some(d.magnitude(1, 1 << 30)) })
        }
        (Actor::Secondary, _) => wire::frame(Type::JobAccepted, &pb::JobAccepted { job: Some(job) }),
        (Actor::Primary, 0) => {
            let revoke = pb::LeaseRevoke { lease: gone, keep: Some(d.below(2)), code: Some(1) };
            wire::frame(Type::LeaseRevoke, &revoke)
        }
        (Actor::Primary, 1) => {
            let remove = pb::RemovePath { path: Some(1 << 30), code: Some(1), deadline_ms: Some(0) };
            wire::frame(Type::RemovePath, &remove)
        }
        (Actor::Primary, 2) => {
            let response =
                pb::OffsetSyncResponse { stream: Some(4003), received: vec![range(d)], more: Some(false) };
            wire::frame(Type::OffsetSyncResponse, &response)
        }
        (Actor::Primary, _) => wire::frame(Type::JobClose, &pb::JobClose { job: gone }),
        (Actor::Client, 0) => {
            let state = Some(pb::PathState::Active.into());
            wire::frame(Type::PathReport, &pb::PathReport { path: Some(1 << 30), state, code: None })
        }
        (Actor::Client, 1) => wire::frame(Type::JobAccepted, &pb::JobAccepted { job: gone }),
        (Actor::Client, 2) => {
            wire::frame(Type::StreamStopped, &pb::StreamStopped { stream: Some(4003), code: Some(1) })
        }
        (Actor::Client, 3) => {
            let request = pb::OffsetSyncRequest { stream: Some(4003), from: Some(d.below(1 << 40)) };
            wire::frame(Type::OffsetSyncRequest, &request)
        }
        (Actor::Client, _) => {
            let grant = pb::credit::Grant::Offset(pb::OffsetCredit { stream: Some(4003), offset: Some(1) });
            wire::frame(Type::Credit, &pb::Credit { grant: Some(grant) })
        }
    }
}

fn mapping(d: &mut Dice, operation: i32) -> pb::StreamMappingUpdate {
    pb::StreamMappingUpdate {
        operation: Some(operation),
        stream: Some(3),
        lease: Some(d.below(10)),
        range: Some(range(d)),
    }
}

fn range(d: &mut Dice) -> pb::ByteRange {
    pb::ByteRange { start: Some(d.magnitude(1, 1 << 50)), length: Some(d.magnitude(1, 1 << 30)) }
}

pub(super) fn bytes(d: &mut Dice, len: usize) -> Option<Bytes> {
    let mut bytes = vec![0; len];
    d.fill(&mut bytes);
    Some(bytes.into())
}

/// All feature bits that this version of the protocol has.
pub(super) const FEATURES: u64 = 0x7f;

/// A valid frame that is not this role's to send.
fn foreign(actor: Actor, d: &mut Dice) -> Vec<u8> {
    // From a client it is late, from a primary an answer; nobody else has anything to do with it.
    let sync = [Type::OffsetSyncRequest, Type::OffsetSyncResponse];
    let server = [Type::PathReport, Type::LeaseNotice, Type::LeaseDone, Type::LeaseLost, Type::SplitAck];
    let client =
        [Type::AddPath, Type::RemovePath, Type::JobOpen, Type::JobClose, Type::LeaseGrant, Type::Split];
    let mut types = vec![Type::ClientHello];
    match actor {
        Actor::Secondary => {
            types.extend(server);
            types.extend(sync);
            types.extend([Type::StreamMappingUpdate, Type::Drain]);
            types.extend(client);
            types.extend([Type::LeaseRevoke, Type::StreamFinal, Type::StreamComplete, Type::StreamStopped]);
            types.extend([Type::Credit, Type::SessionClose]);
        }
        Actor::Primary => {
            types.extend(server);
            types.extend([Type::StreamMappingUpdate, Type::Drain]);
            types.extend([Type::JobAccepted, Type::JobRefused, Type::LeaseRefused, Type::StreamComplete]);
            types.extend([Type::StreamStopped, Type::Credit, Type::ServerHello, Type::Refuse]);
        }
        Actor::Client => {
            types.extend(client);
            types.extend([Type::LeaseNotice, Type::LeaseRevoke, Type::StreamFinal, Type::ServerHello]);
            types.extend([Type::Refuse, Type::Drain]);
        }
    }
    valid(d.pick(&types), d)
}

/// A frame of that type in which nothing is wrong.
fn valid(kind: Type, d: &mut Dice) -> Vec<u8> {
    let (id, stream) = (Some(d.magnitude(1, 1 << 40)), Some(3));
    let code = Some(d.below(1000));
    fn encode(kind: Type, body: &impl Message) -> Vec<u8> {
        wire::frame(kind, body)
    }
    match kind {
        Type::Unspecified => wire::framed(0, b""),
        Type::ClientHello => encode(kind, &hello(d)),
        Type::ServerHello => encode(
            kind,
            &pb::ServerHello {
                version: Some(1),
                features: Some(FEATURES),
                session: bytes(d, 16),
                app_protocol: None,
            },
        ),
        Type::Refuse => encode(kind, &pb::Refuse { code, reason: Some("no".into()) }),
        Type::AddPath => encode(kind, &add_path(d, 77, [10, 0, 0, 9], 4433)),
        Type::PathReport => encode(kind, &pb::PathReport { path: Some(1), state: Some(1), code: None }),
        Type::RemovePath => encode(kind, &pb::RemovePath { path: Some(1), code, deadline_ms: id }),
        Type::Drain => encode(kind, &pb::Drain { deadline_ms: id }),
        Type::JobOpen => encode(
            kind,
            &pb::JobOpen {
                job: id,
                path: Some(1),
                stream,
                range: Some(range(d)),
                total: id,
                expiry: id,
                payload: bytes(d, 8),
                seal: bytes(d, 64),
            },
        ),
        Type::JobAccepted => encode(kind, &pb::JobAccepted { job: id }),
        Type::JobRefused => encode(kind, &pb::JobRefused { job: id, code }),
        Type::JobClose => encode(kind, &pb::JobClose { job: id }),
        Type::LeaseGrant => encode(kind, &grant(id, id, Some(range(d)))),
        Type::LeaseNotice => {
            encode(kind, &pb::LeaseNotice { lease: id, job: id, range: Some(range(d)), credit: Some(1) })
        }
        Type::LeaseRefused => encode(kind, &pb::LeaseRefused { lease: id, code }),
        Type::LeaseRevoke => encode(kind, &pb::LeaseRevoke { lease: id, keep: Some(1), code }),
        Type::LeaseDone => encode(kind, &pb::LeaseDone { lease: id }),
        Type::LeaseLost => encode(kind, &pb::LeaseLost { lease: id, code, missing: vec![range(d)] }),
        Type::Split => encode(kind, &pb::Split { stream, offset: id }),
        Type::SplitAck => encode(kind, &pb::SplitAck { stream, credit: id }),
        Type::StreamFinal => encode(kind, &pb::StreamFinal { stream, size: id }),
        Type::StreamComplete => encode(kind, &pb::StreamComplete { stream }),
        Type::StreamStopped => encode(kind, &pb::StreamStopped { stream, code }),
        Type::Credit => {
            let credit = pb::credit::Grant::Offset(pb::OffsetCredit { stream, offset: id });
            encode(kind, &pb::Credit { grant: Some(credit) })
        }
        Type::OffsetSyncRequest => encode(kind, &pb::OffsetSyncRequest { stream, from: id }),
        Type::OffsetSyncResponse => {
            let received = vec![range(d)];
            encode(kind, &pb::OffsetSyncResponse { stream, received, more: Some(false) })
        }
        Type::StreamMappingUpdate => {
            let operation = i32::try_from(d.between(1, 4)).unwrap_or(1);
            encode(kind, &mapping(d, operation))
        }
        Type::ProgressReport => encode(kind, &progress(id, id)),
        Type::SessionClose => encode(kind, &pb::SessionClose { code, reason: Some("bye".into()) }),
    }
}

/// A report that so many bytes of a lease have come.
pub(super) fn progress(lease: Option<u64>, bytes: Option<u64>) -> pb::ProgressReport {
    pb::ProgressReport {
        path: Some(1),
        rtt_us: Some(1000),
        late: Some(0),
        overlap: Some(0),
        leases: vec![pb::LeaseProgress { lease, bytes }],
        readers: Vec::new(),
    }
}

/// A grant without any of the options.
pub(super) fn grant(lease: Option<u64>, job: Option<u64>, range: Option<pb::ByteRange>) -> pb::LeaseGrant {
    pb::LeaseGrant { lease, job, range, digest: None, deadline_ms: None, hedge_of: None, progress: None }
}

/// The hello of a client with a key that nobody has.
pub(super) fn hello(d: &mut Dice) -> pb::ClientHello {
    pb::ClientHello {
        version: Some(1),
        features: Some(FEATURES),
        client_key: bytes(d, 32),
        split_streams_max: Some(16),
        app_protocols: Vec::new(),
        attach: None,
    }
}

/// A path to an address, with a ticket that nobody signed.
pub(super) fn add_path(d: &mut Dice, path: u32, ip: impl Into<Vec<u8>>, port: u32) -> pb::AddPath {
    pb::AddPath {
        path: Some(path),
        addresses: vec![pb::SocketAddress { ip: Some(ip.into().into()), port: Some(port) }],
        server_name: Some("victim.test".into()),
        pins: Vec::new(),
        ticket: bytes(d, 181),
    }
}
