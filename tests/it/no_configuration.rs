//! Forebay without a configuration: accounts from the environment, and pools as they are asked for.

use std::fs;

use forebay_schemas::Status;
use forebay_workers::{OnDemand, TargetConfig, WantedModel};
use serde_json::json;

use crate::program::{Output, command, finish};
use crate::support::{Account, Forebay, answer_text, provider};

/// `forebay run` on these lines, with nothing but a key and an address in the environment.
async fn run(lines: &[String], key: &str, url: &str) -> (Output, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("in.jsonl"), lines.join("\n")).expect("written");
    let path = std::env::var_os("PATH").expect("it is set");
    let mut command = command(dir.path(), &["run", "in.jsonl", "--output", "out.jsonl"]);
    command
        .env_clear()
        .env("PATH", path)
        .env("OPENAI_BASE_URL", url);
    if !key.is_empty() {
        command.env("OPENAI_API_KEY", key);
    }
    (finish(&mut command).await, dir)
}

fn line(index: usize, model: &str) -> String {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": format!("hello {index}") }] });
    json!({ "custom_id": format!("r-{index}"), "url": "/v1/chat/completions", "body": body })
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_environment_is_all_that_a_run_needs() {
    let provider = provider(&["name=one,key=sk-environment"], "").await;
    let lines: Vec<_> = (0..20)
        .map(|index| line(index, ["gpt-4o-mini", "gpt-4.1"][index % 2]))
        .collect();
    let (output, dir) = run(&lines, "sk-environment", &provider.base_url()).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let answers = fs::read_to_string(dir.path().join("out.jsonl")).expect("there");
    for (index, answer) in answers.lines().enumerate() {
        let (id, text) = (
            format!("\"custom_id\":\"r-{index}\""),
            format!("You said: hello {index}\""),
        );
        assert!(answer.contains(&id) && answer.contains(&text), "{answer}");
    }
    assert_eq!((answers.lines().count(), provider.calls().len()), (20, 20));
    for entry in [format!("{output:?}"), answers] {
        assert!(!entry.contains("sk-environment"), "the key is told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_a_run_says_what_to_set() {
    let (output, _dir) = run(&[line(0, "gpt-4o-mini")], "", "http://127.0.0.1:1/v1").await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output.stderr.contains("OPENAI_API_KEY") && output.stderr.contains("forebay demo"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_made_for_the_models_that_jobs_ask_for() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let builder = Forebay::builder().account(Account::at("one", &provider));
    let mut config = builder.parse();
    let serve = |wanted: WantedModel<'_>| {
        let model = match wanted {
            WantedModel::Model(name) | WantedModel::AnyOf(name) => name,
        };
        if model.starts_with("gpt-") {
            vec![TargetConfig::new(0, model)]
        } else {
            Vec::new()
        }
    };
    config.on_demand = Some(OnDemand::new(serve));
    let forebay = builder.start_with(&config).await;
    let ask = async |id: &str, pool: &str, model: Option<&str>| {
        let mut job =
            json!({ "id": id, "body": { "messages": [{ "role": "user", "content": id }] } });
        if let Some(model) = model {
            job["body"]["model"] = model.into();
        }
        forebay.publish(&format!("ai.jobs.{pool}"), &job).await;
        forebay.completion("default", None, id).await
    };
    // One pool may be for two models, whose names differ in what no pool's name has.
    for (id, pool, model, asked) in [
        ("a", "gpt-4_1", Some("gpt-4.1"), "gpt-4.1"),
        ("b", "gpt-4_1", Some("gpt-4:1"), "gpt-4:1"),
        ("c", "gpt-5", None, "gpt-5"),
    ] {
        let completion = ask(id, pool, model).await;
        assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
        assert!(answer_text(&completion).contains(id));
        assert_eq!(completion.answered_by.expect("an account").model, asked);
    }
    for (id, pool, model, code) in [
        ("d", "chat", Some("gpt-4.1"), "unknown_pool"),
        ("e", "claude", None, "unknown_pool"),
        ("f", "gpt-5", Some("claude"), "unknown_model"),
    ] {
        let completion = ask(id, pool, model).await;
        assert_eq!(completion.error.expect("a refusal").code, code);
    }
}
