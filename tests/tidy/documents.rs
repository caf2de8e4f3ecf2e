//! What is said twice is the same in both places, and what a document names is there.

use std::fs;

use crate::sources::root;

/// What follows a text in a file of the repository, up to the next character that is no part of a version.
fn version_after(file: &str, text: &str) -> String {
    let found = fs::read_to_string(root().join(file)).expect(file);
    let rest = found
        .split_once(text)
        .unwrap_or_else(|| panic!("{file} does not say `{text}`"))
        .1;
    rest.chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect()
}

#[test]
fn one_version_of_rust_is_named_everywhere() {
    let needed = version_after("Cargo.toml", "\nrust-version = \"");
    for (file, text) in [
        ("README.md", "Both need Rust ("),
        ("Dockerfile", "FROM rust:"),
    ] {
        assert_eq!(
            version_after(file, text),
            needed,
            "{file} differs from rust-version in Cargo.toml"
        );
    }
}

#[test]
fn every_crate_has_the_licence() {
    let licence = fs::read_to_string(root().join("LICENSE")).expect("LICENSE");
    assert!(licence.contains("Apache License") && licence.contains("Version 2.0, January 2004"));
    for manifest in [
        "Cargo.toml",
        "providers/Cargo.toml",
        "schemas/Cargo.toml",
        "simulator/Cargo.toml",
        "workers/Cargo.toml",
        "tests/fuzz/Cargo.toml",
    ] {
        let text = fs::read_to_string(root().join(manifest)).expect(manifest);
        let says =
            text.contains("license = \"Apache-2.0\"") || text.contains("license.workspace = true");
        assert!(says, "{manifest} has no license");
    }
}

#[test]
fn documents_name_files_that_are_there() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ] {
        let text = fs::read_to_string(root().join(document)).expect(document);
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(
                root().join(path).exists(),
                "{document} links to {path}, which is not there"
            );
        }
    }
}
