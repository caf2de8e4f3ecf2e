//! What providers answer: statuses, limit headers, Retry-After in every form, error bodies.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use forebay_schemas::Job;
use forebay_providers::Endpoint;
use forebay_providers::registry::providers;
use forebay_providers::Reply;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const HEADERS: [&str; 13] = [
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-reset",
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    "x-amzn-errortype",
];
/// A job of each kind that every dialect can say, if it has the kind at all.
const JOBS: [&str; 3] = [
    r#"{"body":{"messages":[{"role":"user","content":"hi"}]}}"#,
    r#"{"url":"/v1/embeddings","body":{"input":["a","b"]}}"#,
    r#"{"url":"/v1/rerank","body":{"query":"q","documents":["a"]}}"#,
];
/// Longer waits are cut: 32 days.
const LONGEST: Duration = Duration::from_secs(32 * 24 * 60 * 60);

fuzz_target!(|data: (u16, u8, Vec<Vec<u8>>, Vec<u8>)| {
    let (status, choice, values, body) = data;
    let mut headers = HeaderMap::new();
    for (name, value) in HEADERS.into_iter().zip(values) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.insert(name, value);
        }
    }
    let now = "2026-11-24T10:00:00Z".parse().expect("a time");
    let provider = &providers()[usize::from(choice) % providers().len()];
    let endpoint = Endpoint::new(provider, "http://host");
    for figures in endpoint.observe(&headers, now) {
        assert!(figures.remaining <= figures.limit && figures.limit > 0);
    }
    let reply = Reply { status: 100 + status % 500, headers, body: Bytes::from(body) };
    for job in JOBS {
        let job = Job::parse(job.as_bytes()).expect("a job");
        let decoded = endpoint.decode(&job, "m", &reply, now);
        assert!(decoded.retry_after.is_none_or(|wait| wait <= LONGEST), "{:?}", decoded.retry_after);
        assert!(decoded.class.is_some() || (200..300).contains(&reply.status));
        assert!(decoded.class.is_some() || decoded.response.is_some());
    }
});
