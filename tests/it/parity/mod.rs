//! quinn's public names, each looked for here: what is neither here nor in the table of kwik-core/QUINN.md is a failure.
//! Spec: DESIGN §3, RATIONALE §3.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use source::Sources;

/// Types of quinn-proto that quinn does not make public.
const INNER: [&str; 3] = ["Close", "ReadableError", "UnsupportedVersion"];

/// Names of quinn's that are missing here, by the path that a program writes.
#[derive(Debug, Default)]
struct Walk {
    items: usize,
    items_here: usize,
    members: usize,
    members_here: usize,
    missing: BTreeMap<String, String>,
    all: BTreeSet<String>,
}

/// Returns where cargo keeps the source of the locked version of a package.
fn locked(name: &str) -> PathBuf {
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).unwrap();
    let (version, _) = rest.split_once('"').unwrap();
    let home =
        env::var_os("CARGO_HOME").map_or_else(|| env::home_dir().unwrap().join(".cargo"), PathBuf::from);
    let registries = fs::read_dir(home.join("registry/src")).unwrap();
    let mut places =
        registries.map(|registry| registry.unwrap().path().join(format!("{name}-{version}/src")));
    places.find(|place| place.exists()).expect("cargo has unpacked what this test was built with")
}

fn walk() -> Walk {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = Sources::default();
    sources.read("quinn_proto", &locked("quinn-proto"), &["proto"]);
    sources.read("quinn", &locked("quinn"), &[]);
    sources.read("kwik_core", &workspace.join("kwik-core/src"), &[]);
    sources.read("kwik_tokio", &workspace.join("kwik-tokio/src"), &[]);
    let (theirs, ours) = (sources.public("quinn"), sources.public("kwik_tokio"));
    let mut walk = Walk::default();
    for (name, place) in &theirs {
        let mut def = sources.def(place).clone();
        def.members.retain(|member, _| !INNER.iter().any(|inner| member == &format!("impl From<{inner}>")));
        walk.all.insert(name.clone());
        walk.all.extend(def.members.keys().map(|member| format!("{name}::{member}")));
        walk.items += 1;
        walk.members += def.members.len();
        let Some(own) = ours.get(name) else {
            walk.missing.insert(name.clone(), "is not here".to_owned());
            for (member, shape) in &def.members {
                walk.missing.insert(format!("{name}::{member}"), shape.clone());
            }
            continue;
        };
        walk.items_here += 1;
        if own == place {
            walk.members_here += def.members.len();
            continue;
        }
        let own = &sources.def(own).members;
        for (member, shape) in &def.members {
            match own.get(member) {
                Some(same) if same == shape => walk.members_here += 1,
                Some(other) => {
                    walk.missing.insert(format!("{name}::{member}"), format!("{shape} there, {other} here"));
                }
                None => {
                    walk.missing.insert(format!("{name}::{member}"), shape.clone());
                }
            }
        }
    }
    walk
}

/// Names in the table's first column.
fn deliberate() -> BTreeSet<String> {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../kwik-core/QUINN.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<_> = rows.map(|row| row.split(" | ").next().unwrap()).collect();
    assert!(rows.len() <= 15, "{} rows", rows.len());
    rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn whatever_quinn_has_is_here_or_in_the_table() {
    let Walk { items, items_here, members, members_here, missing, all } = walk();
    println!("{items_here} of {items} items and {members_here} of {members} members are as in quinn");
    let deliberate = deliberate();
    // A row for a type stands for its members.
    let is_told = |name: &str| {
        let of = name.rsplit_once("::").map_or(name, |(of, _)| of);
        deliberate.contains(name) || (missing.contains_key(of) && deliberate.contains(of))
    };
    let untold: Vec<_> = missing.iter().filter(|(name, _)| !is_told(name)).collect();
    assert!(untold.is_empty(), "neither here nor in QUINN.md: {untold:#?}");
    let stale: Vec<_> = deliberate.iter().filter(|name| !all.contains(*name)).collect();
    assert!(stale.is_empty(), "in QUINN.md, but not in quinn: {stale:#?}");
    assert!(items > 90 && members > 350, "the walk has lost its way: {items} items, {members} members");
}
