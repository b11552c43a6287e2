//! A file under its working name, `NAME.partial`, and the note beside it that says which bytes of it are right.
//!
//! The note, `NAME.partial.kwik`, is a small JSON object. It is written whole under another name, forced to the disk and
//! renamed, and before that what it speaks of is forced to the disk, so that it never promises more than there is,
//! whatever ends the program or the machine. It names the object's version and length: of another object it says
//! nothing. When the file is complete it gets its final name, and the note goes. Both names are this program's: a partial
//! file without a note is begun anew.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use kwik_tokio::ByteRange;
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Cause, Failure},
    protocol::{Ranges, Version},
};

/// Version of the note's format.
const FORMAT: u32 = 1;
/// Bytes of a note that is read: far more than as many ranges as one may have take.
const NOTE_MAX: u64 = 4 * 1024 * 1024;

/// Content of the note beside a partial file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    format: u32,
    /// Address that the object came from, for people.
    from: String,
    pub(super) len: u64,
    #[serde(with = "hex")]
    pub(super) version: Version,
    /// Half-open ranges of bytes that were verified and are on the disk.
    verified: Vec<(u64, u64)>,
}

mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::protocol::Version;

    pub(super) fn serialize<S: Serializer>(version: &Version, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(version)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Version, D::Error> {
        let text = String::deserialize(from)?;
        let hash = blake3::Hash::from_hex(text.as_bytes()).map_err(D::Error::custom)?;
        Ok(Version::new(*hash.as_bytes()))
    }
}

impl Note {
    pub(super) fn new(from: String, len: u64, version: Version, verified: &[ByteRange]) -> Self {
        let verified = verified.iter().map(|range| (range.start(), range.end())).collect();
        Self { format: FORMAT, from, len, version, verified }
    }

    /// Returns the ranges, in rising order. `None` if they make no sense.
    pub(super) fn verified(&self) -> Option<Vec<ByteRange>> {
        let mut end = 0;
        let mut range = |&(start, stop): &(u64, u64)| {
            let range = ByteRange::between(start, stop).filter(|_| start >= end && stop <= self.len)?;
            end = stop;
            Some(range)
        };
        self.verified.iter().map(&mut range).collect()
    }

    /// Returns what of the object the note does not speak of, as a request can ask for it; `None` if that is nothing, or
    /// it makes no sense.
    pub(super) fn missing(&self) -> Option<Ranges> {
        let mut missing = Vec::new();
        let mut at = 0;
        for range in self.verified()? {
            missing.extend(ByteRange::between(at, range.start()));
            at = range.end();
        }
        missing.extend(ByteRange::between(at, self.len));
        let (ranges, _asked) = Ranges::first(&missing);
        (ranges.total() > 0).then_some(ranges)
    }
}

/// The user's permission where the target exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// Nothing.
    Refuse,
    /// It is kept if it is the object, and replaced if not.
    Continue,
    /// It is replaced.
    Replace,
}

/// The names of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) target: PathBuf,
    pub(super) partial: PathBuf,
    pub(super) note: PathBuf,
}

impl Names {
    pub(super) fn new(target: PathBuf) -> Self {
        let with = |suffix: &str| {
            let mut name = OsString::from(&target);
            name.push(suffix);
            PathBuf::from(name)
        };
        Self { partial: with(".partial"), note: with(".partial.kwik"), target }
    }

    /// Looks at what is there before anything is asked of the network: whether the target may be written, and what is to be
    /// resumed.
    pub(super) fn look(&self, existing: Existing) -> Result<Found, Failure> {
        let target = exists_as_file(&self.target)?;
        if target && existing == Existing::Refuse {
            return Err(Failure::new(Cause::Exists, format!("{} exists", self.target.display()))
                .remedy("--force replaces it, --continue keeps it if it is the object"));
        }
        if !exists_as_file(&self.partial)? || existing == Existing::Replace {
            return Ok(Found { target, note: None });
        }
        Ok(Found { target, note: read_note(&self.note)? })
    }

    /// Removes the partial file and its note, if they are there.
    pub(super) fn discard(&self) {
        // A file that cannot be removed is met again, and named, when it is opened.
        fs::remove_file(&self.note).unwrap_or_default();
        fs::remove_file(&self.partial).unwrap_or_default();
    }
}

/// Files found of a target.
#[derive(Debug)]
pub(super) struct Found {
    /// There is a file under the final name.
    pub(super) target: bool,
    /// There is a partial file, and this note of it.
    pub(super) note: Option<Note>,
}

/// Fails if there is something that is no regular file. Links are followed to a target, as for any other program.
fn exists_as_file(path: &Path) -> Result<bool, Failure> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(Failure::new(Cause::Exists, format!("{} is no regular file", path.display()))
            .remedy("name another with -o")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::io(format_args!("cannot look at {}", path.display()), &error)),
    }
}

/// Reads a note. `None` if there is none, or it is none of this program.
fn read_note(path: &Path) -> Result<Option<Note>, Failure> {
    let failed = |error: io::Error| Failure::io(format_args!("cannot read {}", path.display()), &error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, NOTE_MAX), &mut text).map_err(failed)?;
    let note: Option<Note> = serde_json::from_slice(&text).ok();
    Ok(note.filter(|note| note.format == FORMAT && note.verified().is_some()))
}

/// A partial file, open and held against other processes of this program.
#[derive(Debug)]
pub(super) struct Partial {
    names: Names,
    file: File,
    /// A file under the final name may be replaced.
    replace: bool,
}

impl Partial {
    /// Opens or makes the file, empty unless `keep`, and sets `len` bytes of the disk aside for it.
    pub(super) fn open(names: Names, len: u64, keep: bool, replace: bool) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::io(format_args!("cannot write {}", names.partial.display()), &error);
        if let Some(folder) = names.partial.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)
                .map_err(|error| Failure::io(format_args!("cannot make {}", folder.display()), &error))?;
        }
        // A link would have somebody else's file written.
        if fs::symlink_metadata(&names.partial).is_ok_and(|found| found.is_symlink()) {
            fs::remove_file(&names.partial).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&names.partial);
        let file = file.map_err(failed)?;
        hold(&file, &names.partial)?;
        if !keep {
            fs::remove_file(&names.note).unwrap_or_default(); // most likely there is none
            file.set_len(0).map_err(failed)?;
        }
        let reserved = reserve(&file, len).and_then(|()| file.set_len(len));
        if let Err(error) = reserved {
            if !keep {
                names.discard(); // nothing is in it
            }
            return Err(failed(error));
        }
        Ok(Self { names, file, replace })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Forces what was written to the disk, then the note that says so.
    pub(super) fn note(&self, note: &Note) -> io::Result<()> {
        self.file.sync_data()?;
        let mut fresh = OsString::from(&self.names.note);
        fresh.push("~");
        let fresh = PathBuf::from(fresh);
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(note).map_err(io::Error::other)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&fresh, &self.names.note)?;
        sync_folder(&self.names.note)
    }

    /// Gives the complete file its final name. `sync` forces it to the disk first.
    pub(super) fn finish(self, sync: bool) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            Failure::io(format_args!("cannot write {}", self.names.target.display()), &error)
        };
        if sync {
            self.file.sync_all().map_err(failed)?;
        }
        // Behind a link, so that it stays.
        let target = if self.replace { fs::canonicalize(&self.names.target).ok() } else { None };
        rename(&self.names.partial, target.as_deref().unwrap_or(&self.names.target), self.replace)
            .map_err(failed)?;
        match fs::remove_file(&self.names.note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::io(format_args!("cannot remove {}", self.names.note.display()), &error));
            }
            Ok(()) | Err(_) => {}
        }
        if sync { sync_folder(&self.names.target).map_err(failed) } else { Ok(()) }
    }
}

/// Fails if another process has the file.
#[cfg(unix)]
fn hold(file: &File, name: &Path) -> Result<(), Failure> {
    let held = rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    // Other errors are of network file systems that have no locks: then there is no guard.
    if held == Err(rustix::io::Errno::WOULDBLOCK) {
        return Err(busy(name));
    }
    // Whoever had it may have given it its final name between opening it here and now.
    use std::os::unix::fs::MetadataExt as _;
    let place = |found: fs::Metadata| (found.dev(), found.ino());
    match (file.metadata().map(place), fs::metadata(name).map(place)) {
        (Ok(this), Ok(that)) if this == that => Ok(()),
        _ => Err(busy(name)),
    }
}

#[cfg(unix)]
fn busy(name: &Path) -> Failure {
    Failure::new(Cause::Exists, format!("another process writes {}", name.display()))
        .remedy("wait until it has ended")
}

#[cfg(not(unix))]
fn hold(_file: &File, _name: &Path) -> Result<(), Failure> {
    Ok(())
}

/// Sets bytes of the disk aside, so that a full one is met now and not after hours.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &File, len: u64) -> io::Result<()> {
    use rustix::{
        fs::{FallocateFlags, fallocate},
        io::Errno,
    };
    if len == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        // Not every file system can.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reserve(_file: &File, _len: u64) -> io::Result<()> {
    Ok(())
}

/// Renames a file, over another only if `replace`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    use rustix::{
        fs::{CWD, RenameFlags, renameat_with},
        io::Errno,
    };
    if replace {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => rename_unguarded(from, to),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace { fs::rename(from, to) } else { rename_unguarded(from, to) }
}

/// Renames where the system cannot do it and look in one step.
fn rename_unguarded(from: &Path, to: &Path) -> io::Result<()> {
    if to.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// Forces the names in a file's folder to the disk.
#[cfg(unix)]
fn sync_folder(file: &Path) -> io::Result<()> {
    let folder =
        file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    match File::open(folder)?.sync_all() {
        // Some file systems have no such thing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

#[cfg(not(unix))]
fn sync_folder(_file: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Version = Version::new([7; 32]);

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    fn names(folder: &tempfile::TempDir) -> Names {
        Names::new(folder.path().join("a.bin"))
    }

    fn note(verified: &[ByteRange]) -> Note {
        Note::new("kwik://a/a.bin".into(), 100, VERSION, verified)
    }

    fn files(folder: &tempfile::TempDir) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut all: Vec<_> = fs::read_dir(folder.path()).unwrap().map(name).collect();
        all.sort();
        all
    }

    #[test]
    fn a_file_gets_its_name_at_the_end_and_the_note_goes() {
        let folder = tempfile::tempdir().unwrap();
        let partial = Partial::open(names(&folder), 100, false, false).unwrap();
        assert_eq!(files(&folder), ["a.bin.partial"]);
        partial.note(&note(&[range(0, 50)])).unwrap();
        assert_eq!(files(&folder), ["a.bin.partial", "a.bin.partial.kwik"]);
        partial.finish(true).unwrap();
        assert_eq!(files(&folder), ["a.bin"]);
        assert_eq!(fs::metadata(folder.path().join("a.bin")).unwrap().len(), 100);
    }

    #[test]
    fn what_was_noted_is_found_and_the_rest_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let partial = Partial::open(names(&folder), 100, false, false).unwrap();
        partial.note(&note(&[])).unwrap();
        let written = note(&[range(10, 50), range(60, 100)]);
        partial.note(&written).unwrap();
        drop(partial);
        let found = names(&folder).look(Existing::Refuse).unwrap();
        let found = found.note.unwrap();
        assert_eq!(found, written);
        let missing: Vec<_> = found.missing().unwrap().iter().collect();
        assert_eq!(missing, [range(0, 10), range(50, 60)]);
        assert_eq!(note(&[range(0, 100)]).missing(), None);
        let again = Partial::open(names(&folder), 100, true, false).unwrap();
        assert_eq!(again.file().metadata().unwrap().len(), 100);
    }

    #[test]
    fn a_note_that_makes_no_sense_is_none() {
        for text in [
            "",
            "{}",
            "null",
            r#"{"format":2,"from":"","len":9,"version":"0707070707070707070707070707070707070707070707070707070707070707","verified":[]}"#,
            r#"{"format":1,"from":"","len":9,"version":"07","verified":[]}"#,
            r#"{"format":1,"from":"","len":9,"version":"0707070707070707070707070707070707070707070707070707070707070707","verified":[[0,10]]}"#,
            r#"{"format":1,"from":"","len":9,"version":"0707070707070707070707070707070707070707070707070707070707070707","verified":[[4,8],[2,3]]}"#,
            r#"{"format":1,"from":"","len":9,"version":"0707070707070707070707070707070707070707070707070707070707070707","verified":[[5,4]]}"#,
        ] {
            let folder = tempfile::tempdir().unwrap();
            let names = names(&folder);
            fs::write(&names.partial, "x").unwrap();
            fs::write(&names.note, text).unwrap();
            assert!(names.look(Existing::Refuse).unwrap().note.is_none(), "{text}");
        }
    }

    #[test]
    fn an_existing_target_is_refused_unless_the_user_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(&folder);
        fs::write(&names.target, "old").unwrap();
        assert_eq!(names.look(Existing::Refuse).unwrap_err().cause(), Cause::Exists);
        assert!(names.look(Existing::Continue).unwrap().target);
        assert!(names.look(Existing::Replace).unwrap().target);
        Partial::open(names.clone(), 5, false, true).unwrap().finish(false).unwrap();
        assert_eq!(fs::metadata(&names.target).unwrap().len(), 5);
        fs::remove_file(&names.target).unwrap();
        fs::create_dir(&names.target).unwrap();
        assert_eq!(names.look(Existing::Replace).unwrap_err().cause(), Cause::Exists);
    }

    #[cfg(unix)]
    #[test]
    fn a_target_that_appears_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(&folder);
        let partial = Partial::open(names.clone(), 5, false, false).unwrap();
        fs::write(&names.target, "new").unwrap();
        assert_eq!(partial.finish(false).unwrap_err().cause(), Cause::Exists);
        assert_eq!(fs::read(&names.target).unwrap(), b"new");
        assert!(names.partial.exists(), "what was fetched is kept");
    }

    #[cfg(unix)]
    #[test]
    fn two_processes_do_not_write_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Partial::open(names(&folder), 5, false, false).unwrap();
        let second = Partial::open(names(&folder), 5, true, false);
        assert_eq!(second.unwrap_err().cause(), Cause::Exists);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_place_of_the_partial_file_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(&folder);
        let other = folder.path().join("other");
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &names.partial).unwrap();
        Partial::open(names, 5, false, false).unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn a_disk_without_room_is_met_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let failure = Partial::open(names(&folder), 1 << 60, false, false).unwrap_err();
        if cfg!(target_os = "linux") {
            assert_eq!(failure.cause(), Cause::DiskFull, "{failure}");
            assert_eq!(files(&folder), [""; 0]);
        }
    }
}
