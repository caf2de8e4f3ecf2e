//! What jobs cost: on completions, and at the end of `forebay run`.

use std::fs;

use forebay_schemas::completion::OutputLine;
use serde_json::{Value, json};

use crate::program::run;
use crate::support::{Account, Forebay, chat, provider};

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_has_its_exact_cost_or_none() {
    let (forebay, _provider) = Forebay::simple().await;
    forebay
        .publish("ai.jobs.chat", &chat("priced", "How much?"))
        .await;
    let completion = forebay.completion("default", None, "priced").await;
    let usage = completion.usage.expect("it is told");
    let cost = completion.cost.expect("gpt-4o-mini has prices");
    // $0.15 and $0.60 for a million tokens: 15 and 60 of a hundred millionth.
    let hundred_millionths = 15 * usage.input_tokens + 60 * usage.output_tokens;
    let digits = format!("{:09}", hundred_millionths);
    let (whole, rest) = digits.split_at(digits.len() - 8);
    assert_eq!(
        cost.amount,
        format!("{whole}.{}", rest.trim_end_matches('0')),
        "{usage:?}"
    );
    assert_eq!(cost.currency, "USD");
    let mut searching = chat("searching", "How much?");
    searching["body"]["web_search_options"] = json!({});
    forebay.publish("ai.jobs.chat", &searching).await;
    let completion = forebay.completion("default", None, "searching").await;
    assert!(
        completion.usage.is_some() && completion.cost.is_none(),
        "searches cost extra: {completion:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reports_the_usage_and_cost_of_all_its_lines() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::builder()
        .account(Account::at("one", &provider))
        .pool("ours", "ours", &["one"])
        .pool("unpriced", "unpriced", &["one"])
        .config("[catalogue]\nmodels = [\"prices.json\"]\n")
        .write();
    fs::write(
        dir.path().join("prices.json"),
        r#"{"models":[{"provider":"openai","name":"ours","kind":"chat","input":"1000000","output":"0"}]}"#,
    )
    .expect("written");
    let line = |model: &str, index: usize| {
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hello" }] });
        json!({ "custom_id": format!("r-{index}"), "url": "/v1/chat/completions", "body": body })
            .to_string()
    };
    let lines: Vec<_> = (0..7)
        .map(|index| line("ours", index))
        .chain([line("unpriced", 7)])
        .collect();
    fs::write(dir.path().join("in.jsonl"), lines.join("\n")).expect("written");
    let args = ["run", "in.jsonl", "--output", "out.jsonl", "--json"];
    let output = run(dir.path(), &args).await;
    let report: Value = serde_json::from_str(&output.stdout).expect("a report");
    let answers = fs::read_to_string(dir.path().join("out.jsonl")).expect("there");
    let prompts = answers.lines().map(|line| {
        let line: OutputLine = serde_json::from_str(line).expect("a line");
        let body: Value =
            serde_json::from_str(line.response.expect("an answer").body.get()).expect("JSON");
        (
            line.custom_id,
            body["usage"]["prompt_tokens"].as_u64().expect("a count"),
        )
    });
    let (priced, all): (Vec<_>, Vec<_>) = prompts
        .map(|(id, tokens)| (if id == "r-7" { 0 } else { tokens }, tokens))
        .unzip();
    assert_eq!(
        report["usage"]["input_tokens"],
        all.iter().sum::<u64>(),
        "{output:?}"
    );
    assert_eq!(
        report["cost"],
        json!({ "amount": priced.iter().sum::<u64>().to_string(), "currency": "USD" })
    );
    assert_eq!(report["lines_of_unknown_cost"], 1);
    // Again: what was answered before counts, and is told to people too.
    let output = run(dir.path(), &args[..4]).await;
    let told = format!(
        "{} USD and that of a line, which is unknown",
        priced.iter().sum::<u64>()
    );
    assert!(output.stdout.contains(&told), "{output:?}");
}
