//! The bodies of control frames: what a peer claims, turned into what can only be valid.
//!
//! protobuf lets a varint of a 32-bit field carry more bits and drops them, and lets a field repeat and keeps the last;
//! what is checked here is what every implementation reads. Unknown fields are ignored, so that later versions can
//! add some. A body has at most 4 KiB, which bounds what it can make protobuf allocate before the caps are checked.

use kwik_proto::v1 as pb;
use prost::Message;

use super::field::{
    address, app_protocol, array, at_most, capped, code, count, key, lease_range, path, range, ranges,
    reason, required, said, stream, ticket,
};
use crate::{
    action::ReaderStatus,
    error::FrameError,
    id::{JobId, LeaseId, PublicKey, SessionId, Signature, SpkiHash},
    limits::{
        APP_ALPN_MAX, APP_ALPN_TOTAL_MAX, JOB_PAYLOAD_MAX, PATH_ADDRESSES_MAX, PATH_PINS_MAX, REPEATED_MAX,
        SERVER_NAME_MAX,
    },
    wire::frame::{
        AddPath, Attach, ClientHello, Credit, Features, Frame, JobOpen, LeaseGrant, MappingOperation,
        PathStatus, ProgressReport, ServerHello,
    },
};

/// Decodes the body of a frame of type `kind`.
pub(super) fn decode(kind: pb::FrameType, body: &[u8]) -> Result<Frame, FrameError> {
    use pb::FrameType as Type;

    match kind {
        Type::Unspecified => Err(FrameError::Field),
        Type::ClientHello => read::<pb::ClientHello>(body),
        Type::ServerHello => read::<pb::ServerHello>(body),
        Type::Refuse => read::<pb::Refuse>(body),
        Type::AddPath => read::<pb::AddPath>(body),
        Type::PathReport => read::<pb::PathReport>(body),
        Type::RemovePath => read::<pb::RemovePath>(body),
        Type::Drain => read::<pb::Drain>(body),
        Type::JobOpen => read::<pb::JobOpen>(body),
        Type::JobAccepted => read::<pb::JobAccepted>(body),
        Type::JobRefused => read::<pb::JobRefused>(body),
        Type::JobClose => read::<pb::JobClose>(body),
        Type::LeaseGrant => read::<pb::LeaseGrant>(body),
        Type::LeaseNotice => read::<pb::LeaseNotice>(body),
        Type::LeaseRefused => read::<pb::LeaseRefused>(body),
        Type::LeaseRevoke => read::<pb::LeaseRevoke>(body),
        Type::LeaseDone => read::<pb::LeaseDone>(body),
        Type::LeaseLost => read::<pb::LeaseLost>(body),
        Type::Split => read::<pb::Split>(body),
        Type::SplitAck => read::<pb::SplitAck>(body),
        Type::StreamFinal => read::<pb::StreamFinal>(body),
        Type::StreamComplete => read::<pb::StreamComplete>(body),
        Type::StreamStopped => read::<pb::StreamStopped>(body),
        Type::Credit => read::<pb::Credit>(body),
        Type::OffsetSyncRequest => read::<pb::OffsetSyncRequest>(body),
        Type::OffsetSyncResponse => read::<pb::OffsetSyncResponse>(body),
        Type::StreamMappingUpdate => read::<pb::StreamMappingUpdate>(body),
        Type::SessionClose => read::<pb::SessionClose>(body),
        Type::ProgressReport => read::<pb::ProgressReport>(body),
    }
}

/// Reads one message. From a slice, so that fields are copied and no ticket keeps a whole buffer alive.
fn read<M>(body: &[u8]) -> Result<Frame, FrameError>
where
    M: Message + Default,
    Frame: TryFrom<M, Error = FrameError>,
{
    Frame::try_from(M::decode(body).map_err(|_| FrameError::Malformed)?)
}

fn job(field: Option<u64>) -> Result<JobId, FrameError> {
    required(field).map(JobId::new)
}

fn lease(field: Option<u64>) -> Result<LeaseId, FrameError> {
    required(field).map(LeaseId::new)
}

/// Writes `TryFrom<pb::$message> for Frame`, the same three lines around every conversion.
macro_rules! frame_from {
    ($($message:ident, $m:pat => $frame:expr;)*) => {
        $(impl TryFrom<pb::$message> for Frame {
            type Error = FrameError;

            fn try_from($m: pb::$message) -> Result<Self, FrameError> {
                Ok($frame)
            }
        })*
    };
}

frame_from! {
    ClientHello, m => Self::ClientHello(m.try_into()?);
    ServerHello, m => Self::ServerHello(m.try_into()?);
    Refuse, m => Self::Refuse { code: said(m.code)?, reason: reason(m.reason)? };
    AddPath, m => Self::AddPath(m.try_into()?);
    PathReport, m => Self::PathReport { path: path(m.path)?, status: status(m.state, m.code)? };
    RemovePath, m => Self::RemovePath {
        path: path(m.path)?,
        code: code(m.code)?,
        deadline_ms: required(m.deadline_ms)?,
    };
    Drain, m => Self::Drain { deadline_ms: required(m.deadline_ms)? };
    JobOpen, m => Self::JobOpen(m.try_into()?);
    JobAccepted, m => Self::JobAccepted { job: job(m.job)? };
    JobRefused, m => Self::JobRefused { job: job(m.job)?, code: code(m.code)? };
    JobClose, m => Self::JobClose { job: job(m.job)? };
    LeaseGrant, m => Self::LeaseGrant(m.try_into()?);
    LeaseNotice, m => Self::LeaseNotice {
        lease: lease(m.lease)?,
        job: job(m.job)?,
        range: lease_range(m.range)?,
        credit: count(m.credit)?,
    };
    LeaseRefused, m => Self::LeaseRefused { lease: lease(m.lease)?, code: code(m.code)? };
    LeaseRevoke, m => Self::LeaseRevoke { lease: lease(m.lease)?, keep: count(m.keep)?, code: code(m.code)? };
    LeaseDone, m => Self::LeaseDone { lease: lease(m.lease)? };
    LeaseLost, m => Self::LeaseLost { lease: lease(m.lease)?, code: code(m.code)?, missing: ranges(m.missing)? };
    Split, m => Self::Split { stream: stream(m.stream)?, offset: count(m.offset)? };
    SplitAck, m => Self::SplitAck { stream: stream(m.stream)?, credit: count(m.credit)? };
    StreamFinal, m => Self::StreamFinal { stream: stream(m.stream)?, size: count(m.size)? };
    StreamComplete, m => Self::StreamComplete { stream: stream(m.stream)? };
    StreamStopped, m => Self::StreamStopped { stream: stream(m.stream)?, code: code(m.code)? };
    Credit, m => Self::Credit(m.try_into()?);
    OffsetSyncRequest, m => Self::OffsetSyncRequest { stream: stream(m.stream)?, from: count(m.from)? };
    OffsetSyncResponse, m => Self::OffsetSyncResponse {
        stream: stream(m.stream)?,
        received: ranges(m.received)?,
        more: required(m.more)?,
    };
    StreamMappingUpdate, m => Self::StreamMappingUpdate {
        operation: operation(m.operation)?,
        stream: stream(m.stream)?,
        lease: lease(m.lease)?,
        range: lease_range(m.range)?,
    };
    ProgressReport, m => Self::ProgressReport(m.try_into()?);
    SessionClose, m => Self::SessionClose { code: said(m.code)?, reason: reason(m.reason)? };
}

impl TryFrom<pb::ClientHello> for ClientHello {
    type Error = FrameError;

    fn try_from(m: pb::ClientHello) -> Result<Self, FrameError> {
        at_most(APP_ALPN_MAX, &m.app_protocols)?;
        let app_protocols: Vec<_> =
            m.app_protocols.into_iter().map(app_protocol).collect::<Result<_, _>>()?;
        if app_protocols.iter().map(bytes::Bytes::len).sum::<usize>() > APP_ALPN_TOTAL_MAX {
            return Err(FrameError::TooLarge);
        }
        Ok(Self {
            version: required(m.version)?,
            features: Features(required(m.features)?),
            client_key: PublicKey::new(key(m.client_key)?),
            split_streams_max: required(m.split_streams_max)?,
            app_protocols,
            attach: m.attach.map(Attach::try_from).transpose()?,
        })
    }
}

impl TryFrom<pb::Attach> for Attach {
    type Error = FrameError;

    fn try_from(m: pb::Attach) -> Result<Self, FrameError> {
        Ok(Self {
            session: SessionId::new(key(m.session)?),
            path: path(m.path)?,
            ticket: ticket(m.ticket)?,
            proof: Signature::new(key(m.proof)?),
        })
    }
}

impl TryFrom<pb::ServerHello> for ServerHello {
    type Error = FrameError;

    fn try_from(m: pb::ServerHello) -> Result<Self, FrameError> {
        Ok(Self {
            version: required(m.version)?,
            features: Features(required(m.features)?),
            session: SessionId::new(key(m.session)?),
            app_protocol: m.app_protocol.map(app_protocol).transpose()?,
        })
    }
}

impl TryFrom<pb::AddPath> for AddPath {
    type Error = FrameError;

    fn try_from(m: pb::AddPath) -> Result<Self, FrameError> {
        at_most(PATH_ADDRESSES_MAX, &m.addresses)?;
        at_most(PATH_PINS_MAX, &m.pins)?;
        let server_name = required(m.server_name)?;
        if server_name.is_empty() || m.addresses.is_empty() {
            return Err(FrameError::Field);
        }
        if server_name.len() > SERVER_NAME_MAX {
            return Err(FrameError::TooLarge);
        }
        Ok(Self {
            path: path(m.path)?,
            addresses: m.addresses.into_iter().map(address).collect::<Result<_, _>>()?,
            server_name,
            pins: m.pins.iter().map(|pin| array(pin).map(SpkiHash::new)).collect::<Result<_, _>>()?,
            ticket: ticket(m.ticket)?,
        })
    }
}

impl TryFrom<pb::JobOpen> for JobOpen {
    type Error = FrameError;

    fn try_from(m: pb::JobOpen) -> Result<Self, FrameError> {
        Ok(Self {
            job: job(m.job)?,
            path: path(m.path)?,
            stream: stream(m.stream)?,
            range: range(m.range)?,
            total: count(m.total)?,
            expiry: required(m.expiry)?,
            payload: capped(required(m.payload)?, JOB_PAYLOAD_MAX)?,
            seal: Signature::new(key(m.seal)?),
        })
    }
}

impl TryFrom<pb::LeaseGrant> for LeaseGrant {
    type Error = FrameError;

    fn try_from(m: pb::LeaseGrant) -> Result<Self, FrameError> {
        Ok(Self {
            lease: lease(m.lease)?,
            job: job(m.job)?,
            range: lease_range(m.range)?,
            digest: m.digest.as_deref().map(array).transpose()?,
            deadline_ms: m.deadline_ms,
            hedge_of: m.hedge_of.map(LeaseId::new),
            progress: m.progress.unwrap_or_default(),
        })
    }
}

impl TryFrom<pb::ProgressReport> for ProgressReport {
    type Error = FrameError;

    fn try_from(m: pb::ProgressReport) -> Result<Self, FrameError> {
        at_most(REPEATED_MAX, &m.leases)?;
        at_most(REPEATED_MAX, &m.readers)?;
        let reader = |m: pb::ReaderProgress| {
            Ok((stream(m.stream)?, ReaderStatus { position: count(m.position)?, window: count(m.window)? }))
        };
        Ok(Self {
            path: path(m.path)?,
            rtt_us: m.rtt_us,
            late: count(m.late)?,
            overlap: count(m.overlap)?,
            leases: m
                .leases
                .into_iter()
                .map(|m| Ok((lease(m.lease)?, count(m.bytes)?)))
                .collect::<Result<_, _>>()?,
            readers: m.readers.into_iter().map(reader).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<pb::Credit> for Credit {
    type Error = FrameError;

    fn try_from(m: pb::Credit) -> Result<Self, FrameError> {
        use pb::credit::Grant;

        Ok(match required(m.grant)? {
            Grant::Offset(m) => Self::Offset { stream: stream(m.stream)?, offset: count(m.offset)? },
            Grant::Lease(m) => Self::Lease { lease: lease(m.lease)?, bytes: count(m.bytes)? },
            Grant::Run(m) => Self::Run { stream: stream(m.stream)?, bytes: count(m.bytes)? },
        })
    }
}

/// A code belongs to a dead path and to no other.
fn status(state: Option<i32>, reason: Option<u64>) -> Result<PathStatus, FrameError> {
    match (pb::PathState::try_from(required(state)?), reason) {
        (Ok(pb::PathState::Active), None) => Ok(PathStatus::Active),
        (Ok(pb::PathState::Degraded), None) => Ok(PathStatus::Degraded),
        (Ok(pb::PathState::Dead), reason) => code(reason).map(PathStatus::Dead),
        (Ok(pb::PathState::Unspecified | pb::PathState::Active | pb::PathState::Degraded) | Err(_), _) => {
            Err(FrameError::Field)
        }
    }
}

fn operation(field: Option<i32>) -> Result<MappingOperation, FrameError> {
    use pb::MappingOperation as Wire;

    match Wire::try_from(required(field)?) {
        Ok(Wire::Create) => Ok(MappingOperation::Create),
        Ok(Wire::Update) => Ok(MappingOperation::Update),
        Ok(Wire::Suspend) => Ok(MappingOperation::Suspend),
        Ok(Wire::Resume) => Ok(MappingOperation::Resume),
        Ok(Wire::Unspecified) | Err(_) => Err(FrameError::Field),
    }
}
