//! The shape of the configuration file. Every field is optional here: one wrong value costs one
//! message, and the rest is still checked.

use std::collections::{BTreeMap, BTreeSet};

use bytesize::ByteSize;
use serde::Deserialize;
use toml::{Table, Value};

use super::ConfigError;
use super::renamed::renamed;

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Raw")]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) nats: RawNats,
    #[serde(default)]
    pub(super) data: RawData,
    #[serde(default)]
    pub(super) streams: RawStreams,
    #[serde(default)]
    pub(super) call: RawCall,
    #[serde(default)]
    pub(super) catalogue: RawCatalogue,
    #[serde(default)]
    pub(super) lanes: RawLanes,
    #[serde(default)]
    pub(super) account: BTreeMap<String, RawAccount>,
    #[serde(default)]
    pub(super) pool: BTreeMap<String, RawPool>,
    #[serde(default)]
    pub(super) team: BTreeMap<String, RawTeam>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Nats")]
pub(super) struct RawNats {
    pub(super) url: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) sync_interval: Option<String>,
    pub(super) unknown_teams: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Data")]
pub(super) struct RawData {
    pub(super) dir: Option<String>,
    pub(super) keep_days: Option<u16>,
    pub(super) dedupe_days: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Streams")]
pub(super) struct RawStreams {
    pub(super) jobs_max_bytes: Option<ByteSize>,
    pub(super) jobs_max_per_queue: Option<u32>,
    pub(super) completions_max_age: Option<String>,
    pub(super) completions_max_bytes: Option<ByteSize>,
    pub(super) objects_max_bytes: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Call")]
pub(super) struct RawCall {
    pub(super) attempts: Option<u32>,
    pub(super) timeout: Option<String>,
    pub(super) connect_timeout: Option<String>,
    pub(super) max_request: Option<ByteSize>,
    pub(super) max_answer: Option<ByteSize>,
    pub(super) grace: Option<String>,
    #[serde(default)]
    pub(super) patience: RawPatience,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Patience")]
pub(super) struct RawPatience {
    pub(super) interactive: Option<String>,
    pub(super) normal: Option<String>,
    pub(super) bulk: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Catalogue")]
pub(super) struct RawCatalogue {
    pub(super) built_in: Option<bool>,
    #[serde(default)]
    pub(super) models: Vec<String>,
    #[serde(default)]
    pub(super) providers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Lanes")]
pub(super) struct RawLanes {
    pub(super) interactive: Option<u64>,
    pub(super) normal: Option<u64>,
    pub(super) bulk: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Account")]
pub(super) struct RawAccount {
    pub(super) provider: Option<String>,
    pub(super) base_url: Option<String>,
    pub(super) api_version: Option<String>,
    pub(super) algorithm: Option<String>,
    #[serde(default)]
    pub(super) keys: Vec<RawKey>,
    #[serde(default)]
    pub(super) limits: Vec<RawLimit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Key")]
pub(super) struct RawKey {
    pub(super) name: Option<String>,
    pub(super) env: Option<String>,
    pub(super) file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Limit")]
pub(super) struct RawLimit {
    pub(super) requests: Option<u64>,
    pub(super) tokens: Option<u64>,
    pub(super) input_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
    pub(super) concurrent: Option<u64>,
    pub(super) per: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) models: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Pool")]
pub(super) struct RawPool {
    #[serde(default)]
    pub(super) targets: Vec<RawTarget>,
    #[serde(default)]
    pub(super) content_fallback: bool,
    pub(super) merge: Option<bool>,
    pub(super) cache: Option<String>,
    pub(super) patience: Option<RawPatience>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Target")]
pub(super) struct RawTarget {
    pub(super) account: Option<String>,
    pub(super) model: Option<String>,
    pub(super) tier: Option<u32>,
    pub(super) weight: Option<f64>,
    pub(super) after: Option<String>,
    pub(super) context_window: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "struct Team")]
pub(super) struct RawTeam {
    pub(super) weight: Option<u64>,
    pub(super) lanes: Option<Vec<String>>,
    #[serde(default)]
    pub(super) limits: Vec<RawLimit>,
    #[serde(default)]
    pub(super) reply_prefixes: Vec<String>,
}

/// Reads every value that can be read. Also returns the paths of unreadable values, so that they
/// are not reported as missing too.
pub(super) fn read(text: &str) -> (RawConfig, Vec<ConfigError>, BTreeSet<String>) {
    let mut mistakes = Vec::new();
    let mut unreadable = BTreeSet::new();
    let mut table: Table = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => {
            return (RawConfig::default(), vec![syntax(text, &error)], unreadable);
        }
    };
    mistakes.extend(renamed(&mut table));
    loop {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let value = Value::Table(table.clone());
        let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
        let result =
            serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()));
        let error = match result {
            Ok(raw) => {
                let known = |path: String| ConfigError {
                    problem: "there is no such field; see the README for all fields".to_owned(),
                    path: in_brackets(&path.replace(".?", "")),
                };
                mistakes.extend(unknown.into_iter().map(known));
                return (raw, mistakes, unreadable);
            }
            Err(error) => error,
        };
        let path = track.path();
        let problem = without_values(error.message());
        mistakes.push(ConfigError {
            path: path.to_string(),
            problem,
        });
        unreadable.insert(path.to_string());
        // Once it is removed, it no longer hides later mistakes.
        if !remove(&mut table, &path) {
            return (RawConfig::default(), mistakes, unreadable);
        }
    }
}

/// Returns where the text stops being TOML. The line itself is left out: it may hold a credential.
fn syntax(text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error
        .span()
        .and_then(|span| text.get(..span.start))
        .unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |last| last.chars().count())
        + 1;
    ConfigError {
        path: format!("line {line}, column {column}"),
        problem: error.message().to_owned(),
    }
}

/// Rewrites a type error in TOML's terms, without the value that it quotes: it may be a credential.
fn without_values(message: &str) -> String {
    let message = match (message.find(" \""), message.rfind("\", ")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{}", &message[..start], &message[end + 1..])
        }
        _ => message.to_owned(),
    };
    let (found, expected) = message.split_once("expected ").unwrap_or((&message, ""));
    let expected = match expected {
        "" => return message,
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other
            if other.starts_with(['u', 'i'])
                && other[1..].bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            "a whole number"
        }
        "f64" => "a number",
        other => other,
    };
    format!(
        "{}expected {expected}",
        found.replace("sequence", "list").replace("map", "table")
    )
}

/// Writes `limits.0.per` as `limits[0].per`, the form of all other messages.
fn in_brackets(path: &str) -> String {
    let mut text = String::new();
    for part in path.split('.') {
        let is_index = part.bytes().all(|byte| byte.is_ascii_digit());
        if is_index && !text.is_empty() {
            text.push_str(&format!("[{part}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(part);
        }
    }
    text
}

fn remove(table: &mut Table, path: &serde_path_to_error::Path) -> bool {
    use serde_path_to_error::Segment;
    let mut segments: Vec<_> = path.iter().collect();
    let Some(last) = segments.pop() else {
        return false;
    };
    let mut root = Value::Table(std::mem::take(table));
    let mut place = Some(&mut root);
    for segment in segments {
        place = place.and_then(|value| match segment {
            Segment::Map { key } => value.get_mut(key.as_str()),
            Segment::Seq { index } => value.get_mut(*index),
            _ => None,
        });
    }
    let removed = match (place, last) {
        (Some(Value::Table(table)), Segment::Map { key }) => table.remove(key).is_some(),
        (Some(Value::Array(array)), Segment::Seq { index }) if *index < array.len() => {
            array.remove(*index);
            true
        }
        _ => false,
    };
    if let Value::Table(rest) = root {
        *table = rest;
    }
    removed
}
