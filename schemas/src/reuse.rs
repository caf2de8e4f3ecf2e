//! Whether an answer to the same request of another job may serve a job.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Not at all, in text.
const OFF: &str = "off";

/// Whether an answer to the same request (pool, url and body) of another job of the team may serve a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is called by itself.
    Off,
    /// An answer that is so old at most, or that somebody waits for already; with nothing, only the latter.
    Within(Duration),
}

impl Reuse {
    /// How old an answer may be; `None` if none may serve.
    pub fn within(self) -> Option<Duration> {
        match self {
            Reuse::Off => None,
            Reuse::Within(age) => Some(age),
        }
    }
}

impl std::str::FromStr for Reuse {
    type Err = String;

    /// Reads `off`, or how old an answer may be.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == OFF {
            return Ok(Reuse::Off);
        }
        let wrong = |_| {
            format!(
                "`{text}` is no duration, write for example \"1h\", \"0s\" for calls under way alone, or \"off\""
            )
        };
        humantime::parse_duration(text).map(Reuse::Within).map_err(wrong)
    }
}

impl std::fmt::Display for Reuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reuse::Off => f.write_str(OFF),
            Reuse::Within(age) => write!(f, "{}", humantime::format_duration(*age)),
        }
    }
}

impl Serialize for Reuse {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reuse {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Reuse {
    fn schema_name() -> Cow<'static, str> {
        "Reuse".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`off`, or how old an answer to the same request of another job of the team may be, such \
                            as `1h`; with `0s` only calls that are under way are shared.",
            "examples": ["1h", "0s", "off"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        for (text, expected) in [
            ("off", Reuse::Off),
            ("0s", Reuse::Within(Duration::ZERO)),
            ("1h", Reuse::Within(Duration::from_secs(3_600))),
        ] {
            let read: Reuse = text.parse().expect("it is one");
            assert_eq!((read, read.to_string().as_str()), (expected, text));
        }
        let error = "soon".parse::<Reuse>().expect_err("no duration");
        assert!(error.contains("`soon`") && error.contains("1h"), "{error}");
    }
}
