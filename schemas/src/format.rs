//! The two formats of what Forebay writes, and the words of the first one.
//!
//! Format 1 is that of Forebay 0.1. What it left (results, journals, messages in streams) is read for as long as it lasts:
//! fields by serde's aliases beside today's names, the rest by what stands here. Only format 2 is written. A message of a
//! producer is of format 1 if it was published before the first start of a Forebay that writes format 2.

use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::cache::Cache;
use crate::subjects::Names;

/// The format in which something is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// That of Forebay 0.1.
    One,
    /// Today's.
    #[default]
    Two,
}

impl Format {
    /// Its number: that of a data directory's file `format`, and in messages.
    pub fn number(self) -> u8 {
        match self {
            Format::One => 1,
            Format::Two => 2,
        }
    }

    /// The format of what says nothing of one: 0.1 did not.
    pub fn unsaid() -> Self {
        Format::One
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u8::deserialize(from)? {
            1 => Ok(Format::One),
            2 => Ok(Format::Two),
            other => Err(de::Error::custom(format!("format {other} is not known"))),
        }
    }
}

/// The metadata of the stream of jobs that says up to which sequence its jobs are of format 1.
pub const FORMAT_1_UNTIL: &str = "forebay-format-1-until";
/// The header of format 1 that [`crate::subjects::REVISION_HEADER`] took the place of.
pub const FORMAT_1_REVISION_HEADER: &str = "Forebay-Generation";
/// The header of format 1 that [`crate::subjects::DEAD_LETTER_HEADER`] took the place of.
pub const FORMAT_1_DEAD_LETTER_HEADER: &str = "Forebay-Letter";

/// Whether a completion's message is of format 1, and so has other words than one of today.
pub fn is_of_format_1(completion: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Former {
        #[serde(rename = "generation")]
        _generation: IgnoredAny,
    }
    serde_json::from_slice::<Former>(completion).is_ok()
}

/// What 0.1 called streams and subjects; taken over once, and then deleted.
impl Names {
    /// What is [`Names::scheduled_stream`] now.
    pub fn format_1_scheduled_stream(&self) -> String {
        self.stream("LATER")
    }

    /// Its subjects, without those that [`Names::scheduled_stream`] has too.
    pub fn format_1_scheduled_subjects(&self) -> String {
        format!("{}.later.>", self.prefix())
    }

    /// The subject that a message of that stream has now.
    pub fn scheduled_since_format_1(&self, subject: &str) -> String {
        let rest = subject.strip_prefix(self.prefix()).and_then(|rest| rest.strip_prefix(".later."));
        rest.map_or_else(|| subject.to_owned(), |rest| format!("{}.scheduled.{rest}", self.prefix()))
    }

    /// What is [`Names::accounts_bucket`] now.
    pub fn format_1_accounts_bucket(&self) -> String {
        self.stream("QUOTAS")
    }

    /// What is [`Names::controls_bucket`] now.
    pub fn format_1_controls_bucket(&self) -> String {
        self.stream("ORDERS")
    }
}

/// A job's `reuse`, which format 2 calls `cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reuse(pub(crate) Cache);

impl<'de> Deserialize<'de> for Reuse {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let cache = match humantime::parse_duration(&text) {
            Ok(Duration::ZERO) => Cache::Coalesce,
            _ => text.parse().map_err(de::Error::custom)?,
        };
        Ok(Self(cache))
    }
}

/// Reads the name of a failure's class, or another short name of a cause, as format 2 has it.
///
/// # Errors
/// When it is no text.
pub fn class_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    Ok(if name == "exceeds_key_limit" { "exceeds_limit".to_owned() } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduled_job_has_its_subject_of_today_and_one_that_came_back_keeps_its_own() {
        let names = Names::default();
        assert_eq!(names.scheduled_since_format_1("ai.later.acme._.1"), names.scheduled("acme", None, "1"));
        assert_eq!(names.scheduled_since_format_1("ai.due.chat.acme.bulk"), "ai.due.chat.acme.bulk");
    }

    #[test]
    fn reuse_is_read_as_what_it_is_now() {
        for (text, expected) in [
            ("\"off\"", Cache::Off),
            ("\"0s\"", Cache::Coalesce),
            ("\"0ms\"", Cache::Coalesce),
            ("\"1h\"", Cache::Within(Duration::from_secs(3_600))),
        ] {
            assert_eq!(serde_json::from_str::<Reuse>(text).expect(text), Reuse(expected));
        }
        assert!(serde_json::from_str::<Reuse>("\"soon\"").is_err());
    }
}
