//! Control frames to bytes and back. Spec: PROTOCOL §4.

use std::hint::black_box;

use bytes::Bytes;
use smallvec::smallvec;

use super::Body;
use crate::{
    id::{ByteRange, JobId, LeaseId, PathId, Signature, SpkiHash, StreamId},
    wire::{AddPath, Credit, Decoder, Frame, JobOpen, LeaseGrant, encode},
};

const GROUP: &str = "frame";
/// Frames per run.
const FRAMES: u64 = 256;

pub(super) fn bodies() -> Vec<Body> {
    let frames = [
        ("LeaseGrant", grant()),
        ("LeaseNotice", notice()),
        ("Credit", credit()),
        ("AddPath", add_path()),
        ("JobOpen", job_open()),
    ];
    frames
        .into_iter()
        .flat_map(|(name, frame)| [encoding(name, frame.clone()), decoding(name, &frame)])
        .collect()
}

fn encoding(name: &str, frame: Frame) -> Body {
    let mut out = Vec::new();
    Body::new(GROUP, format!("encode {name}"), FRAMES, move || {
        out.clear();
        for _ in 0..FRAMES {
            encode(&frame, &mut out);
        }
        black_box(&out).len() as u64
    })
}

fn decoding(name: &str, frame: &Frame) -> Body {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes);
    let mut decoder = Decoder::new();
    Body::new(GROUP, format!("decode {name}"), FRAMES, move || {
        let mut decoded = 0;
        for _ in 0..FRAMES {
            decoder.push(&bytes);
            while let Ok(Some(frame)) = decoder.next() {
                black_box(frame);
                decoded += 1;
            }
        }
        decoded
    })
}

fn grant() -> Frame {
    Frame::LeaseGrant(LeaseGrant {
        lease: LeaseId::new(70_000),
        job: JobId::new(300),
        range: range(),
        digest: Some([7; 32]),
        deadline_ms: Some(30_000),
        hedge_of: None,
        progress: false,
    })
}

fn notice() -> Frame {
    let (lease, job) = (LeaseId::new(70_000), JobId::new(300));
    Frame::LeaseNotice { lease, job, range: range(), credit: 1 << 20 }
}

fn credit() -> Frame {
    Frame::Credit(Credit::Offset { stream: stream(), offset: 5 << 30 })
}

fn add_path() -> Frame {
    Frame::AddPath(AddPath {
        path: PathId::new(3),
        addresses: smallvec![([192, 0, 2, 17], 4433).into()],
        server_name: "mirror-17.example.net".to_owned(),
        pins: smallvec![SpkiHash::new([7; 32])],
        ticket: Bytes::from_iter((0..240).map(|_| 7)),
    })
}

fn job_open() -> Frame {
    Frame::JobOpen(JobOpen {
        job: JobId::new(300),
        path: PathId::new(3),
        stream: stream(),
        range: range(),
        total: 20 << 20,
        expiry: 1_800_086_400,
        payload: Bytes::from_iter((0..64).map(|_| 7)),
        seal: Signature::new([7; 64]),
    })
}

fn range() -> ByteRange {
    ByteRange::new(5 << 30, 1 << 20).expect("far below the last offset")
}

fn stream() -> StreamId {
    StreamId::from_u64(401).expect("a small number")
}
