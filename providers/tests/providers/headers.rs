//! What headers say of limits, provider by provider.

use std::collections::BTreeSet;

use forebay_providers::Secret;
use forebay_providers::cost::LimitDimension;
use forebay_providers::registry;
use forebay_providers::{RateLimitHeaders, WorkKind};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::answers::reply;
use crate::{files, requests, targets};

/// Headers of an answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    row: String,
    provider: String,
    headers: Map<String, Value>,
    figures: Vec<Expected>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Expected {
    counts: LimitDimension,
    limit: u64,
    remaining: u64,
    whole_in_ms: Option<u64>,
    resolution_ms: u64,
    per_seconds: Option<u64>,
}

impl From<RateLimitHeaders> for Expected {
    fn from(figures: RateLimitHeaders) -> Self {
        let millis =
            |wait: std::time::Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self {
            counts: figures.dimension,
            limit: figures.limit,
            remaining: figures.remaining,
            whole_in_ms: figures.whole_in.map(millis),
            resolution_ms: millis(figures.resolution),
            per_seconds: figures.per.map(|per| per.as_secs()),
        }
    }
}

/// The providers that are known to tell of limits.
pub(crate) fn tellers() -> BTreeSet<String> {
    let told = files::json::<Vec<Told>>("headers.json").into_iter();
    told.filter(|told| !told.figures.is_empty())
        .map(|told| told.provider)
        .collect()
}

#[test]
fn every_form_of_headers_is_read() {
    let check = |told: &Told| {
        let headers = reply(200, &told.headers, Vec::new()).headers;
        let seen = targets::endpoint(&told.provider).observe(&headers, targets::now());
        let seen: Vec<_> = seen.into_iter().map(Expected::from).collect();
        (seen != told.figures).then(|| format!("{}: {}: is {seen:?}", told.provider, told.row))
    };
    let all: Vec<Told> = files::json("headers.json");
    let wrong: Vec<_> = all.iter().filter_map(check).collect();
    files::none_of(&wrong);
}

#[test]
fn each_key_is_sent_as_its_provider_wants_it_and_in_no_other_place() {
    for provider in registry::providers() {
        let endpoint = targets::endpoint(&provider.name);
        let text = RawValue::from_string(r#"{"input":"the forebay"}"#.to_owned()).expect("JSON");
        let job = match provider.kinds()[0] {
            WorkKind::Chat => requests::chats()[0].job(),
            other => targets::job(other.url(), &text),
        };
        let mut request = endpoint.encode(&job, "model").expect("plain");
        let before = request.clone();
        let key = "AKIDEXAMPLE:secret-of-ours";
        endpoint
            .authorise(&mut request, &Secret::new(key), targets::now())
            .expect("a plain key");
        assert_eq!(
            (&request.url, &request.body),
            (&before.url, &before.body),
            "{}",
            provider.name
        );
        let added = request
            .headers
            .iter()
            .filter(|(name, _)| !before.headers.contains_key(*name));
        let added: Vec<_> = added
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            .collect();
        match provider.name.as_str() {
            "azure" => assert_eq!(added, [("api-key", key)]),
            "anthropic" => assert_eq!(added, [("x-api-key", key)]),
            "gemini" => assert_eq!(added, [("x-goog-api-key", key)]),
            "bedrock-iam" => {
                assert!(
                    added
                        .iter()
                        .all(|(_, value)| !value.contains("secret-of-ours")),
                    "{added:?}"
                );
                let signed = |(name, value): &(&str, &str)| {
                    *name == "authorization"
                        && value.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
                };
                assert!(added.iter().any(signed), "{added:?}");
            }
            _ => assert_eq!(
                added,
                [("authorization", &*format!("Bearer {key}"))],
                "{}",
                provider.name
            ),
        }
    }
}
