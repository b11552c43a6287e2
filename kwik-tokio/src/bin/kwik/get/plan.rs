//! Decides what is fetched and where to, before anything is.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use super::{
    fetch::Goal,
    partial::{Existing, Found, Names, Note},
    remote::Remote,
};
use crate::{
    failure::{Cause, Failure},
    protocol::{Entry, ObjectPath, PARTS_BYTES, PARTS_MAX, Room},
};

/// Place that objects go to.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// One object, into this file.
    File(PathBuf),
    /// Into this directory, under their own names.
    Directory(PathBuf),
    /// One object, to standard output.
    Pipe,
}

/// Work that is to be done for one object.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) goal: Goal,
    /// There is a file under the final name, which may be the object.
    pub(super) compare: bool,
}

/// Looks at the place of one object.
pub(super) fn one(
    remote: &Remote,
    path: &ObjectPath,
    place: &Place,
    existing: Existing,
) -> Result<Step, Failure> {
    if remote.directory {
        return Err(
            Failure::input(format!("{remote} is a directory")).remedy("--recursive fetches what is in it")
        );
    }
    let target = match place {
        Place::File(file) if file.is_dir() => file.join(path.name()),
        Place::File(file) => file.clone(),
        Place::Directory(directory) => directory.join(path.name()),
        Place::Pipe => return Err(Failure::run("a pipe is no file")),
    };
    if target.file_name().is_none() {
        return Err(Failure::input(format!("{} names no file", target.display())).remedy("name one with -o"));
    }
    step(path.clone(), target, 0, existing)
}

/// Looks at the places of all objects of a directory; nothing lies outside `directory`.
pub(super) fn many(
    remote: &Remote,
    entries: Vec<Entry>,
    directory: &Path,
    existing: Existing,
) -> Result<Vec<Step>, Failure> {
    let mut names = BTreeSet::new();
    let mut steps = Vec::new();
    for Entry { path, len } in entries {
        let target = directory.join(below(remote.path.as_ref(), &path)?);
        inside(directory, &target)?;
        let step = step(path, target, len, existing)?;
        let Names { target, partial, note } = &step.goal.names;
        for name in [target, partial, note] {
            if !names.insert(name.clone()) {
                return Err(Failure::input(format!(
                    "two of the objects would be written to {}",
                    name.display()
                ))
                .remedy("fetch one of them by itself, with -o"));
            }
        }
        steps.push(step);
    }
    Ok(steps)
}

/// The place of an object below the directory that was asked for, whose own name is kept.
fn below(dir: Option<&ObjectPath>, path: &ObjectPath) -> Result<PathBuf, Failure> {
    let all = path.to_relative();
    let relative = match dir.and_then(|dir| dir.to_relative().parent().map(Path::to_owned)) {
        Some(parent) => all.strip_prefix(&parent).map(Path::to_owned).ok(),
        None => Some(all),
    };
    // A name cannot climb, by its type. It is looked at once more, as what it names is written to.
    relative
        .filter(|relative| relative.components().all(|part| matches!(part, Component::Normal(_))))
        .ok_or_else(|| {
            Failure::run(format!("the server lists {path}, which is not below what was asked for"))
        })
}

/// Fails if a link leads out of `directory` on the way to `target`.
fn inside(directory: &Path, target: &Path) -> Result<(), Failure> {
    let Ok(root) = fs::canonicalize(directory) else {
        return Ok(()); // it is made, and has no links in it
    };
    let existing = target.ancestors().skip(1).find_map(|folder| fs::canonicalize(folder).ok());
    if existing.is_none_or(|folder| folder.starts_with(&root)) {
        return Ok(());
    }
    Err(Failure::new(Cause::Refused, format!("{} lies outside of {}", target.display(), directory.display()))
        .remedy("there is a link in the way"))
}

fn step(path: ObjectPath, target: PathBuf, len: u64, existing: Existing) -> Result<Step, Failure> {
    let names = Names::new(target);
    let Found { target, note } = names.look(existing)?;
    let compare = target && existing == Existing::Continue;
    Ok(Step { goal: Goal { path, names, counted: len, replace: target, note }, compare })
}

/// Groups objects by request: many small ones in one, a long one by itself. Mirrors can be told what any group is.
pub(super) fn groups(goals: Vec<Goal>) -> Vec<Vec<Goal>> {
    let mut groups = Vec::new();
    let (mut group, mut bytes, mut room) = (Vec::<Goal>::new(), 0_u64, Room::new());
    for goal in goals {
        let len = goal.counted;
        let ranges = goal.note.as_ref().and_then(Note::missing);
        let fits = group.len() < PARTS_MAX && bytes.saturating_add(len) <= PARTS_BYTES;
        if !(fits && room.take(&goal.path, len, ranges.as_ref())) {
            groups.extend(Some(std::mem::take(&mut group)).filter(|group| !group.is_empty()));
            (bytes, room) = (0, Room::new());
            // If there is not enough for one alone, it is the primary who brings it.
            let _alone = room.take(&goal.path, len, ranges.as_ref());
        }
        bytes = bytes.saturating_add(len);
        group.push(goal);
    }
    groups.extend(Some(group).filter(|group| !group.is_empty()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ObjectPath {
        ObjectPath::parse(text).unwrap()
    }

    fn entry(text: &str, len: u64) -> Entry {
        Entry { path: path(text), len }
    }

    #[expect(clippy::unwrap_in_result, reason = "the test's own words cannot fail to parse")]
    fn plan(url: &str, entries: &[(&str, u64)], folder: &Path) -> Result<Vec<String>, Failure> {
        let entries = entries.iter().map(|(name, len)| entry(name, *len)).collect();
        let steps = many(&url.parse().unwrap(), entries, folder, Existing::Refuse)?;
        let relative =
            |step: Step| step.goal.names.target.strip_prefix(folder).unwrap().display().to_string();
        Ok(steps.into_iter().map(relative).collect())
    }

    #[test]
    fn a_directory_keeps_its_name_and_the_root_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let entries = [("models/llama/a", 1), ("models/llama/b/c", 1)];
        assert_eq!(
            plan("kwik://h/models/llama/", &entries, folder.path()).unwrap(),
            ["llama/a", "llama/b/c"]
        );
        assert_eq!(
            plan("kwik://h/models", &entries, folder.path()).unwrap(),
            ["models/llama/a", "models/llama/b/c"]
        );
        assert_eq!(
            plan("kwik://h/", &entries, folder.path()).unwrap(),
            ["models/llama/a", "models/llama/b/c"]
        );
        assert_eq!(plan("kwik://h/models/llama/a", &entries[..1], folder.path()).unwrap(), ["a"]);
    }

    #[test]
    fn what_is_not_below_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(plan("kwik://h/models/llama/", &[("other/a", 1)], folder.path()).is_err());
    }

    #[test]
    fn names_that_meet_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for other in ["d/a", "d/a.partial", "d/a.partial.kwik"] {
            let entries = [("d/a", 1), (other, 1)];
            assert!(plan("kwik://h/d", &entries, folder.path()).is_err(), "{other}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_does_not_lead_out() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("d/link")).unwrap();
        assert_eq!(
            plan("kwik://h/d", &[("d/link/x", 1)], folder.path()).unwrap_err().cause(),
            Cause::Refused
        );
        assert!(plan("kwik://h/d", &[("d/y/x", 1)], folder.path()).is_ok());
    }

    #[test]
    fn small_objects_share_a_request() {
        let goal = |len| Goal {
            path: path("a"),
            names: Names::new("a".into()),
            counted: len,
            replace: false,
            note: None,
        };
        let sizes = |lens: &[u64]| -> Vec<usize> {
            groups(lens.iter().map(|len| goal(*len)).collect()).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 2 * PARTS_MAX + 6]), [PARTS_MAX, PARTS_MAX, 6]);
        assert_eq!(sizes(&[PARTS_BYTES, 1, 1, u64::MAX, 1]), [1, 2, 1, 1]);
    }
}
