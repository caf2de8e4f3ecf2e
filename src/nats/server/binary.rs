//! Search for a nats-server that is new enough.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest version that has message schedules and passes the tests.
pub(crate) const OLDEST: (u32, u32, u32) = (2, 12, 0);

/// Returns the first server that is new enough. PATH is searched first, then `.tools/` in the
/// working directory and in each directory above the program.
pub(crate) fn find() -> Result<PathBuf, String> {
    choose(candidates())
}

fn choose(candidates: Vec<PathBuf>) -> Result<PathBuf, String> {
    let mut too_old = Vec::new();
    for candidate in candidates {
        if !candidate.is_file() {
            continue;
        }
        match version(&candidate) {
            Some(version) if version >= OLDEST => return Ok(candidate),
            Some((major, minor, patch)) => {
                too_old.push(format!(
                    "{} is version {major}.{minor}.{patch}",
                    candidate.display()
                ));
            }
            None => too_old.push(format!("{} does not tell its version", candidate.display())),
        }
    }
    let (major, minor, patch) = OLDEST;
    let oldest = format!("{major}.{minor}.{patch}");
    let found = match too_old.as_slice() {
        [] => "no nats-server was found on PATH or in .tools/".to_owned(),
        found => format!("no nats-server is new enough: {}", found.join("; ")),
    };
    Err(format!(
        "{found}; version {oldest} or later is needed. Get one with scripts/nats-server.sh, \
         `brew install nats-server` or from https://github.com/nats-io/nats-server/releases (Debian's is too \
         old), or set [nats] url to a server that runs already"
    ))
}

fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.push(PathBuf::from(".tools"));
    if let Ok(program) = std::env::current_exe() {
        let parents = program.ancestors().skip(1);
        dirs.extend(parents.map(|dir| dir.join(".tools")));
    }
    let absolute = |dir: PathBuf| std::path::absolute(dir.join("nats-server")).ok();
    dirs.into_iter().filter_map(absolute).collect()
}

fn version(binary: &Path) -> Option<(u32, u32, u32)> {
    let output = Command::new(binary).arg("-v").output().ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Parses `nats-server: v2.15.1`. A pre-release counts as its release.
fn parse(text: &str) -> Option<(u32, u32, u32)> {
    let (_, version) = text.trim().rsplit_once(": v")?;
    let mut parts = version.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        assert_eq!(parse("nats-server: v2.15.1\n"), Some((2, 15, 1)));
        assert_eq!(parse("nats-server: v2.9.10"), Some((2, 9, 10)));
        assert_eq!(parse("nats-server: v2.16.0-dev"), Some((2, 16, 0)));
        assert_eq!(parse("something else"), None);
        assert!(parse("nats-server: v2.9.10").expect("a version") < OLDEST);
    }
    #[test]
    fn a_server_that_is_too_old_is_named_and_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let fake = |name: &str, version: &str| {
            let path = dir.path().join(name);
            std::fs::write(
                &path,
                format!("#!/bin/sh\necho 'nats-server: v{version}'\n"),
            )
            .expect("written");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .expect("executable");
            path
        };
        let (old, new) = (fake("old", "2.9.10"), fake("new", "2.15.1"));
        assert_eq!(choose(vec![old.clone(), new.clone()]), Ok(new));
        let error = choose(vec![old]).expect_err("too old");
        assert!(
            error.contains("old is version 2.9.10") && error.contains("2.12.0 or later"),
            "{error}"
        );
        assert!(
            choose(vec![dir.path().join("none")])
                .expect_err("none")
                .contains("no nats-server was found")
        );
    }
}
