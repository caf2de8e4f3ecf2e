//! What providers answer: statuses, limit headers, Retry-After in every form, error bodies.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use forebay_workers::provider::by_name;
use forebay_workers::upstream::Reply;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const HEADERS: [&str; 8] = [
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];
/// Longer waits are cut: 32 days.
const LONGEST: Duration = Duration::from_secs(32 * 24 * 60 * 60);

fuzz_target!(|data: (u16, Vec<Vec<u8>>, Vec<u8>)| {
    let (status, values, body) = data;
    let mut headers = HeaderMap::new();
    for (name, value) in HEADERS.into_iter().zip(values) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.insert(name, value);
        }
    }
    let adapter = by_name("openai").expect("a known provider");
    for figures in adapter.observe(&headers) {
        assert!(figures.remaining <= figures.limit && figures.limit > 0);
    }
    let now = "2026-11-24T10:00:00Z".parse().expect("a time");
    let reply = Reply { status: 100 + status % 500, headers, body: Bytes::from(body), place: None };
    let decoded = adapter.decode(&reply, now);
    assert!(decoded.retry_after.is_none_or(|wait| wait <= LONGEST), "{:?}", decoded.retry_after);
    assert!(decoded.class.is_some() || (200..300).contains(&reply.status));
});
