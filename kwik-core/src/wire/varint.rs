//! QUIC's variable-length integers (RFC 9000 §16).
//!
//! Any of the four lengths is accepted for any value; the shortest is written.

use bytes::BufMut;

/// The largest value there is, 2^62 − 1.
const MAX: u64 = (1 << 62) - 1;

/// Appends `value`, which is at most 2^62 − 1.
pub(super) fn put(value: u64, out: &mut impl BufMut) {
    debug_assert!(value <= MAX, "{value} is no QUIC integer");
    let exponent = match value {
        0..=0x3f => 0_u32,
        0x40..=0x3fff => 1,
        0x4000..=0x3fff_ffff => 2,
        _ => 3,
    };
    let len = 1_usize << exponent;
    // The exponent goes to the top two bits of the bytes that are written.
    let tagged = (value & MAX) | (u64::from(exponent) << (8 * len - 2));
    out.put_slice(tagged.to_be_bytes().get(8 - len..).unwrap_or_default());
}

/// Returns the integer at the start of `bytes` and how many bytes it takes.
///
/// # Errors
/// Number of bytes missing to the end of the integer, at least 1, if it is not all there.
pub(super) fn read(bytes: &[u8]) -> Result<(u64, usize), usize> {
    let Some(&first) = bytes.first() else {
        return Err(1);
    };
    let len = 1_usize << (first >> 6);
    let Some(all) = bytes.get(..len) else {
        return Err(len - bytes.len());
    };
    let tagged = all.iter().fold(0, |value, &byte| (value << 8) | u64::from(byte));
    Ok((tagged & (MAX >> (64 - 8 * len)), len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        let examples: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in examples {
            assert_eq!(read(bytes), Ok((value, bytes.len())), "RFC 9000 §A.1");
        }
    }

    #[test]
    fn edges_take_the_shortest_form() {
        for (value, len) in
            [(0, 1), (63, 1), (64, 2), (16_383, 2), (16_384, 4), ((1 << 30) - 1, 4), (1 << 30, 8), (MAX, 8)]
        {
            let mut out = Vec::new();
            put(value, &mut out);
            assert_eq!(out.len(), len, "{value}");
            assert_eq!(read(&out), Ok((value, len)));
        }
    }

    /// All there is of one and two bytes, and of the longer forms every first byte and the edges of every value: each is
    /// what RFC 9000 §16 says it is.
    #[test]
    fn every_short_input_is_read_as_the_rfc_says() {
        let expected = |bytes: &[u8]| {
            let len = [1, 2, 4, 8][usize::from(bytes[0] >> 6)];
            let rest = bytes.iter().take(len).skip(1);
            let value = rest.fold(u64::from(bytes[0] & 0x3f), |value, byte| value * 256 + u64::from(*byte));
            if bytes.len() < len { Err(len - bytes.len()) } else { Ok((value, len)) }
        };
        assert_eq!(read(&[]), Err(1));
        for first in 0..=u8::MAX {
            assert_eq!(read(&[first]), expected(&[first]));
            for second in 0..=u8::MAX {
                assert_eq!(read(&[first, second]), expected(&[first, second]));
            }
            for (len, fill) in (3..10).flat_map(|len| [0, 1, 0x7f, 0x80, 0xff].map(|fill| (len, fill))) {
                let mut bytes = vec![fill; len];
                bytes[0] = first;
                assert_eq!(read(&bytes), expected(&bytes), "{bytes:x?}");
            }
        }
    }

    /// Every value around each power of two: the shortest form is written, and every form that is long enough is read.
    #[test]
    fn every_form_of_an_edge_is_read_and_the_shortest_written() {
        let edges =
            (0..62).flat_map(|bit| (-3..=3).filter_map(move |off| (1_u64 << bit).checked_add_signed(off)));
        for value in edges.chain(MAX - 3..=MAX).filter(|value| *value <= MAX) {
            let forms = (0..4_u32).filter(|form| value < 1 << ((8 << form) - 2));
            let mut forms = forms.map(|form| {
                let bytes = (value | (u64::from(form) << ((8 << form) - 2))).to_be_bytes();
                bytes[8 - (1 << form)..].to_vec()
            });
            let mut out = Vec::new();
            put(value, &mut out);
            let shortest = forms.next();
            assert_eq!(Some(&out), shortest.as_ref(), "{value}");
            for form in shortest.into_iter().chain(forms) {
                assert_eq!(read(&form), Ok((value, form.len())));
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(value in 0..=MAX, tail in 0_usize..4) {
            let mut out = Vec::new();
            put(value, &mut out);
            let len = out.len();
            for cut in 0..len {
                let missing = read(&out[..cut]).unwrap_err();
                prop_assert!(missing >= 1 && cut + missing <= len);
            }
            out.resize(len + tail, 0xff);
            prop_assert_eq!(read(&out), Ok((value, len)));
        }
    }
}
