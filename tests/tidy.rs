//! Budgets and boundaries: what keeps the code base easy to walk through, as tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

const SOURCES: [&str; 3] = ["schemas/src", "workers/src", "src"];
/// Lines of a file before its inline tests.
const LONGEST_FILE: usize = 500;
/// Lines of the spine, where every feature wants to land.
const LONGEST_SPINE: usize = 150;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn sources() -> Vec<(PathBuf, String)> {
    let files = SOURCES.iter().flat_map(|dir| rust_files(&root().join(dir)));
    let sources: Vec<_> = files.map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect();
    assert!(sources.len() > 40, "the sources were found");
    sources
}

fn lines_before_tests(text: &str) -> usize {
    text.lines().position(|line| line == "#[cfg(test)]").unwrap_or_else(|| text.lines().count())
}

#[test]
fn no_file_needs_a_map() {
    let is_tests = |path: &Path| path.file_name().is_some_and(|name| name == "tests.rs");
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| !is_tests(path) && lines_before_tests(text) > LONGEST_FILE)
        .map(|(path, _)| path)
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines: {long:?}");
}

#[test]
fn the_spine_stays_short() {
    let spine = fs::read_to_string(root().join("workers/src/work.rs")).expect("text");
    let lines = lines_before_tests(&spine);
    assert!(lines <= LONGEST_SPINE, "workers/src/work.rs has {lines} lines, at most {LONGEST_SPINE}");
}

#[test]
fn every_module_says_what_it_is_for() {
    let mute: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| !path.ends_with("tests.rs") && !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    assert!(mute.is_empty(), "without a first line of //!: {mute:?}");
}

#[test]
fn no_module_is_named_after_nothing() {
    let nothing = ["util", "utils", "helper", "helpers", "common", "misc", "manager", "mod"];
    let named: Vec<_> = sources()
        .into_iter()
        .filter(|(path, _)| path.file_stem().is_some_and(|stem| nothing.iter().any(|name| stem == *name)))
        .map(|(path, _)| path)
        .collect();
    assert!(named.is_empty(), "{named:?}");
}

#[test]
fn every_file_is_part_of_a_crate() {
    for dir in SOURCES {
        let dir = root().join(dir);
        let mut reached = BTreeSet::new();
        for entry in ["lib.rs", "main.rs"] {
            reach(&dir.join(entry), &dir, &mut reached);
        }
        let stray: Vec<_> = rust_files(&dir).into_iter().filter(|path| !reached.contains(path)).collect();
        assert!(stray.is_empty(), "no `mod` declares {stray:?}");
    }
}

fn reach(file: &Path, dir: &Path, reached: &mut BTreeSet<PathBuf>) {
    let Ok(text) = fs::read_to_string(file) else { return };
    reached.insert(file.to_owned());
    for line in text.lines() {
        let line = ["pub(crate) ", "pub(super) ", "pub "]
            .iter()
            .fold(line, |line, mark| line.trim_start_matches(mark));
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            reach(&dir.join(format!("{name}.rs")), &dir.join(name), reached);
        }
    }
}

#[test]
fn what_crosses_the_wire_does_nothing_asynchronous() {
    let manifest = fs::read_to_string(root().join("schemas/Cargo.toml")).expect("text");
    for forbidden in ["tokio", "futures", "async-nats", "reqwest", "forebay-workers"] {
        assert!(!manifest.contains(forbidden), "schemas depends on {forbidden}");
    }
    let workers = fs::read_to_string(root().join("workers/Cargo.toml")).expect("text");
    for forbidden in ["clap", "axum", "tracing-subscriber", "indicatif"] {
        assert!(!workers.contains(forbidden), "workers depends on {forbidden}");
    }
}

#[test]
fn the_simulated_provider_shares_no_pacing_with_the_workers() {
    let dir = root().join("src");
    for path in rust_files(&dir.join("simulate")).into_iter().chain([dir.join("simulate.rs")]) {
        let text = fs::read_to_string(&path).expect("text");
        assert!(!text.contains("forebay_workers"), "{}", path.display());
    }
}

/// What follows a text in a file of the repository, up to the next character that is no part of a version.
fn version_after(file: &str, text: &str) -> String {
    let found = fs::read_to_string(root().join(file)).expect(file);
    let rest = found.split_once(text).unwrap_or_else(|| panic!("{file} does not say `{text}`")).1;
    rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect()
}

#[test]
fn one_version_of_rust_is_named_everywhere() {
    let needed = version_after("Cargo.toml", "\nrust-version = \"");
    for (file, text) in [("README.md", "Both need Rust ("), ("Dockerfile", "FROM rust:")] {
        assert_eq!(version_after(file, text), needed, "{file} differs from rust-version in Cargo.toml");
    }
}

#[test]
fn every_crate_has_the_licence() {
    let licence = fs::read_to_string(root().join("LICENSE")).expect("LICENSE");
    assert!(licence.contains("Apache License") && licence.contains("Version 2.0, January 2004"));
    for manifest in ["Cargo.toml", "schemas/Cargo.toml", "workers/Cargo.toml", "tests/fuzz/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).expect(manifest);
        let says = text.contains("license = \"Apache-2.0\"") || text.contains("license.workspace = true");
        assert!(says, "{manifest} has no license");
    }
}

#[test]
fn documents_name_files_that_are_there() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root().join(document)).expect(document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(root().join(path).exists(), "{document} links to {path}, which is not there");
        }
    }
}
