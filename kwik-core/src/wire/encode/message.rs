//! The larger messages from the types they stand for.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use kwik_proto::v1 as pb;

use crate::{
    action::ReaderStatus,
    id::{ByteRange, LeaseId, StreamId},
    wire::frame::{AddPath, Attach, ClientHello, Credit, JobOpen, LeaseGrant, ProgressReport, ServerHello},
};

pub(super) fn byte_range(range: ByteRange) -> pb::ByteRange {
    pb::ByteRange { start: Some(range.start()), length: Some(range.len()) }
}

fn socket_address(address: &SocketAddr) -> pb::SocketAddress {
    let ip = match address.ip() {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    };
    pb::SocketAddress { ip: Some(ip), port: Some(address.port().into()) }
}

impl From<&ClientHello> for pb::ClientHello {
    fn from(hello: &ClientHello) -> Self {
        Self {
            version: Some(hello.version),
            features: Some(hello.features.0),
            client_key: Some(Bytes::copy_from_slice(hello.client_key.as_bytes())),
            split_streams_max: Some(hello.split_streams_max),
            app_protocols: hello.app_protocols.clone(),
            attach: hello.attach.as_ref().map(pb::Attach::from),
        }
    }
}

impl From<&Attach> for pb::Attach {
    fn from(attach: &Attach) -> Self {
        Self {
            session: Some(Bytes::copy_from_slice(attach.session.as_bytes())),
            path: Some(attach.path.into_inner()),
            ticket: Some(attach.ticket.clone()),
            proof: Some(Bytes::copy_from_slice(attach.proof.as_bytes())),
        }
    }
}

impl From<&ServerHello> for pb::ServerHello {
    fn from(hello: &ServerHello) -> Self {
        Self {
            version: Some(hello.version),
            features: Some(hello.features.0),
            session: Some(Bytes::copy_from_slice(hello.session.as_bytes())),
            app_protocol: hello.app_protocol.clone(),
        }
    }
}

impl From<&AddPath> for pb::AddPath {
    fn from(path: &AddPath) -> Self {
        Self {
            path: Some(path.path.into_inner()),
            addresses: path.addresses.iter().map(socket_address).collect(),
            server_name: Some(path.server_name.clone()),
            pins: path.pins.iter().map(|pin| Bytes::copy_from_slice(pin.as_bytes())).collect(),
            ticket: Some(path.ticket.clone()),
        }
    }
}

impl From<&JobOpen> for pb::JobOpen {
    fn from(job: &JobOpen) -> Self {
        Self {
            job: Some(job.job.into_inner()),
            path: Some(job.path.into_inner()),
            stream: Some(job.stream.into_inner()),
            range: Some(byte_range(job.range)),
            total: Some(job.total),
            expiry: Some(job.expiry),
            payload: Some(job.payload.clone()),
            seal: Some(Bytes::copy_from_slice(job.seal.as_bytes())),
        }
    }
}

impl From<&LeaseGrant> for pb::LeaseGrant {
    fn from(grant: &LeaseGrant) -> Self {
        Self {
            lease: Some(grant.lease.into_inner()),
            job: Some(grant.job.into_inner()),
            range: Some(byte_range(grant.range)),
            digest: grant.digest.as_ref().map(|digest| Bytes::copy_from_slice(digest)),
            deadline_ms: grant.deadline_ms,
            hedge_of: grant.hedge_of.map(LeaseId::into_inner),
            progress: grant.progress.then_some(true),
        }
    }
}

impl From<&ProgressReport> for pb::ProgressReport {
    fn from(report: &ProgressReport) -> Self {
        let lease = |&(lease, bytes): &(LeaseId, u64)| pb::LeaseProgress {
            lease: Some(lease.into_inner()),
            bytes: Some(bytes),
        };
        let reader = |(stream, reader): &(StreamId, ReaderStatus)| pb::ReaderProgress {
            stream: Some(stream.into_inner()),
            position: Some(reader.position),
            window: Some(reader.window),
        };
        Self {
            path: Some(report.path.into_inner()),
            rtt_us: report.rtt_us,
            late: Some(report.late),
            overlap: Some(report.overlap),
            leases: report.leases.iter().map(lease).collect(),
            readers: report.readers.iter().map(reader).collect(),
        }
    }
}

impl From<&Credit> for pb::Credit {
    fn from(credit: &Credit) -> Self {
        use pb::credit::Grant;

        let grant = match *credit {
            Credit::Offset { stream, offset } => {
                Grant::Offset(pb::OffsetCredit { stream: Some(stream.into_inner()), offset: Some(offset) })
            }
            Credit::Lease { lease, bytes } => {
                Grant::Lease(pb::LeaseCredit { lease: Some(lease.into_inner()), bytes: Some(bytes) })
            }
            Credit::Run { stream, bytes } => {
                Grant::Run(pb::RunCredit { stream: Some(stream.into_inner()), bytes: Some(bytes) })
            }
        };
        Self { grant: Some(grant) }
    }
}
