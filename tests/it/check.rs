//! `forebay check`: keys at their providers, and what publishers risk.

use forebay::control::messages::OrdersReply;
use forebay_workers::PauseTarget;
use serde_json::{Value, json};

use crate::program::{Output, run};
use crate::support::{Account, Forebay, chat, control, install_crypto, nats_server, provider};

/// `forebay check` on accounts, each of a provider, at an address, with keys, and with a pool for a model.
async fn check(accounts: &[(&str, String, &[&str], &str)]) -> (Output, Vec<Value>) {
    let mut builder = Forebay::builder();
    for (index, (provider, url, keys, model)) in accounts.iter().enumerate() {
        let name = format!("q{index}");
        let account = Account::at_url(&name, url)
            .provider(provider, "")
            .keys(keys);
        builder = builder
            .account(account)
            .pool(&format!("p{index}"), model, &[&name]);
    }
    let dir = builder.write();
    let output = run(dir.path(), &["check", "--json"]).await;
    let report: Value = serde_json::from_str(&output.stdout).expect("a report");
    let tried = report["tried"].as_array().expect("a list").clone();
    for key in accounts.iter().flat_map(|(_, _, keys, _)| *keys) {
        assert!(
            !format!("{output:?}").contains(key),
            "a key is told: {output:?}"
        );
    }
    (output, tried)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_tried_at_its_provider_and_no_key_is_printed() {
    for (name, path) in [
        ("openai", "/v1"),
        ("azure", "/openai/v1"),
        ("anthropic", ""),
        ("gemini", "/v1beta"),
        ("mistral", "/v1"),
        ("cohere", ""),
        ("bedrock", ""),
        ("ollama", ""),
        ("groq", "/openai/v1"),
        ("deepseek", ""),
        ("openrouter", "/api/v1"),
    ] {
        let simulated =
            provider(&[&format!("provider={name},name=one,key=sk-right-key")], "").await;
        let url = format!("{}{path}", simulated.url());
        // Ollama has no keys.
        let keys = &["sk-right-key", "sk-wrong-key"][..if name == "ollama" { 1 } else { 2 }];
        let (output, tried) = check(&[(name, url, keys, "an-unlisted-model")]).await;
        assert_eq!(tried[0]["state"], "accepted", "{name}: {output:?}");
        // Bedrock has no list, and OpenRouter's is for everybody.
        let listed = tried[0]["models"]
            .as_array()
            .is_some_and(|models| !models.is_empty());
        assert_eq!(
            listed,
            !matches!(name, "bedrock" | "openrouter"),
            "{name}: {output:?}"
        );
        // At Azure they have the names that an account gives them.
        if listed && name != "azure" {
            assert_eq!(
                tried[0]["models_not_listed"],
                json!(["an-unlisted-model"]),
                "{name}"
            );
        }
        if name == "ollama" {
            assert_eq!(output.code, Some(0), "{output:?}");
        } else {
            assert_eq!(
                (&tried[1]["state"], output.code),
                (&json!("bad_key"), Some(2)),
                "{name}: {output:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_address_is_reported() {
    let (output, tried) = check(&[(
        "openai",
        "http://127.0.0.1:1/v1".to_owned(),
        &["sk-a-key"],
        "m",
    )])
    .await;
    assert_eq!(
        (&tried[0]["state"], output.code),
        (&json!("net_before_send"), Some(3)),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_that_another_team_could_harm_are_named() {
    install_crypto();
    let home = tempfile::tempdir().expect("a directory");
    let config = format!(
        "jetstream {{ store_dir: {:?} }}\n",
        home.path().join("store")
    );
    let (_server, address) = nats_server(home.path(), &config, &[]).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider).nats(&address).start().await;
    let paused = PauseTarget::Pool("chat".to_owned());
    let _: OrdersReply = control(&forebay, "pause", &paused).await.expect("paused");
    let warnings = async || {
        let output = run(forebay.dir(), &["check", "--offline", "--json"]).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        let report: Value = serde_json::from_str(&output.stdout).expect("a report");
        report["warnings"].as_array().expect("a list").clone()
    };
    let random = format!("careful/{:032x}", rand::random::<u128>());
    let requests = forebay.connection.requests();
    requests.put(&random, &"{}".into()).await.expect("put");
    forebay
        .publish("ai.jobs.chat.careful", &chat("a", "hello"))
        .await;
    assert_eq!(warnings().await, [] as [Value; 0]);

    requests
        .put("acme/report-1", &"{}".into())
        .await
        .expect("put");
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", "order-1");
    forebay
        .publish_with("ai.jobs.chat.acme", &chat("a", "hello"), headers)
        .await;
    let warnings = warnings().await;
    let texts: Vec<_> = warnings.iter().filter_map(Value::as_str).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("team acme sets Nats-Msg-Id"), "{texts:?}");
    assert!(
        texts[1].contains("object acme/report-1 in AI_REQUESTS"),
        "{texts:?}"
    );
}
