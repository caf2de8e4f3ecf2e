//! Fixtures on disk, and comparing with them.

use std::path::{Path, PathBuf};
use std::{env, fs};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A file beside these tests.
pub(crate) fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/providers")
        .join(name)
}

/// The names of the files in a directory beside these tests that end so, without the ending.
pub(crate) fn stems(dir: &str, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(here(dir)).expect("a directory").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut stems: Vec<_> = names
        .filter_map(|name| Some(name.strip_suffix(ending)?.to_owned()))
        .collect();
    stems.sort();
    stems
}

pub(crate) fn json<T: DeserializeOwned>(name: &str) -> T {
    let text = fs::read_to_string(here(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn jsonl<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let text = fs::read_to_string(here(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let read = |(at, line)| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}:{}: {error}", at + 1))
    };
    text.lines().enumerate().map(read).collect()
}

/// Whether `lines` are what the file says; with `UPDATE_GOLDEN` set they are written instead.
pub(crate) fn agree_lines(name: &str, lines: &[Value]) -> Result<(), String> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    agree(&here(name), &text)
}

/// The same of a whole text.
pub(crate) fn agree(path: &Path, text: &str) -> Result<(), String> {
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("in a directory")).expect("a directory");
        fs::write(path, text).expect("written");
        return Ok(());
    }
    let expected =
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if expected == text {
        return Ok(());
    }
    let differs = |(_, (is, was)): &(usize, (&str, &str))| is != was;
    let first = text.lines().zip(expected.lines()).enumerate().find(differs);
    let (line, (is, was)) = first.unwrap_or((
        text.lines().count(),
        ("(as many lines)", "(more or fewer lines)"),
    ));
    Err(format!(
        "{}:{}:\n  is  {is}\n  was {was}",
        path.display(),
        line + 1
    ))
}

/// Ends a test that found something wrong, with all that it found.
pub(crate) fn none_of(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
