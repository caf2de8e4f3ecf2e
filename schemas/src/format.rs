//! The two formats of the data that Forebay writes, and the words of the first one.
//!
//! Format 1 is that of Forebay 0.1. Its results, journals and messages in streams are read as long
//! as they last. Its fields are serde's aliases beside today's names; this module has the rest.
//! Only format 2 is written. A producer's message is of format 1 if it was published before the
//! first start of a Forebay that writes format 2.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::{RawValue, to_raw_value};

use crate::cache::Cache;
use crate::subjects::Names;

/// The format of written data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// The format of Forebay 0.1.
    One,
    /// The present format.
    #[default]
    Two,
}

impl Format {
    /// Returns the format's number, as in messages and in a data directory's file `format`.
    pub fn number(self) -> u8 {
        match self {
            Format::One => 1,
            Format::Two => 2,
        }
    }

    /// Returns the format of data that states none, as 0.1 did not.
    pub fn of_unmarked_data() -> Self {
        Format::One
    }

    /// Returns true if this is the format that is written.
    pub fn is_newest(&self) -> bool {
        *self == Format::default()
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

/// The metadata key of the stream of jobs for the last sequence whose jobs are of format 1.
pub const FORMAT_1_UNTIL: &str = "forebay-format-1-until";
/// The name of [`crate::header::REVISION_HEADER`] in format 1.
pub const FORMAT_1_REVISION_HEADER: &str = "Forebay-Generation";
/// The name of [`crate::header::DEAD_LETTER_HEADER`] in format 1.
pub const FORMAT_1_DEAD_LETTER_HEADER: &str = "Forebay-Letter";

/// Returns true if a completion's message is of format 1, so that its words are not today's.
pub fn is_of_format_1(completion: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Former {
        #[serde(rename = "generation")]
        _generation: IgnoredAny,
    }
    serde_json::from_slice::<Former>(completion).is_ok()
}

/// The names of streams and subjects in 0.1. They are migrated once and then deleted.
impl Names {
    /// Returns the former name of [`Names::scheduled_stream`].
    pub fn format_1_scheduled_stream(&self) -> String {
        self.stream("LATER")
    }

    /// Returns the subjects of that stream, without those that [`Names::scheduled_stream`] has too.
    pub fn format_1_scheduled_subjects(&self) -> String {
        format!("{}.later.>", self.prefix())
    }

    /// Returns today's subject of a message of that stream, without the code of a scheduled job's.
    pub fn scheduled_since_format_1(&self, subject: &str) -> String {
        let rest = subject
            .strip_prefix(self.prefix())
            .and_then(|rest| rest.strip_prefix(".later."));
        rest.map_or_else(
            || subject.to_owned(),
            |rest| format!("{}.scheduled.{rest}", self.prefix()),
        )
    }

    /// Returns the former name of [`Names::accounts_bucket`].
    pub fn format_1_accounts_bucket(&self) -> String {
        self.stream("QUOTAS")
    }

    /// Returns the former name of [`Names::controls_bucket`].
    pub fn format_1_controls_bucket(&self) -> String {
        self.stream("ORDERS")
    }
}

/// Translates a job of format 1 into today's words; `None` if it is not a JSON object. Its `reuse`
/// becomes `cache`. Its own `cache` meant nothing and is removed.
pub(crate) fn job_of_today(job: &[u8]) -> Option<Vec<u8>> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(job).ok()?;
    fields.remove("cache");
    if let Some(reuse) = fields.remove("reuse") {
        let is_zero =
            |text: String| humantime::parse_duration(&text).is_ok_and(|age| age.is_zero());
        let coalesces = serde_json::from_str(reuse.get()).is_ok_and(is_zero);
        let cache = if coalesces {
            to_raw_value(&Cache::Coalesce).ok()?
        } else {
            reuse
        };
        fields.insert("cache".to_owned(), cache);
    }
    serde_json::to_vec(&fields).ok()
}

/// Reads the class of a failure, or another short name of a cause, in the words of format 2.
///
/// # Errors
/// Fails when the value is not a text.
pub fn class_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    Ok(if name == "exceeds_key_limit" {
        "exceeds_limit".to_owned()
    } else {
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduled_job_has_its_subject_of_today_and_one_that_came_back_keeps_its_own() {
        let names = Names::default();
        assert_eq!(
            names.scheduled_since_format_1("ai.later.acme._.1"),
            names.scheduled("acme", None, "1")
        );
        assert_eq!(
            names.scheduled_since_format_1("ai.due.chat.acme.bulk"),
            "ai.due.chat.acme.bulk"
        );
    }

    #[test]
    fn reuse_is_read_as_what_it_is_now() {
        for (reuse, cache) in [
            ("\"off\"", "\"off\""),
            ("\"0s\"", "\"coalesce\""),
            ("\"0ms\"", "\"coalesce\""),
            ("\"1h\"", "\"1h\""),
            ("7", "7"),
        ] {
            let job = job_of_today(format!(r#"{{"reuse":{reuse},"cache":"mine"}}"#).as_bytes());
            assert_eq!(
                job.map(String::from_utf8),
                Some(Ok(format!(r#"{{"cache":{cache}}}"#)))
            );
        }
        assert_eq!(job_of_today(b"[]"), None);
    }
}
