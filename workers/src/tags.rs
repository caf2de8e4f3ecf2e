//! Codes by which Forebay recognises what it wrote itself.
//!
//! # Why
//!
//! The server publishes the acknowledgement of a message to whatever reply subject its publisher names, with its own
//! rights, into streams too. A team could so replace a value of Forebay's own state, or stop the schedule of another team's
//! job.
//!
//! # How
//!
//! A code is an HMAC-SHA-256. Its secret is in the `metadata` of the stream whose messages it protects. No message can write
//! that, and no team can read it. A [`TagKey`] makes two kinds of codes:
//!
//! - the tag of a message, in a header, over the parts that make up the message;
//! - the last token of a subject, over the rest of the subject, so that no other program can name the subject.
//!
//! # Invariants
//!
//! - A code covers the length of each part, so no two lists of parts have the same one.
//! - The secret is never printed.

use std::collections::HashMap;

use async_nats::HeaderMap;
use forebay_schemas::header::{COPY_HEADERS, TAG_HEADER};
use forebay_schemas::subjects::{bytes_of_hex, hex};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The key of the secret in a stream's metadata.
const SECRET_KEY: &str = "forebay.tag";
/// The version of a tag, which precedes it in its header.
const TAG_VERSION: &str = "v1";
/// The bytes of a code that are put into a subject. A message to a wrong one of 2^64 subjects does no harm.
const SUBJECT_CODE_BYTES: usize = 8;

/// The secret of a stream's codes. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct TagKey([u8; 32]);

impl std::fmt::Debug for TagKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TagKey")
    }
}

impl TagKey {
    /// Returns a new secret.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Returns the secret of a stream by the stream's metadata; `None` if there is none.
    pub fn of_metadata(metadata: &HashMap<String, String>) -> Option<Self> {
        Self::of_text(metadata.get(SECRET_KEY)?)
    }

    /// Returns the secret that [`TagKey::to_text`] wrote; `None` for another text.
    pub fn of_text(text: &str) -> Option<Self> {
        Some(Self(bytes_of_hex(text)?.try_into().ok()?))
    }

    /// Returns the secret as text, for a place that only Forebay can read.
    pub fn to_text(&self) -> String {
        hex(&self.0)
    }

    /// Returns the entry of a stream's metadata that holds this secret.
    pub fn metadata_entry(&self) -> (String, String) {
        (SECRET_KEY.to_owned(), self.to_text())
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        // HMAC itself pads a short key with zeros to the length of a block.
        let mut key = [0; 64];
        key[..self.0.len()].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&key.into());
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    fn code(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Returns the value of [`TAG_HEADER`] for a message of these parts.
    pub fn tag(&self, parts: &[&[u8]]) -> String {
        format!("{TAG_VERSION} {}", hex(&self.code(parts)))
    }

    /// Returns true if the headers carry the tag of a message of these parts, and do not mark it as a copy of another
    /// message.
    pub fn is_tagged(&self, headers: &HeaderMap, parts: &[&[u8]]) -> bool {
        if COPY_HEADERS.iter().any(|name| headers.get(*name).is_some()) {
            return false;
        }
        let code = headers
            .get(TAG_HEADER)
            .and_then(|tag| tag.as_str().strip_prefix(TAG_VERSION))
            .and_then(|code| bytes_of_hex(code.trim_start()));
        code.is_some_and(|code| self.mac(parts).verify_slice(&code).is_ok())
    }

    /// Returns a subject with its code as one more token.
    pub fn with_code(&self, subject: &str) -> String {
        let code = self.code(&[subject.as_bytes()]);
        format!("{subject}.{}", hex(&code[..SUBJECT_CODE_BYTES]))
    }

    /// Returns true if the last token of a subject is the code of the others.
    pub fn has_code(&self, subject: &str) -> bool {
        let named = subject.rsplit_once('.');
        named.is_some_and(|(named, _)| self.with_code(named) == subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(key: &TagKey, parts: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TAG_HEADER, key.tag(parts));
        headers
    }

    #[test]
    fn a_tag_fits_its_own_parts_alone() {
        let key = TagKey::random();
        let headers = tagged(&key, &[b"subject", b"value"]);
        assert!(key.is_tagged(&headers, &[b"subject", b"value"]));
        assert!(!key.is_tagged(&headers, &[b"subjectv", b"alue"]));
        assert!(!key.is_tagged(&headers, &[b"subject", b"valuf"]));
        assert!(!TagKey::random().is_tagged(&headers, &[b"subject", b"value"]));
        assert!(!key.is_tagged(&HeaderMap::new(), &[b"subject", b"value"]));
    }

    #[test]
    fn a_copy_of_a_tagged_message_is_not_tagged() {
        let key = TagKey::random();
        for name in COPY_HEADERS {
            let mut headers = tagged(&key, &[b"value"]);
            headers.insert(name, "x");
            assert!(!key.is_tagged(&headers, &[b"value"]), "{name}");
        }
    }

    #[test]
    fn a_subject_has_its_code_under_one_secret_alone() {
        let key = TagKey::random();
        let subject = key.with_code("ai.scheduled.a._.1");
        assert!(key.has_code(&subject));
        assert!(!key.has_code("ai.scheduled.a._.1"));
        assert!(!key.has_code("ai"));
        assert!(!TagKey::random().has_code(&subject));
    }

    #[test]
    fn a_secret_is_kept_in_metadata_and_never_printed() {
        let key = TagKey::random();
        let metadata = HashMap::from([key.metadata_entry()]);
        assert_eq!(TagKey::of_metadata(&metadata), Some(key.clone()));
        assert_eq!(format!("{key:?}"), "TagKey");
        assert_eq!(TagKey::of_metadata(&HashMap::new()), None);
    }
}
