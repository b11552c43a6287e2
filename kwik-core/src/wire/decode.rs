//! Control frames from bytes, as they come.

mod control;
mod field;
mod header;

pub(crate) use header::HeaderDecoder;
use kwik_proto::v1::FrameType;

use super::{frame::Frame, varint};
use crate::{error::FrameError, limits::CONTROL_FRAME_MAX};

/// Turns the bytes of one control stream into frames.
///
/// Call [`push`](Self::push) with what came, then [`next`](Self::next) until it returns `None`. Between pushes it
/// holds less than one frame: never more than was received, never room for what a length only claims. Unknown even
/// types are skipped without being held. Spec: PROTOCOL §4.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Received; everything before `at` is used up.
    buffer: Vec<u8>,
    at: usize,
    /// Bytes still to come of a body that nobody wants.
    skip: usize,
    /// Frames skipped since somebody asked.
    skipped: u32,
    failed: Option<FrameError>,
}

impl Decoder {
    /// Returns a decoder at the start of a control stream.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream, in order.
    ///
    /// The frames of the push before must have been taken out. After an error the bytes are dropped.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        debug_assert!(self.held() < HEAD_MAX + CONTROL_FRAME_MAX, "frames wait that nobody took");
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next frame; `None` until more bytes are pushed.
    ///
    /// # Errors
    /// The bytes' fault, now and at every later call: the stream cannot be picked up again.
    /// - [`FrameError::TooLarge`] for a length above 4 KiB, before its body is looked at, and for an overlong text,
    ///   ticket or payload.
    /// - [`FrameError::UnknownMandatory`] for an unknown odd type.
    /// - [`FrameError::Field`], also for type 0, and the others for a body that is not a valid message of its type.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.advance().inspect_err(|&error| {
            self.failed = Some(error);
            self.buffer = Vec::new();
            self.at = 0;
        })
    }

    /// Returns how many frames were skipped since the last call.
    pub(crate) fn take_skipped(&mut self) -> u32 {
        std::mem::take(&mut self.skipped)
    }

    /// Returns whether the stream stands between two frames, the only place where it may end.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.failed.is_none() && self.skip == 0 && self.held() == 0
    }

    fn advance(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let skipped = self.skip.min(self.held());
            self.skip -= skipped;
            self.at += skipped;

            let rest = self.buffer.get(self.at..).unwrap_or_default();
            let Head::Whole { length, kind, size } = Head::read(rest, CONTROL_FRAME_MAX)? else {
                return Ok(None);
            };
            match known(kind)? {
                None => {
                    self.at += size;
                    self.skip = length;
                    self.skipped = self.skipped.saturating_add(1);
                }
                Some(kind) => {
                    let Some(body) = rest.get(size..size + length) else {
                        return Ok(None);
                    };
                    let frame = control::decode(kind, body)?;
                    self.at += size + length;
                    return Ok(Some(frame));
                }
            }
        }
    }

    /// Number of bytes that wait.
    fn held(&self) -> usize {
        self.buffer.len() - self.at
    }
}

/// Returns what kind of frame a type number stands for; `None` if it is unknown and may be skipped.
fn known(kind: u64) -> Result<Option<FrameType>, FrameError> {
    match i32::try_from(kind).ok().and_then(|kind| FrameType::try_from(kind).ok()) {
        Some(FrameType::Unspecified) => Err(FrameError::Field),
        Some(kind) => Ok(Some(kind)),
        None if kind % 2 == 0 => Ok(None),
        None => Err(FrameError::UnknownMandatory),
    }
}

/// Most bytes before a body: two integers of at most eight bytes.
const HEAD_MAX: usize = 16;

/// Length and type before a body, on control streams as in stream headers.
#[derive(Clone, Copy)]
enum Head {
    /// All there: `length` bytes of body follow after the `size` bytes of the head.
    Whole { length: usize, kind: u64, size: usize },
    /// At least `missing` more bytes belong to head and body; never 0.
    Partial { missing: usize },
}

impl Head {
    /// Reads length and type at the start of `bytes`; refuses a length above `length_max` as soon as it is there.
    fn read(bytes: &[u8], length_max: usize) -> Result<Self, FrameError> {
        let (length, length_size) = match varint::read(bytes) {
            Ok(read) => read,
            // One more for the type that follows.
            Err(missing) => return Ok(Self::Partial { missing: missing + 1 }),
        };
        let Some(length) = usize::try_from(length).ok().filter(|&length| length <= length_max) else {
            return Err(FrameError::TooLarge);
        };
        Ok(match varint::read(bytes.get(length_size..).unwrap_or_default()) {
            Ok((kind, kind_size)) => Self::Whole { length, kind, size: length_size + kind_size },
            Err(missing) => Self::Partial { missing: missing + length },
        })
    }
}

#[cfg(test)]
mod sweep;
#[cfg(test)]
mod tests;
