use std::time::Duration;

use forebay_schemas::{Class, Job, Usage};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use jiff::Timestamp;

use super::*;
use crate::cost::LimitDimension;
use crate::registry::provider;

/// An endpoint of a provider at an address that nobody calls.
fn at(name: &str, base_url: &str) -> Endpoint {
    Endpoint::new(provider(name).expect("a known provider"), base_url)
}

fn reply(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Reply {
    let headers = headers
        .iter()
        .map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect();
    Reply {
        status,
        headers,
        body: body.to_owned().into(),
    }
}

fn decode(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> DecodedReply {
    let job = Job::parse(br#"{"body":{"messages":[]}}"#).expect("a job");
    let endpoint = at("openai", "http://h/v1");
    endpoint.decode(
        &job,
        "gpt-4o",
        &reply(status, headers, body),
        Timestamp::UNIX_EPOCH,
    )
}

#[test]
fn the_targets_model_replaces_the_bodys_and_the_rest_keeps_its_bytes() {
    let line = br#"{"url":"/v1/embeddings","body":{"model":"pool","input":"x","dimensions":1e3}}"#;
    let job = Job::parse(line).expect("a job");
    let request = at("openai", "http://h/v1/")
        .encode(&job, "text-embedding-3-small")
        .expect("can be expressed");
    assert_eq!(request.url, "http://h/v1/embeddings");
    let body = std::str::from_utf8(&request.body).expect("text");
    assert_eq!(
        body,
        r#"{"dimensions":1e3,"input":"x","model":"text-embedding-3-small"}"#
    );
}

#[test]
fn a_path_that_is_not_supported_is_refused_by_name() {
    let job = Job::parse(br#"{"url":"/v1/videos","body":{}}"#).expect("a job");
    let error = at("openai", "http://h/v1")
        .encode(&job, "m")
        .err()
        .expect("not supported")
        .to_string();
    assert!(
        error.contains("/v1/videos") && error.contains("/v1/embeddings"),
        "{error}"
    );
}

#[test]
fn the_credential_goes_into_one_header_and_prints_nowhere() {
    let job = Job::parse(br#"{"body":{"messages":[]}}"#).expect("a job");
    let endpoint = at("openai", "http://h/v1");
    let mut request = endpoint.encode(&job, "gpt-4o").expect("can be expressed");
    let now = Timestamp::UNIX_EPOCH;
    endpoint
        .authorise(&mut request, &Secret::new("sk-1"), now)
        .expect("a plain key");
    assert_eq!(request.headers[AUTHORIZATION], "Bearer sk-1");
    assert!(!format!("{:?}", request.headers).contains("sk-1"));
    let error = endpoint
        .authorise(&mut request, &Secret::new("sk\n1"), now)
        .expect_err("a line break");
    assert!(!error.contains("sk\n1"));
}

#[test]
fn a_success_has_its_usage() {
    let body = r#"{"id":"x","choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#;
    let decoded = decode(200, &[("x-request-id", "req_1")], body);
    assert_eq!(decoded.class, None);
    let response = decoded.response.expect("an answer");
    assert_eq!(
        (response.request_id.as_deref(), response.body.get()),
        (Some("req_1"), body)
    );
    let usage = Usage {
        input_tokens: 9,
        output_tokens: 3,
        cached_input_tokens: 4,
        ..Usage::default()
    };
    assert_eq!(decoded.usage, Some(usage));
}

#[test]
fn keep_alive_lines_before_the_answer_are_no_mistake() {
    assert_eq!(decode(200, &[], "\n\n {\"choices\":[{}]}").class, None);
}

#[test]
fn every_documented_error_has_its_class() {
    let error = |kind: &str, code: &str, message: &str| {
        format!(
            r#"{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":"{code}"}}}}"#
        )
    };
    for (status, body, class) in [
        (429, error("requests", "rate_limit_exceeded", "Limit 3, Used 3, Requested 1."), Class::RateLimited),
        (429, error("tokens", "rate_limit_exceeded", "Request too large for gpt-4o"), Class::ExceedsLimit),
        (429, error("requests", "rate_limit_exceeded", "on requests per day (RPD)"), Class::QuotaExhausted),
        (429, error("requests", "slow_down", "slow down"), Class::RampLimited),
        (429, error("insufficient_quota", "insufficient_quota", "check your plan"), Class::BillingStop),
        (401, error("invalid_request_error", "invalid_api_key", "Incorrect API key"), Class::BadKey),
        (403, error("x", "x", "unsupported country"), Class::ModelNotAllowed),
        (404, error("invalid_request_error", "model_not_found", "no such model"), Class::ModelNotAllowed),
        (404, error("invalid_request_error", "unknown_url", "Unknown request URL"), Class::ModelNotAllowed),
        (404, "<html>Not Found</html>".into(), Class::ModelNotAllowed),
        (400, error("invalid_request_error", "context_length_exceeded", "long"), Class::ContextTooLong),
        (400, error("invalid_request_error", "content_policy_violation", "no"), Class::ContentFiltered),
        (400, error("invalid_request_error", "", "messages is missing"), Class::BadRequest),
        (422, error("invalid_request_error", "", "wrong"), Class::BadRequest),
        (500, error("server_error", "", "oops"), Class::ServerError),
        (503, error("server_error", "", "The engine is currently overloaded"), Class::Overloaded),
        (
            400,
            r#"{"object":"error","message":"This model's maximum context length is 10","code":400}"#.into(),
            Class::ContextTooLong,
        ),
        (401, r#"{"error":"Unauthorized"}"#.into(), Class::BadKey),
        (502, "<html>Bad gateway</html>".into(), Class::ServerError),
        (200, "<html>hello</html>".into(), Class::MalformedResponse),
        (200, String::new(), Class::MalformedResponse),
    ] {
        assert_eq!(decode(status, &[], &body).class, Some(class), "{status} {body}");
    }
}

#[test]
fn an_error_that_is_not_json_is_kept_as_text() {
    let decoded = decode(502, &[], "<html>Bad gateway</html>");
    assert_eq!(
        decoded.response.expect("kept").body.get(),
        r#""<html>Bad gateway</html>""#
    );
}

#[test]
fn the_longest_wait_in_headers_and_words_counts() {
    let body =
        r#"{"error":{"message":"Please try again in 1m2.5s.","code":"rate_limit_exceeded"}}"#;
    assert_eq!(
        decode(429, &[("retry-after", "70")], body).retry_after,
        Some(Duration::from_secs(70))
    );
    assert_eq!(
        decode(429, &[("retry-after", "0")], body).retry_after,
        Some(Duration::from_millis(62_500))
    );
}

#[test]
fn headers_on_limits_are_read_in_every_form() {
    let observe = |pairs: &[(&'static str, &'static str)]| {
        at("openai", "http://h/v1").observe(&reply(200, pairs, "{}").headers, Timestamp::UNIX_EPOCH)
    };
    let seen = observe(&[
        ("x-ratelimit-limit-requests", "30,000"),
        ("x-ratelimit-remaining-requests", "29,999"),
        ("x-ratelimit-reset-requests", "2ms"),
        ("x-ratelimit-limit-tokens", "150000"),
        ("x-ratelimit-remaining-tokens", "149984"),
        ("x-ratelimit-reset-tokens", "6m0.5s"),
    ]);
    let figures = |dimension, limit, remaining, whole_in| RateLimitHeaders {
        dimension,
        limit,
        remaining,
        whole_in: Some(whole_in),
        resolution: Duration::from_millis(20),
        per: None,
    };
    assert_eq!(
        seen,
        [
            figures(
                LimitDimension::Requests,
                30_000,
                29_999,
                Duration::from_millis(2)
            ),
            figures(
                LimitDimension::Tokens,
                150_000,
                149_984,
                Duration::from_millis(360_500)
            ),
        ]
    );
    let whole = observe(&[
        ("x-ratelimit-limit-tokens", "150000"),
        ("x-ratelimit-remaining-tokens", "149984"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ]);
    let expected = figures(
        LimitDimension::Tokens,
        150_000,
        149_984,
        Duration::from_secs(360),
    );
    assert_eq!(
        whole,
        [RateLimitHeaders {
            resolution: Duration::from_secs(1),
            ..expected
        }],
        "perhaps rounded"
    );
    let azure = observe(&[
        ("x-ratelimit-limit-requests", "-1"),
        ("x-ratelimit-remaining-requests", "-1"),
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "900"),
        ("x-ratelimit-reset-tokens", "7"),
    ]);
    let expected = figures(LimitDimension::Tokens, 1_000, 900, Duration::from_secs(7));
    assert_eq!(
        azure,
        [RateLimitHeaders {
            resolution: Duration::from_secs(1),
            ..expected
        }]
    );
    assert!(observe(&[]).is_empty());
    let absurd = observe(&[
        ("x-ratelimit-limit-requests", "18446744073709551615"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-limit-tokens", "10"),
        ("x-ratelimit-remaining-tokens", "20"),
        ("x-ratelimit-reset-tokens", "18446744073709551615"),
    ]);
    let expected = figures(LimitDimension::Tokens, 10, 10, Duration::ZERO);
    assert_eq!(
        absurd,
        [RateLimitHeaders {
            whole_in: None,
            resolution: Duration::from_secs(1),
            ..expected
        }]
    );
}

#[test]
fn what_a_call_costs_is_counted_as_its_provider_counts() {
    let body = r#"{"body":{"messages":[{"role":"user","content":"hi"}],"max_tokens":500,"n":2}}"#;
    let job = Job::parse(body.as_bytes()).expect("a job");
    let cost = |name: &str| at(name, "http://h").admission_cost(&job, "m");
    let prompt = cost("openai").input_tokens;
    for (name, tokens) in [
        ("openai", 1_000),
        ("azure", prompt + 1_000),
        ("gemini", prompt),
        ("bedrock", prompt + 1_000),
    ] {
        assert_eq!(cost(name).of(LimitDimension::Tokens), tokens, "{name}");
    }
    // What no job states is sent all the same at some, and thoughts come on top.
    let thinks = r#"{"body":{"messages":[],"reasoning_effort":"max"}}"#;
    let thinks = Job::parse(thinks.as_bytes()).expect("a job");
    let endpoint = at("bedrock", "http://h");
    let sent = endpoint
        .encode(&chat(r#","reasoning_effort":"max""#), "anthropic.claude")
        .expect("can be said");
    let sent: serde_json::Value = serde_json::from_slice(&sent.body).expect("JSON");
    let reserved = endpoint
        .admission_cost(&thinks, "anthropic.claude")
        .output_tokens;
    assert_eq!(sent["inferenceConfig"]["maxTokens"], reserved);
}

fn chat(more: &str) -> Job {
    let line = format!(r#"{{"body":{{"messages":[{{"role":"user","content":"hi"}}]{more}}}}}"#);
    Job::parse(line.as_bytes()).expect("a job")
}

#[test]
fn what_a_call_cost_is_settled_as_its_provider_settles() {
    let usage = Usage {
        input_tokens: 100,
        output_tokens: 10,
        cached_input_tokens: 90,
        ..Usage::default()
    };
    for (name, model, tokens) in [
        ("openai", "m", 110),
        ("anthropic", "m", 20),
        ("groq", "m", 20),
        ("gemini", "m", 100),
        ("bedrock", "amazon.nova-lite-v1:0", 20),
        ("bedrock", "anthropic.claude-sonnet-4-5", 10 + 5 * 10),
        ("bedrock", "anthropic.claude-opus-4-8", 10 + 15 * 10),
    ] {
        assert_eq!(
            at(name, "http://h")
                .spent(usage, model)
                .of(LimitDimension::Tokens),
            tokens,
            "{name} {model}"
        );
    }
}

#[test]
fn words_of_the_job_itself_mean_nothing_about_an_account() {
    let job =
        Job::parse(br#"{"body":{"messages":[{"role":"Insufficient Balance"}]}}"#).expect("a job");
    let said = r#"{"error":{"message":"unknown variant `Insufficient Balance`","type":"invalid_request_error"}}"#;
    let endpoint = at("openai", "http://h/v1");
    let class = |job: &Job| {
        endpoint
            .decode(job, "m", &reply(400, &[], said), Timestamp::UNIX_EPOCH)
            .class
    };
    assert_eq!(class(&job), Some(Class::BadRequest));
    assert_eq!(
        class(&chat("")),
        Some(Class::BillingStop),
        "the provider's own words"
    );
}

#[test]
fn providers_of_ones_own_add_and_replace() {
    let text = r#"
[[provider]]
name = "ours"
like = "vllm"
base_url = "http://gpu.internal:8000/v1"

[[provider]]
name = "openai"
dialect = "openai"
base_url = "http://proxy.internal/v1"
"#;
    let all = registry::providers_with(text).expect("a table");
    let address = |name: &str| {
        let mut found = all.iter().filter(|provider| provider.name == name);
        let (one, more) = (found.next().expect("a provider"), found.next());
        assert!(more.is_none(), "{name} is there once");
        one.base_url.clone().unwrap_or_default()
    };
    assert_eq!(address("ours"), "http://gpu.internal:8000/v1");
    assert_eq!(address("openai"), "http://proxy.internal/v1");
    assert_eq!(
        address("anthropic"),
        "https://api.anthropic.com",
        "as before"
    );
    for (text, problem) in [
        ("[[provider]]\nname = \"a\"\nlike = \"nobody\"\n", "nobody"),
        (
            "[[provider]]\nname = \"a\"\ndialect = \"openai\"\ncolour = \"blue\"\n",
            "colour",
        ),
        ("provider = 1\n", "line 1"),
        (
            "[[provider]]\nname = \"a\"\njoins = { inputs = 1 }\n",
            "`joins` is now `merges`",
        ),
        (
            "[[provider]]\nname = \"a\"\nerrors = [{ status = [429], class = \"exceeds_key_limit\" }]\n",
            "is now `exceeds_limit`",
        ),
    ] {
        let error = registry::providers_with(text).expect_err("a mistake");
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn an_answer_that_ended_by_a_failure_or_without_content_is_no_success() {
    for (reason, content, class) in [
        ("stop", "", None),
        ("length", "cut", None),
        ("network_error", "", Some(Class::ServerError)),
        ("error", "the beginning of", Some(Class::ServerError)),
        ("insufficient_system_resource", "", Some(Class::ServerError)),
        ("sensitive", "", Some(Class::ContentFiltered)),
        ("content_filter", "the beginning of", None),
        ("something_new", "", Some(Class::ServerError)),
        ("something_new", "whole", None),
    ] {
        let body = format!(
            r#"{{"choices":[{{"finish_reason":"{reason}","message":{{"role":"assistant","content":"{content}"}}}}]}}"#
        );
        assert_eq!(decode(200, &[], &body).class, class, "{reason} {content}");
    }
}

#[test]
fn an_answer_that_only_a_lenient_reader_reads_stays_as_it_came() {
    let half = r#"{"choices":[{"message":{"content":"cut \ud83d"}}],"usage":{"prompt_tokens":3}}"#;
    let twice =
        r#"{"choices":[{"message":{"content":"a"}}],"usage":{},"usage":{"prompt_tokens":3}}"#;
    let typed = r#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":3.0,"prompt_tokens_details":[]}}"#;
    for (sent, kept) in [
        (half.to_owned(), half),
        (twice.to_owned(), twice),
        (typed.to_owned(), typed),
        (format!("\u{feff}{typed}"), typed),
    ] {
        let decoded = decode(200, &[], &sent);
        assert_eq!(decoded.class, None, "{sent}");
        assert_eq!(decoded.usage.expect("tokens").input_tokens, 3, "{sent}");
        assert_eq!(decoded.response.expect("kept").body.get(), kept);
    }
    let unread = decode(200, &[], r#"["an answer"]"#);
    assert_eq!(unread.class, Some(Class::MalformedResponse));
    assert_eq!(
        unread.response.expect("kept").body.get(),
        r#"["an answer"]"#
    );
}

#[test]
fn vectors_without_numbers_or_of_different_lengths_are_no_answer() {
    let job = Job::parse(br#"{"url":"/v1/embeddings","body":{"input":["a","b"]}}"#).expect("a job");
    let endpoint = at("openai", "http://h/v1");
    for (vectors, is_answer) in [
        ("[1.0,2.0]|[3.0,4.0]", true),
        ("\"AAAA\"|\"BBBB\"", true),
        ("[1.0,2.0]|[3.0]", false),
        ("[1.0]|null", false),
        ("[1.0]|[]", false),
        ("\"\"|\"\"", false),
    ] {
        let item = |vector: &str| format!(r#"{{"embedding":{vector}}}"#);
        let items: Vec<_> = vectors.split('|').map(item).collect();
        let body = format!(r#"{{"data":[{}]}}"#, items.join(","));
        let decoded = endpoint.decode(&job, "m", &reply(200, &[], &body), Timestamp::UNIX_EPOCH);
        assert_eq!(decoded.class.is_none(), is_answer, "{vectors}");
    }
}

#[test]
fn figures_of_a_limit_that_repeat_the_request_are_not_the_providers() {
    let words = "Limit 1, Used 1, Requested 1 tokens per min";
    let body = format!(r#"{{"error":{{"message":"Rate limit reached. {words}"}}}}"#);
    let endpoint = at("openai", "http://h/v1");
    let stated = |content: &str, status| {
        let line =
            format!(r#"{{"body":{{"messages":[{{"role":"user","content":"{content}"}}]}}}}"#);
        let job = Job::parse(line.as_bytes()).expect("a job");
        endpoint.stated_use(&job, &Secret::new("s"), &reply(status, &[], &body))
    };
    assert_eq!(stated("hello", 429).map(|stated| stated.limit), Some(1));
    assert_eq!(stated(words, 429), None);
    assert_eq!(stated("hello", 400), None);
}
