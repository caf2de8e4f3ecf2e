//! Where things are: what each module, crate and room may hold.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::sources::{CRATES, Source, root, rust_files, sources};

fn paths_where(is_wrong: impl Fn(&Source) -> bool) -> Vec<PathBuf> {
    sources()
        .into_iter()
        .filter(is_wrong)
        .map(|source| source.path)
        .collect()
}

#[test]
fn every_module_says_what_it_is_for() {
    let mute: Vec<_> = paths_where(|source| !source.text.starts_with("//! "));
    assert!(mute.is_empty(), "without a first line of //!: {mute:?}");
}

#[test]
fn no_module_is_named_after_nothing() {
    let nothing = [
        "util", "utils", "helper", "helpers", "common", "misc", "manager", "mod",
    ];
    let named = paths_where(|source| {
        let stem = source.path.file_stem();
        stem.is_some_and(|stem| nothing.iter().any(|name| stem == *name))
    });
    assert!(named.is_empty(), "{named:?}");
}

#[test]
fn every_file_is_part_of_a_crate() {
    for dir in CRATES {
        let dir = root().join(dir);
        let mut reached = BTreeSet::new();
        for entry in ["lib.rs", "main.rs"] {
            reach(&dir.join(entry), &dir, &mut reached);
        }
        let stray: Vec<_> = rust_files(&dir)
            .into_iter()
            .filter(|path| !reached.contains(path))
            .collect();
        assert!(stray.is_empty(), "no `mod` declares {stray:?}");
    }
}

fn reach(file: &Path, dir: &Path, reached: &mut BTreeSet<PathBuf>) {
    let Ok(text) = fs::read_to_string(file) else {
        return;
    };
    reached.insert(file.to_owned());
    for line in text.lines() {
        let line = ["pub(crate) ", "pub(super) ", "pub "]
            .iter()
            .fold(line, |line, mark| line.trim_start_matches(mark));
        if let Some(name) = line
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        {
            reach(&dir.join(format!("{name}.rs")), &dir.join(name), reached);
        }
    }
}

/// Of each crate what it may not depend on.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    (
        "providers",
        &[
            "tokio",
            "futures",
            "async-nats",
            "reqwest",
            "tracing",
            "sled",
            "forebay-workers",
        ],
    ),
    (
        "schemas",
        &[
            "tokio",
            "futures",
            "async-nats",
            "reqwest",
            "forebay-workers",
        ],
    ),
    (
        "simulator",
        &[
            "async-nats",
            "reqwest",
            "governor",
            "sled",
            "forebay-workers",
        ],
    ),
    (
        "workers",
        &[
            "clap",
            "axum",
            "tracing-subscriber",
            "indicatif",
            "forebay-simulator",
        ],
    ),
];

#[test]
fn a_crate_depends_on_nothing_that_is_anothers() {
    for (name, forbidden) in FORBIDDEN {
        let manifest = root().join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).expect("text");
        for forbidden in forbidden {
            let is_named = manifest.lines().any(|line| line.starts_with(forbidden));
            assert!(!is_named, "{name} depends on {forbidden}");
        }
    }
}
