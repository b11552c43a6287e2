//! Sizes as people write and read them.

use std::fmt;

/// The largest object: what one QUIC stream can carry (RFC 9000 §4.5).
const MAX: u64 = (1 << 62) - 1;

/// Units, the longest names first so that `MiB` is not taken for `B`.
const UNITS: &[(&str, u64)] = &[
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

/// Parses a number of bytes such as `256MiB`, `10MB` or `4096`; upper and lower case are the same.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(name, bytes)| lower.strip_suffix(name).map(|rest| (rest, *bytes)));
    let (digits, unit) = unit.unwrap_or((&lower, 1));
    let digits = digits.trim_end();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(
            "not a size: write bytes, or a whole number of KiB, MiB, GiB, TiB, kB, MB, GB or TB".into()
        );
    }
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|&bytes| bytes <= MAX).ok_or_else(|| "more than a stream can carry (2^62 - 1 bytes)".into())
}

/// Shows a number of bytes in the binary unit that fits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Human(pub(crate) f64);

impl Human {
    pub(crate) fn bytes(bytes: u64) -> Self {
        Self(bytes as f64)
    }
}

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0;
        let mut unit = "B";
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            // What would be shown as 1024.0 is one of the next unit already.
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        if unit == "B" { write!(f, "{value:.0} B") } else { write!(f, "{value:.1} {unit}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("4096", 4096),
            ("7B", 7),
            ("256MiB", 256 << 20),
            ("1GiB", 1 << 30),
            ("10MB", 10_000_000),
            ("3 kib", 3072),
            (" 2KB ", 2000),
            ("1tb", 1_000_000_000_000),
            ("4611686018427387903", MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", " ", "MiB", "-1", "+1", "1.5GiB", "12 34", "0x10", "1MiBB", "many", "٣", "1 Mi B"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["4611686018427387904", "99999999999999999999", "9999999TiB"] {
            assert!(parse(text).is_err_and(|error| error.contains("more than")), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (256 << 20, "256.0 MiB"), (2 << 30, "2.0 GiB")]
        {
            assert_eq!(Human::bytes(bytes).to_string(), text);
        }
        assert_eq!(Human::bytes((1 << 20) - 1).to_string(), "1.0 MiB");
    }
}
