//! The secrets of the streams whose messages carry tags.
//!
//! # Why
//!
//! A server that has lost the settings of a stream, but not its messages, makes the stream again on request. With a new
//! secret, all that Forebay wrote into it before would be foreign: limits would count as spent, keys would stay disabled,
//! and scheduled jobs would be called by no account.
//!
//! # How
//!
//! The secret is in the metadata of the stream. This process remembers each secret that it has seen there, and keeps it in
//! its data directory. A stream that is made again gets the same one.
//!
//! # Invariants
//!
//! - The secret of an existing stream counts, whatever is remembered.
//! - Only the owner can read the file, and nothing prints what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_workers::tags::TagKey;
use parking_lot::Mutex;
use tracing::warn;

use crate::nats::server::write_private;

/// The file in the data directory.
const FILE: &str = "secrets.json";

/// The secrets of streams, by the stream's name. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct StreamSecrets(Arc<Mutex<RememberedSecrets>>);

#[derive(Debug, Default)]
struct RememberedSecrets {
    by_stream: BTreeMap<String, TagKey>,
    /// The file in which they are kept; `None` if they are forgotten with the process.
    file: Option<PathBuf>,
}

impl StreamSecrets {
    /// Reads the secrets that a data directory keeps, and keeps them there from now on.
    pub fn keep_in(&self, data_dir: &Path) {
        let path = data_dir.join(FILE);
        let mut secrets = self.0.lock();
        match read(&path) {
            Ok(kept) => secrets.by_stream.extend(kept),
            Err(error) => {
                warn!(path = %path.display(), %error, "the secrets of streams cannot be read");
            }
        }
        secrets.file = Some(path);
    }

    /// Returns the secret with which a stream is made.
    pub(crate) fn of_new_stream(&self, stream: &str) -> TagKey {
        let known = self.0.lock().by_stream.get(stream).cloned();
        known.unwrap_or_else(TagKey::random)
    }

    /// Returns the entry of the metadata with which a stream is made.
    pub(crate) fn metadata_entry(&self, stream: &str) -> (String, String) {
        self.of_new_stream(stream).metadata_entry()
    }

    /// Remembers the secret of a stream that exists.
    pub(crate) fn remember(&self, stream: &str, secret: &TagKey) {
        let mut secrets = self.0.lock();
        if secrets.by_stream.get(stream) == Some(secret) {
            return;
        }
        secrets.by_stream.insert(stream.to_owned(), secret.clone());
        secrets.write();
    }
}

impl RememberedSecrets {
    fn write(&self) {
        let Some(path) = &self.file else { return };
        let texts: BTreeMap<_, _> = self
            .by_stream
            .iter()
            .map(|(stream, secret)| (stream, secret.to_text()))
            .collect();
        let written = serde_json::to_string(&texts)
            .map_err(io::Error::other)
            .and_then(|text| write_private(path, &text));
        if let Err(error) = written {
            warn!(path = %path.display(), %error, "the secrets of streams cannot be kept");
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<String, TagKey>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let texts: BTreeMap<String, String> = serde_json::from_slice(&text)?;
    let secret = |(stream, text): (String, String)| Some((stream, TagKey::of_text(&text)?));
    Ok(texts.into_iter().filter_map(secret).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_made_again_gets_its_secret_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let secrets = StreamSecrets::default();
        secrets.keep_in(dir.path());
        let secret = TagKey::random();
        secrets.remember("AI_JOBS", &secret);
        let later = StreamSecrets::default();
        assert_ne!(later.of_new_stream("AI_JOBS"), secret);
        later.keep_in(dir.path());
        assert_eq!(later.of_new_stream("AI_JOBS"), secret);
        assert_ne!(later.of_new_stream("AI_DEAD"), secret);
        fs::write(dir.path().join(FILE), "{").expect("written");
        let damaged = StreamSecrets::default();
        damaged.keep_in(dir.path());
        damaged.remember("AI_JOBS", &secret);
        let rewritten = StreamSecrets::default();
        rewritten.keep_in(dir.path());
        assert_eq!(rewritten.of_new_stream("AI_JOBS"), secret);
    }
}
