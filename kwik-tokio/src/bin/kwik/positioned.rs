//! Reading and writing files at offsets, many threads at once: what the standard library has per system.

use std::{fs::File, io};

/// Fills `buf` with the bytes from `offset` on.
#[cfg(unix)]
pub(crate) fn read_exact(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

/// Writes all of `buf` from `offset` on.
#[cfg(unix)]
pub(crate) fn write_all(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, buf, offset)
}

/// Fills `buf` with the bytes from `offset` on.
#[cfg(windows)]
pub(crate) fn read_exact(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, buf, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf = buf.get_mut(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

/// Writes all of `buf` from `offset` on.
#[cfg(windows)]
pub(crate) fn write_all(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_write(file, buf, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        buf = buf.get(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}
