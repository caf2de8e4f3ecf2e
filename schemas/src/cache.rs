//! The cache of a job: the use of the answer to another job's identical request.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const OFF: &str = "off";
const COALESCE: &str = "coalesce";

/// The permission for a job to use the answer to an identical request of another job of the team.
/// Requests are identical if their pool, url and body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// The job has a call of its own.
    Off,
    /// The job shares the call of an identical request that waits or is in flight.
    Coalesce,
    /// As [`Cache::Coalesce`], and a cached answer of at most this age serves too. The job's own
    /// answer is cached.
    Within(Duration),
}

impl Cache {
    /// Returns the largest age of a cached answer: zero where only calls are shared, `None` where
    /// nothing is shared.
    pub fn max_age(self) -> Option<Duration> {
        match self {
            Cache::Off => None,
            Cache::Coalesce => Some(Duration::ZERO),
            Cache::Within(age) => Some(age),
        }
    }
}

impl std::str::FromStr for Cache {
    type Err = String;

    /// Reads `off`, `coalesce` or a duration above zero, such as `1h`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            OFF => return Ok(Cache::Off),
            COALESCE => return Ok(Cache::Coalesce),
            _ => {}
        }
        let Ok(age) = humantime::parse_duration(text) else {
            return Err(format!(
                "is no duration: write for example \"1h\", or \"{COALESCE}\", or \"{OFF}\""
            ));
        };
        if age.is_zero() {
            return Err(format!("a duration of zero is now \"{COALESCE}\""));
        }
        Ok(Cache::Within(age))
    }
}

impl std::fmt::Display for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cache::Off => f.write_str(OFF),
            Cache::Coalesce => f.write_str(COALESCE),
            Cache::Within(age) => write!(f, "{}", humantime::format_duration(*age)),
        }
    }
}

impl Serialize for Cache {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cache {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Cache {
    fn schema_name() -> Cow<'static, str> {
        "Cache".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`off`; or `coalesce` to share the call of an identical request of another job of the team; \
                            or the age, such as `1h`, up to which a kept answer serves too.",
            "examples": ["1h", "coalesce", "off"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        for (text, expected) in [
            ("off", Cache::Off),
            ("coalesce", Cache::Coalesce),
            ("1h", Cache::Within(Duration::from_secs(3_600))),
        ] {
            let read: Cache = text.parse().expect("it is one");
            assert_eq!((read, read.to_string().as_str()), (expected, text));
        }
        let error = "soon".parse::<Cache>().expect_err("no duration");
        assert!(error.contains("1h") && !error.contains("soon"), "{error}");
        assert_eq!(
            "0s".parse::<Cache>(),
            Err("a duration of zero is now \"coalesce\"".to_owned())
        );
    }
}
