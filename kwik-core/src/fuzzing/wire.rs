//! The decoders: whole or in pieces they say the same, and what they let through survives encoding.

use crate::{
    error::FrameError,
    wire::{
        Decoder, HeaderDecoder, encode, encode_header,
        frame::{Frame, StreamHeader},
    },
};

/// Decodes `data` as a control stream: at once and in three pieces it must give the same, and every frame that comes
/// out must survive encoding.
///
/// # Panics
/// If it does not: that is what a fuzzer looks for.
pub fn frame_decode(data: &[u8]) {
    // Where it is split follows from the data, so that the fuzzer can choose it.
    let first = data.first().map_or(0, |&byte| usize::from(byte) % data.len());
    let second = data.last().map_or(0, |&byte| usize::from(byte) % (data.len() - first));
    let (start, rest) = data.split_at(first);
    let (middle, end) = rest.split_at(second);

    let whole = frames(&[data]);
    assert_eq!(whole, frames(&[start, middle, end]), "split at {first} and {}", first + second);

    for frame in whole.0 {
        let mut bytes = Vec::new();
        encode(&frame, &mut bytes);
        assert_eq!(frames(&[&bytes]), (vec![frame], Ok(true)));
    }
}

/// Decodes the start of `data` as a stream header: taken as wanted and byte by byte it must give the same, read the
/// same number of bytes, and survive encoding.
///
/// # Panics
/// If it does not: that is what a fuzzer looks for.
pub fn header_decode(data: &[u8]) {
    let whole = header(data, usize::MAX);
    assert_eq!(whole, header(data, 1));

    if let Ok((Some(decoded), _)) = whole {
        let bytes = encode_header(&decoded);
        assert_eq!(header(&bytes, usize::MAX), Ok((Some(decoded), bytes.len())));
    }
}

/// Returns the frames in `pieces`, and the error after them or whether the stream could end there.
fn frames(pieces: &[&[u8]]) -> (Vec<Frame>, Result<bool, FrameError>) {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(decoder.is_between_frames()))
}

/// Returns the header at the start of `data` and how many bytes were taken, at most `most` at a time.
fn header(data: &[u8], most: usize) -> Result<(Option<StreamHeader>, usize), FrameError> {
    let mut decoder = HeaderDecoder::new();
    let mut rest = data;
    while !rest.is_empty() {
        let wanted = decoder.wanted();
        assert!(wanted > 0, "a header that is neither there nor wrong wants bytes");
        let (now, later) = rest.split_at(wanted.min(most).min(rest.len()));
        rest = later;
        if let Some(header) = decoder.push(now)? {
            return Ok((Some(header), data.len() - rest.len()));
        }
    }
    Ok((None, data.len()))
}
