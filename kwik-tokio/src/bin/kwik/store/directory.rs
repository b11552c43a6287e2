//! A directory as a store: regular files below a root, whatever links there are.

use std::{fs::File, io, path::Path, sync::Arc, time::UNIX_EPOCH};

use bytes::Bytes;
use cap_std::{
    ambient_authority,
    fs::{Dir, Metadata, OpenOptions},
};
use kwik_tokio::{ErrorCode, ReadAt};

use super::{Changed, Object, Stamp, Store, StoreError, read_code};
use crate::{
    failure::Failure,
    protocol::{Entry, ObjectPath},
};

/// Directories below one another that are listed.
const DEPTH_MAX: usize = 64;

/// Files below a root. Names are looked up one component after the other from the open root, so that no link leads out
/// of it.
#[derive(Debug)]
pub(crate) struct Directory {
    root: Dir,
}

impl Directory {
    /// Opens the root.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        let root = Dir::open_ambient_dir(root, ambient_authority()).map_err(|error| {
            Failure::input(format!("cannot open the directory {}: {error}", root.display()))
        })?;
        Ok(Self { root })
    }

    fn walk(
        &self,
        dir: Option<&ObjectPath>,
        depth: usize,
        recursive: bool,
        left_out: &mut u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, StoreError> {
        let opened = match dir {
            Some(dir) => self.root.read_dir(dir.to_relative()),
            None => self.root.entries(),
        };
        let mut names = Vec::new();
        for entry in opened.map_err(refused)? {
            let entry = entry.map_err(StoreError::Unreadable)?;
            match entry.file_name().to_str().and_then(|name| ObjectPath::join(dir, name).ok()) {
                Some(path) => names.push(path),
                None => *left_out += 1,
            }
        }
        names.sort_unstable();
        for path in names {
            // By the name, not the entry: links within the root are followed, and others refused.
            match self.root.metadata(path.to_relative()) {
                Ok(metadata) if metadata.is_file() => {
                    if !each(Entry { path, len: metadata.len() }) {
                        return Ok(false);
                    }
                }
                Ok(metadata) if metadata.is_dir() => {
                    if !recursive {
                        continue;
                    }
                    // A link to a directory above is one without end.
                    let linked =
                        self.root.symlink_metadata(path.to_relative()).is_ok_and(|of| of.is_symlink());
                    if linked || depth >= DEPTH_MAX {
                        *left_out += 1;
                    } else if !self.walk(Some(&path), depth + 1, true, left_out, each)? {
                        return Ok(false);
                    }
                }
                Ok(_) | Err(_) => *left_out += 1,
            }
        }
        Ok(true)
    }
}

impl Store for Directory {
    fn open(&self, path: &ObjectPath) -> Result<Arc<dyn Object>, StoreError> {
        let mut options = OpenOptions::new();
        options.read(true);
        // A pipe that nobody writes to would be waited for.
        #[cfg(unix)]
        cap_std::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
        let file = self.root.open_with(path.to_relative(), &options).map_err(refused)?;
        let metadata = file.metadata().map_err(StoreError::Unreadable)?;
        if metadata.is_dir() {
            return Err(StoreError::IsDirectory);
        }
        if !metadata.is_file() {
            return Err(StoreError::NotRegular);
        }
        let stamp = stamp(&metadata);
        Ok(Arc::new(OpenFile { file: file.into_std(), len: metadata.len(), stamp }))
    }

    fn list(
        &self,
        dir: Option<&ObjectPath>,
        recursive: bool,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<u64, StoreError> {
        if let Some(path) = dir {
            let metadata = self.root.metadata(path.to_relative()).map_err(refused)?;
            if metadata.is_file() {
                each(Entry { path: path.clone(), len: metadata.len() });
                return Ok(0);
            }
            if !metadata.is_dir() {
                return Err(StoreError::NotRegular);
            }
        }
        let mut left_out = 0;
        self.walk(dir, 0, recursive, &mut left_out, each)?;
        Ok(left_out)
    }
}

/// Says why the system did not open something.
fn refused(error: io::Error) -> StoreError {
    #[cfg(unix)]
    match error.raw_os_error() {
        // A socket cannot be opened at all.
        Some(libc::ENXIO) => return StoreError::NotRegular,
        Some(libc::ELOOP) => return StoreError::Forbidden,
        Some(libc::ENAMETOOLONG) => return StoreError::NotFound,
        _ => {}
    }
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return StoreError::NotFound;
    }
    // A name that leads out of the root is refused like one that may not be read.
    if kind == io::ErrorKind::PermissionDenied {
        StoreError::Forbidden
    } else {
        StoreError::Unreadable(error)
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    let modified = metadata.modified().ok().and_then(|at| at.into_std().duration_since(UNIX_EPOCH).ok());
    #[cfg(unix)]
    let file = {
        use cap_std::fs::MetadataExt as _;
        (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    #[cfg(not(unix))]
    let file = ();
    Stamp::new(format!("{} {modified:?} {file:?}", metadata.len()))
}

/// A file that is open.
#[derive(Debug)]
struct OpenFile {
    file: File,
    len: u64,
    stamp: Stamp,
}

impl ReadAt for OpenFile {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let bytes = self.file.read_at(offset, len)?;
        // After reading: what was read before the file changed is what it was.
        let now = stamp(&Metadata::from_file(&self.file)?);
        if now == self.stamp { Ok(bytes) } else { Err(io::Error::other(Changed)) }
    }

    fn reset_code(&self, error: &io::Error) -> Option<ErrorCode> {
        Some(read_code(error))
    }
}

impl Object for OpenFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn stamp(&self) -> Stamp {
        self.stamp.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::is_change;

    fn path(text: &str) -> ObjectPath {
        ObjectPath::parse(text).unwrap()
    }

    fn names(store: &Directory, dir: Option<&str>, recursive: bool) -> (Vec<String>, u64) {
        let mut names = Vec::new();
        let left_out = store.list(dir.map(path).as_ref(), recursive, &mut |entry| {
            names.push(format!("{} {}", entry.path, entry.len));
            true
        });
        (names, left_out.unwrap())
    }

    #[test]
    fn files_are_read_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for (name, bytes) in [("x", "12345"), ("a/y", "1"), ("a/b/z", "")] {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let store = Directory::open(dir.path()).unwrap();
        let object = store.open(&path("x")).unwrap();
        assert_eq!((object.len(), &*object.read_at(1, 3).unwrap()), (5, &b"234"[..]));
        assert_eq!(names(&store, None, true).0, ["a/b/z 0", "a/y 1", "x 5"]);
        assert_eq!(names(&store, None, false).0, ["x 5"]);
        assert_eq!(names(&store, Some("a"), true).0, ["a/b/z 0", "a/y 1"]);
        assert_eq!(names(&store, Some("a/y"), false).0, ["a/y 1"]);
        assert!(matches!(store.open(&path("a")), Err(StoreError::IsDirectory)));
        for none in ["b", "x/y", "a/b/c/d"] {
            assert!(matches!(store.open(&path(none)), Err(StoreError::NotFound)), "{none}");
        }
        assert!(matches!(store.list(Some(&path("b")), true, &mut |_| true), Err(StoreError::NotFound)));
        let mut seen = 0;
        store
            .list(None, true, &mut |_| {
                seen += 1;
                false
            })
            .unwrap();
        assert_eq!(seen, 1);
    }

    #[cfg(unix)]
    #[test]
    fn no_byte_outside_of_the_root_is_read() {
        use std::os::unix::fs::symlink;

        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/inside"), "inside").unwrap();
        symlink(outside.path().join("secret"), dir.path().join("absolute")).unwrap();
        symlink("/etc/passwd", dir.path().join("passwd")).unwrap();
        symlink(outside.path(), dir.path().join("way-out")).unwrap();
        symlink("../../..", dir.path().join("sub/up")).unwrap();
        symlink("sub/inside", dir.path().join("link")).unwrap();
        symlink("..", dir.path().join("sub/loop")).unwrap();
        symlink("self", dir.path().join("self")).unwrap();
        let store = Directory::open(dir.path()).unwrap();
        for name in ["absolute", "passwd", "way-out/secret", "sub/up/etc/passwd", "self"] {
            let error = store.open(&path(name)).err();
            assert!(matches!(error, Some(StoreError::Forbidden | StoreError::NotFound)), "{name}: {error:?}");
        }
        assert_eq!(&*store.open(&path("link")).unwrap().read_at(0, 6).unwrap(), b"inside");
        let (names, left_out) = names(&store, None, true);
        assert_eq!(names, ["link 6", "sub/inside 6"]);
        assert!(left_out >= 4, "{left_out}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status();
        assert!(pipe.unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let store = Directory::open(dir.path()).unwrap();
        for name in ["pipe", "socket"] {
            assert!(matches!(store.open(&path(name)), Err(StoreError::NotRegular)), "{name}");
        }
        assert_eq!(names(&store, None, true), (vec![], 2));
    }

    #[test]
    fn a_file_that_changes_is_not_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("x");
        fs::write(&name, vec![1; 1000]).unwrap();
        let store = Directory::open(dir.path()).unwrap();

        let object = store.open(&path("x")).unwrap();
        fs::OpenOptions::new().write(true).open(&name).unwrap().set_len(500).unwrap();
        for offset in [0, 700] {
            let error = object.read_at(offset, 100).unwrap_err();
            assert!(is_change(&error), "{error}");
        }

        let object = store.open(&path("x")).unwrap();
        object.read_at(0, 10).unwrap();
        // Of the same length, and perhaps within one tick of the file system's clock.
        let again = fs::OpenOptions::new().write(true).open(&name).unwrap();
        again.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(is_change(&object.read_at(0, 10).unwrap_err()));

        // Another file in its place: the one that is open stays as it is, as far as the system can tell.
        let object = store.open(&path("x")).unwrap();
        fs::write(dir.path().join("new"), vec![2; 500]).unwrap();
        fs::rename(dir.path().join("new"), &name).unwrap();
        match object.read_at(0, 3) {
            Ok(bytes) => assert_eq!(&*bytes, &[1; 3]),
            Err(error) => assert!(is_change(&error)),
        }
        assert_ne!(store.open(&path("x")).unwrap().stamp(), object.stamp());
    }
}
