//! The sources of the crates, read and parsed: what the other tests look at.

use std::path::{Path, PathBuf};
use std::{env, fs};

use syn::Item;

/// Folders of sources, one for each crate.
pub(crate) const CRATES: [&str; 5] = [
    "schemas/src",
    "providers/src",
    "simulator/src",
    "workers/src",
    "src",
];

/// A file of a crate, without its tests.
pub(crate) struct Source {
    /// From the root of the repository.
    pub(crate) path: PathBuf,
    /// One of [`CRATES`].
    pub(crate) crate_dir: &'static str,
    /// The whole text, tests and all.
    pub(crate) text: String,
}

impl Source {
    /// The text up to the inline tests, which are a block; tests in a file of their own are a line.
    pub(crate) fn before_tests(&self) -> &str {
        let is_block = |at: &usize| {
            self.text[*at..]
                .find(['{', ';'])
                .is_some_and(|end| self.text[at + end..].starts_with('{'))
        };
        let tests = self
            .text
            .match_indices("\n#[cfg(test)]")
            .map(|(at, _)| at)
            .find(is_block);
        &self.text[..tests.map_or(self.text.len(), |at| at + 1)]
    }

    /// What is declared before the inline tests.
    pub(crate) fn items(&self) -> Vec<Item> {
        let path = self.path.display();
        syn::parse_file(self.before_tests())
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .items
    }

    /// The names of the modules from the crate's root to this file.
    pub(crate) fn module(&self) -> Vec<String> {
        let inside = self
            .path
            .strip_prefix(self.crate_dir)
            .expect("in its crate")
            .with_extension("");
        let names: Vec<_> = inside
            .iter()
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        if names == ["lib"] { Vec::new() } else { names }
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn rust_files(dir: &Path) -> Vec<PathBuf> {
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

/// All files of the crates that are no tests.
pub(crate) fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for crate_dir in CRATES {
        for file in rust_files(&root().join(crate_dir)) {
            if file.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("text");
            let path = file
                .strip_prefix(root())
                .expect("in the repository")
                .to_owned();
            sources.push(Source {
                path,
                crate_dir,
                text,
            });
        }
    }
    assert!(sources.len() > 40, "the sources were found");
    sources
}
