//! A digest that the user names.

use std::{fs::File, io, str::FromStr};

use ring::digest;

use crate::{
    failure::{Cause, Failure},
    positioned,
    protocol::{ObjectPath, Version},
};

/// The digest that an object must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    Blake3(blake3::Hash),
    Sha256([u8; 32]),
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "write blake3=HEX or sha256=HEX, with 64 hexadecimal digits".to_owned();
        let (kind, hex) = text.split_once('=').ok_or_else(bad)?;
        let hash = blake3::Hash::from_hex(hex.to_ascii_lowercase()).map_err(|_bad| bad())?;
        match kind.to_ascii_lowercase().as_str() {
            "blake3" => Ok(Self::Blake3(hash)),
            "sha256" => Ok(Self::Sha256(*hash.as_bytes())),
            _ => Err(bad()),
        }
    }
}

impl Checksum {
    /// Compares with what the primary says the object is: before anything is fetched.
    pub(super) fn check_version(&self, path: &ObjectPath, version: Version) -> Result<(), Failure> {
        match self {
            Self::Blake3(hash) if hash.as_bytes() != version.as_bytes() => Err(differs(path, &version, hash)),
            Self::Blake3(_) | Self::Sha256(_) => Ok(()),
        }
    }

    /// Compares with the bytes of a complete file; its BLAKE3 hash is known by its leaves.
    pub(super) fn check_file(&self, path: &ObjectPath, file: &File, len: u64) -> Result<(), Failure> {
        if let Self::Blake3(_) = self {
            return Ok(());
        }
        let mut running = Running::new();
        let mut piece = vec![0; 1024 * 1024];
        let mut at = 0;
        while at < len {
            let part = piece.len().min(usize::try_from(len - at).unwrap_or(usize::MAX));
            let part = piece.get_mut(..part).unwrap_or_default();
            let failed = |error: io::Error| Failure::io(format_args!("cannot read {path} back"), &error);
            positioned::read_exact(file, part, at).map_err(failed)?;
            running.update(part);
            at += part.len() as u64;
        }
        self.check_running(path, running)
    }

    /// Compares with bytes that were hashed as they came.
    pub(super) fn check_running(&self, path: &ObjectPath, running: Running) -> Result<(), Failure> {
        let Self::Sha256(wanted) = self else {
            return Ok(());
        };
        let is = running.0.finish();
        if is.as_ref() == wanted {
            return Ok(());
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Err(differs(path, &hex(is.as_ref()), &hex(wanted)))
    }
}

/// A SHA-256 of bytes in order.
pub(super) struct Running(digest::Context);

impl Running {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

fn differs(path: &ObjectPath, is: &dyn std::fmt::Display, wanted: &dyn std::fmt::Display) -> Failure {
    Failure::new(Cause::Digest, format!("{path} has the digest {is}, and --checksum says {wanted}"))
        .remedy("it is another object, or the checksum is of another")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read() {
        let hex = "AB".repeat(32);
        assert_eq!(format!("sha256={hex}").parse(), Ok(Checksum::Sha256([0xab; 32])));
        assert_eq!(
            format!("BLAKE3={hex}").parse(),
            Ok(Checksum::Blake3(blake3::Hash::from_bytes([0xab; 32])))
        );
        for text in ["", "sha256", "sha256=", "sha256=ab", "md5=00", &format!("sha1={hex}")] {
            assert!(text.parse::<Checksum>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_is_compared() {
        let path = ObjectPath::parse("a").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"abc").unwrap();
        let right = "sha256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let right: Checksum = right.parse().unwrap();
        assert_eq!(right.check_file(&path, &file, 3), Ok(()));
        let wrong = right.check_file(&path, &file, 2).unwrap_err();
        assert_eq!(wrong.cause(), Cause::Digest);
        let version = Version::new([1; 32]);
        assert_eq!(right.check_version(&path, version), Ok(()));
        let other = Checksum::Blake3(blake3::Hash::from_bytes([2; 32]));
        assert_eq!(other.check_version(&path, version).unwrap_err().cause(), Cause::Digest);
    }
}
