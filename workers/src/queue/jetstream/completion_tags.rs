//! Which messages on the subjects of completions Forebay wrote.
//!
//! # Why
//!
//! The server publishes the acknowledgement of a message to whatever reply subject its publisher names. One that is aimed at the
//! subject of a completion becomes its newest message. It would hide the completion, and the job would be called again.
//!
//! # How
//!
//! A completion carries a tag over its subject, its payload and the headers that are read. A reader skips every other message,
//! and a worker deletes it.
//!
//! Completions of earlier versions have no tag. The first start that finds their stream notes the stream's last sequence in its
//! metadata, beside the new secret. Up to that sequence, a message without a tag counts if it has the header
//! `Forebay-Fingerprint`, as every completion since 0.1 has. Acknowledgements have no headers at all.

use std::collections::HashMap;

use async_nats::HeaderMap;
use forebay_schemas::header::{
    COPY_HEADERS, FINGERPRINT_HEADER, MESSAGE_HEADER, OBJECT_HEADER, TAG_HEADER,
};

use crate::tags::TagKey;

/// The key in the metadata of the stream of completions whose value is the last sequence without tags.
pub const UNTAGGED_UNTIL: &str = "forebay.untagged_until";

/// The headers of a completion that its tag covers.
const COVERED_HEADERS: [&str; 3] = [FINGERPRINT_HEADER, MESSAGE_HEADER, OBJECT_HEADER];

/// The knowledge about a stream of completions that distinguishes those of Forebay.
#[derive(Debug, Clone)]
pub struct CompletionTags {
    /// The secret; `None` in a stream that only earlier versions know.
    key: Option<TagKey>,
    /// The last sequence up to which a completion needs no tag.
    untagged_until: u64,
}

impl CompletionTags {
    /// Reads the metadata of the stream of completions.
    pub fn of_metadata(metadata: &HashMap<String, String>) -> Self {
        let key = TagKey::of_metadata(metadata);
        let until = metadata.get(UNTAGGED_UNTIL);
        let until = until.and_then(|until| until.parse().ok());
        let of_key = key.as_ref().map(|_| until.unwrap_or_default());
        Self {
            untagged_until: of_key.unwrap_or(u64::MAX),
            key,
        }
    }

    /// Returns true if there is a secret, so that a completion can get a tag.
    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Adds the tag of a completion to its headers, if there is a secret.
    pub(super) fn tag(&self, subject: &str, headers: &mut HeaderMap, payload: &[u8]) {
        if let Some(key) = &self.key {
            let tag = key.tag(&parts(subject, headers, payload));
            headers.insert(TAG_HEADER, tag);
        }
    }

    /// Returns true if Forebay wrote this message of the stream.
    pub fn is_own(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: &[u8],
        sequence: u64,
    ) -> bool {
        let Some(headers) = headers else {
            return false;
        };
        let has = |name: &str| headers.get(name).is_some();
        let is_earlier = sequence <= self.untagged_until
            && has(FINGERPRINT_HEADER)
            && !COPY_HEADERS.into_iter().any(has);
        let is_tagged = |key: &TagKey| key.is_tagged(headers, &parts(subject, headers, payload));
        is_earlier || self.key.as_ref().is_some_and(is_tagged)
    }
}

/// Returns the parts of a completion that its tag covers.
fn parts<'a>(subject: &'a str, headers: &'a HeaderMap, payload: &'a [u8]) -> [&'a [u8]; 5] {
    let covered = |name| headers.get(name).map_or("", |value| value.as_str());
    let [fingerprint, message, object] = COVERED_HEADERS.map(covered);
    [
        subject.as_bytes(),
        fingerprint.as_bytes(),
        message.as_bytes(),
        object.as_bytes(),
        payload,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: &str = "ai.completions.acme._.1";

    fn tags_of(key: &TagKey, until: u64) -> CompletionTags {
        let until = (UNTAGGED_UNTIL.to_owned(), until.to_string());
        CompletionTags::of_metadata(&HashMap::from([key.metadata_entry(), until]))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, *value);
        }
        headers
    }

    #[test]
    fn a_tag_covers_the_subject_the_payload_and_the_headers_that_are_read() {
        let tags = tags_of(&TagKey::random(), 0);
        let mut own = headers(&[(FINGERPRINT_HEADER, "f"), (OBJECT_HEADER, "acme/x")]);
        tags.tag(SUBJECT, &mut own, b"{}");
        assert!(tags.is_own(SUBJECT, Some(&own), b"{}", 9));
        assert!(!tags.is_own("ai.completions.acme._.2", Some(&own), b"{}", 9));
        assert!(!tags.is_own(SUBJECT, Some(&own), b"{ }", 9));
        for name in COVERED_HEADERS {
            let mut changed = own.clone();
            changed.insert(name, "other");
            assert!(!tags.is_own(SUBJECT, Some(&changed), b"{}", 9), "{name}");
        }
        assert!(!tags_of(&TagKey::random(), 0).is_own(SUBJECT, Some(&own), b"{}", 9));
        assert!(!tags.is_own(SUBJECT, None, b"{}", 9));
    }

    #[test]
    fn an_earlier_completion_counts_up_to_the_noted_sequence_and_an_acknowledgement_never() {
        let earlier = headers(&[(FINGERPRINT_HEADER, "f")]);
        let copy = headers(&[(FINGERPRINT_HEADER, "f"), ("Nats-Stream", "AI_COMPLETIONS")]);
        let tags = tags_of(&TagKey::random(), 7);
        let without_secret = CompletionTags::of_metadata(&HashMap::new());
        for tags in [&tags, &without_secret] {
            assert!(tags.is_own(SUBJECT, Some(&earlier), b"{}", 7));
            assert!(!tags.is_own(SUBJECT, Some(&copy), b"{}", 7));
            assert!(!tags.is_own(SUBJECT, Some(&HeaderMap::new()), b"{}", 7));
            assert!(!tags.is_own(SUBJECT, None, b"{}", 7));
        }
        assert!(!tags.is_own(SUBJECT, Some(&earlier), b"{}", 8));
    }
}
