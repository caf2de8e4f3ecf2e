//! Kinds of work beside chats, at each provider that has them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use forebay_schemas::{Completion, Status};
use serde_json::{Value, json};

use crate::support::{Account, Forebay, provider};

/// A Forebay whose pool `work` is served by one account of a provider.
async fn forebay(name: &str, path: &str) -> (Forebay, forebay_simulator::Provider) {
    // A server of one's own has what OpenAI has not.
    let simulated = if name == "vllm" { "openai" } else { name };
    let simulated = provider(&[&format!("provider={simulated},name=one,key=sk-one")], "").await;
    let forebay = Forebay::builder()
        .account(Account::at("one", &simulated).provider(name, path))
        .pool("work", "a-model", &["one"])
        .start()
        .await;
    (forebay, simulated)
}

async fn ask(forebay: &Forebay, id: &str, url: &str, body: Value) -> Completion {
    forebay
        .publish(
            "ai.jobs.work",
            &json!({ "id": id, "url": url, "body": body }),
        )
        .await;
    forebay.completion("default", None, id).await
}

fn answer(completion: &Completion) -> Value {
    assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
    let body = &completion.response.as_ref().expect("an answer").body;
    serde_json::from_str(body.get()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_have_one_shape_and_the_order_of_their_texts() {
    for (name, path) in [
        ("openai", "/v1"),
        ("gemini", "/v1beta"),
        ("mistral", "/v1"),
        ("cohere", ""),
        ("azure", "/openai/v1"),
    ] {
        let (forebay, _simulated) = forebay(name, path).await;
        let both = ask(
            &forebay,
            "both",
            "/v1/embeddings",
            json!({ "input": ["one", "two"] }),
        )
        .await;
        // Gemini does not say what it used, and nothing else does for it.
        let says = name != "gemini";
        assert_eq!(both.usage.is_some(), says, "{name}: {both:?}");
        let both = answer(&both);
        assert_eq!(
            both["usage"]["total_tokens"].is_number(),
            says,
            "{name}: {both}"
        );
        assert_eq!(
            (&both["object"], both["data"].as_array().map(Vec::len)),
            (&json!("list"), Some(2)),
            "{name}: {both}"
        );
        for (index, text) in ["one", "two"].into_iter().enumerate() {
            let alone =
                answer(&ask(&forebay, text, "/v1/embeddings", json!({ "input": text })).await);
            assert_eq!(
                alone["data"][0]["embedding"], both["data"][index]["embedding"],
                "{name}"
            );
            assert_eq!(both["data"][index]["index"], index, "{name}");
        }
        assert_ne!(
            both["data"][0]["embedding"], both["data"][1]["embedding"],
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_reranked() {
    for (name, path) in [("vllm", "/v1"), ("cohere", "")] {
        let (forebay, _simulated) = forebay(name, path).await;
        let body = json!({ "query": "one", "documents": ["two", "one"], "top_n": 1 });
        let ranked = answer(&ask(&forebay, "r", "/v1/rerank", body).await);
        assert_eq!(
            ranked["results"].as_array().map(Vec::len),
            Some(1),
            "{name}: {ranked}"
        );
        assert!(
            ranked["results"][0]["relevance_score"].is_number(),
            "{name}: {ranked}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moderations_have_one_shape() {
    for (name, category) in [("openai", "violence"), ("mistral", "violence_and_threats")] {
        let (forebay, _simulated) = forebay(name, "/v1").await;
        let body = json!({ "input": ["hello", "refuse this"] });
        let judged = answer(&ask(&forebay, "m", "/v1/moderations", body).await);
        for (result, flagged) in [
            (&judged["results"][0], false),
            (&judged["results"][1], true),
        ] {
            assert_eq!(result["flagged"], flagged, "{name}: {judged}");
            assert_eq!(result["categories"][category], flagged, "{name}: {judged}");
            assert!(
                result["category_scores"][category].is_number(),
                "{name}: {judged}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_moderations_images_and_sound_are_answered() {
    let (forebay, _simulated) = forebay("openai", "/v1").await;
    let response = answer(&ask(&forebay, "a", "/v1/responses", json!({ "input": "hello" })).await);
    assert_eq!(
        (&response["object"], &response["status"]),
        (&json!("response"), &json!("completed"))
    );
    let moderation = answer(
        &ask(
            &forebay,
            "b",
            "/v1/moderations",
            json!({ "input": "hello" }),
        )
        .await,
    );
    assert!(
        moderation["results"][0]["flagged"].is_boolean(),
        "{moderation}"
    );
    let image = answer(
        &ask(
            &forebay,
            "c",
            "/v1/images/generations",
            json!({ "prompt": "a cat" }),
        )
        .await,
    );
    assert!(image["data"][0]["b64_json"].is_string(), "{image}");
    let body = json!({ "input": "hello", "voice": "alloy" });
    let speech = answer(&ask(&forebay, "d", "/v1/audio/speech", body).await);
    assert_eq!(speech["content_type"], "audio/mpeg");
    let sound = BASE64_STANDARD
        .decode(speech["data"].as_str().expect("base64"))
        .expect("base64");
    assert!(!sound.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistral_transcribes_and_refuses_fields_that_it_lacks() {
    let (forebay, _simulated) = forebay("mistral", "/v1").await;
    let file = json!({ "data": BASE64_STANDARD.encode(b"some sound"), "filename": "a.mp3" });
    let body = json!({ "file": file, "language": "en", "response_format": "json",
        "timestamp_granularities": ["segment"] });
    let completion = ask(&forebay, "t", "/v1/audio/transcriptions", body).await;
    let text = answer(&completion);
    assert!(
        text["text"]
            .as_str()
            .expect("a text")
            .contains("10 bytes of a.mp3"),
        "{text}"
    );
    assert_eq!(
        (&text["language"], text["segments"].as_array().map(Vec::len)),
        (&json!("en"), Some(1)),
        "{text}"
    );
    assert!(completion.usage.expect("usage").input_tokens > 0);
    let body = json!({ "file": file, "prompt": "names" });
    let error = ask(&forebay, "p", "/v1/audio/transcriptions", body)
        .await
        .error
        .expect("refused");
    assert!(error.message.contains("body.prompt"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_transcribed_from_the_job_and_from_an_object_alike() {
    let (forebay, _simulated) = forebay("openai", "/v1").await;
    let sound = b"RIFF\r\n--sound\x00\xff".repeat(1_000);
    let inline = json!({ "file": { "data": BASE64_STANDARD.encode(&sound), "filename": "a.wav" }, "language": "en" });
    let inline = answer(&ask(&forebay, "inline", "/v1/audio/transcriptions", inline).await);
    let store = forebay
        .connection
        .context
        .get_object_store("AI_REQUESTS")
        .await
        .expect("the store");
    store
        .put("default/a.wav", &mut sound.as_slice())
        .await
        .expect("kept");
    let named = json!({ "file": { "object": "default/a.wav" }, "language": "en" });
    let completion = ask(&forebay, "named", "/v1/audio/transcriptions", named).await;
    assert!(!inline["text"].as_str().expect("a text").is_empty());
    assert_eq!(answer(&completion)["text"], inline["text"]);
    assert!(
        store.info("default/a.wav").await.is_ok(),
        "it stays its publisher's"
    );

    for (id, object, code) in [
        ("gone", "default/b.wav", "object_gone"),
        ("foreign", "other/a.wav", "invalid_object"),
    ] {
        let body = json!({ "file": { "object": object } });
        let error = ask(&forebay, id, "/v1/audio/transcriptions", body)
            .await
            .error
            .expect("refused");
        assert_eq!(error.code, code);
    }
}
