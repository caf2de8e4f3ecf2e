//! `forebay run --dry-run`: what a batch is going to take, told before anything is sent.

use std::fs;

use serde_json::{Value, json};

use crate::program::{Output, run};
use crate::support::{Account, Forebay, provider};

const HOUR: f64 = 3_600.0;

/// What is told of these lines, for a pool `work` with an account of these limits; and what else the pool says.
async fn told(
    limits: &str,
    model: &str,
    more: &str,
    lines: &[Value],
    json: bool,
) -> (Output, Value) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::builder()
        .account(Account::at("one", &provider).limits(limits))
        .pool("work", model, &["one"])
        .config(&format!("[pool.work]\n{more}"))
        .write();
    let lines: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            let mut line = line.clone();
            line["custom_id"] = format!("r-{index}").into();
            line.to_string()
        })
        .collect();
    fs::write(dir.path().join("in.jsonl"), lines.join("\n")).expect("written");
    let mut args = vec![
        "run",
        "in.jsonl",
        "--output",
        "out.jsonl",
        "--pool",
        "work",
        "--dry-run",
    ];
    args.extend(json.then_some("--json"));
    let output = run(dir.path(), &args).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(provider.calls().len(), 0, "nothing is sent");
    for name in ["data", "out.jsonl", "out.jsonl.partial"] {
        assert!(!dir.path().join(name).exists(), "{name} is made");
    }
    let told = if json {
        serde_json::from_str(&output.stdout).expect("JSON")
    } else {
        Value::Null
    };
    (output, told)
}

fn chats(count: usize) -> Vec<Value> {
    let body = json!({ "max_tokens": 100, "messages": [{ "role": "user", "content": "word ".repeat(60) }] });
    vec![json!({ "body": body }); count]
}

fn seconds(told: &Value) -> f64 {
    told["seconds"].as_f64().expect("it is known")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forecast_time_follows_from_limits_of_each_kind() {
    for (limits, lines, expected) in [
        ("{ requests = 10, per = \"1s\" }", 100, 10.0),
        (
            "{ requests = 10, per = \"1s\" }, { requests = 50, per = \"100s\" }",
            100,
            105.0,
        ),
        ("{ concurrent = 4 }", 100, 50.0),
        // The longest answer has more tokens than the prompt, and OpenAI counts the larger.
        ("{ tokens = 6_000, per = \"1m\" }", 700, 660.0),
        ("{ requests = 5, per = \"1d\" }", 12, 48.0 * HOUR),
    ] {
        let (output, told) = told(limits, "gpt-4o-mini", "", &chats(lines), true).await;
        let told = seconds(&told);
        assert!(
            (told - expected).abs() < expected * 0.1 + 3.0,
            "{limits}: {told}: {output:?}"
        );
    }
    let (_, told) = told("", "gpt-4o-mini", "", &chats(3), true).await;
    assert_eq!(
        (&told["seconds"], &told["accounts_without_limits"]),
        (&Value::Null, &json!(["one"]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forecast_has_tokens_and_cost() {
    let (_, chat) = told("{ concurrent = 4 }", "gpt-4o-mini", "", &chats(10), true).await;
    let tokens = chat["input_tokens"].as_u64().expect("a count");
    assert!((700..900).contains(&tokens), "300 bytes each: {chat}");
    assert_eq!(chat["output_tokens_at_most"], 1_000);
    // $0.15 and $0.60 for a million.
    assert_eq!(chat["cost"]["answers_at_most"], "0.0006");
    let prompts: f64 = chat["cost"]["prompts"]
        .as_str()
        .expect("an amount")
        .parse()
        .expect("a number");
    assert!(
        (prompts - tokens as f64 * 0.15 / 1e6).abs() < 1e-6,
        "{chat}"
    );
    let (output, unpriced) = told("{ concurrent = 4 }", "ours", "", &chats(10), true).await;
    assert_eq!(unpriced["lines_of_unknown_cost"], 10, "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forecast_counts_merged_lines_together_and_identical_lines_once() {
    let texts: Vec<_> = (0..5_000)
        .map(|index| json!({ "url": "/v1/embeddings", "body": { "input": format!("text {index}") } }))
        .collect();
    let calls = |told: &Value| told["calls"][0]["calls"].as_u64().expect("a count");
    let limits = "{ requests = 10, per = \"1s\" }";
    let (_, joined) = told(limits, "text-embedding-3-small", "", &texts, true).await;
    assert_eq!(calls(&joined), 3, "2,048 at a time");
    let (_, alone) = told(
        limits,
        "text-embedding-3-small",
        "merge = false\n",
        &texts,
        true,
    )
    .await;
    assert_eq!(calls(&alone), 5_000);
    let (_, shared) = told(limits, "gpt-4o-mini", "cache = \"1h\"\n", &chats(100), true).await;
    assert_eq!(calls(&shared), 1, "all ask the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forecast_for_people_is_a_few_lines() {
    let mut lines = chats(1_200);
    lines.push(json!({ "url": "/v1/rerank", "body": { "query": "q", "documents": ["d"] } }));
    let (output, _) = told(
        "{ requests = 10, per = \"1s\" }",
        "gpt-4o-mini",
        "",
        &lines,
        false,
    )
    .await;
    for text in [
        "1,201 lines, 1,200 calls:",
        "at most 120,000 out",
        "USD for prompts",
        "time: 2m",
        "1 line would fail",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:?}");
    }
}
