//! Every dialect against the simulated provider that speaks it: answers in one shape, and every error of every
//! provider taken for what it is.

use forebay_schemas::{Class, Completion, Status};
use forebay_simulator::{VendorFailure, failures};
use forebay_workers::clock::{Clock, SystemClock};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::support::{Account, Forebay, provider};

/// What is asked of each: the simulated provider's name of it, ours, its path under the address, and more of its
/// account.
const SPOKEN: [(&str, &str, &str, &str); 13] = [
    ("openai", "openai", "/v1", ""),
    ("openai", "openai-responses", "/v1", ""),
    ("azure", "azure", "/openai/v1", ""),
    ("azure", "azure", "", "api_version = \"2024-10-21\"\n"),
    ("anthropic", "anthropic", "", ""),
    (
        "anthropic",
        "anthropic",
        "",
        "api_version = \"2026-10-21\"\n",
    ),
    ("gemini", "gemini", "/v1beta", ""),
    ("mistral", "mistral", "/v1", ""),
    ("cohere", "cohere", "", ""),
    ("bedrock", "bedrock", "", ""),
    ("ollama", "ollama", "", ""),
    ("groq", "groq", "/openai/v1", ""),
    ("deepseek", "deepseek", "", ""),
];

struct Speaker {
    forebay: Forebay,
    _simulated: forebay_simulator::Provider,
}

/// A Forebay whose pool `chat` is served by one account of a simulated provider, with this model.
async fn speaker((simulated, name, path, more): (&str, &str, &str, &str), model: &str) -> Speaker {
    let account = match simulated {
        "ollama" => "provider=ollama,name=one".to_owned(),
        _ => format!("provider={simulated},name=one,key=sk-a-key-of-some-length"),
    };
    let simulated = provider(&[&account], "").await;
    let account = Account::at("one", &simulated)
        .provider(name, path)
        .keys(&["sk-a-key-of-some-length"]);
    let forebay = Forebay::builder()
        .account(account)
        .pool("chat", model, &["one"])
        .config(&format!("[account.one]\n{more}"))
        .config("[call]\nattempts = 1\n");
    Speaker {
        forebay: forebay.start().await,
        _simulated: simulated,
    }
}

impl Speaker {
    async fn ask(&self, id: &str, url: &str, body: Value) -> Completion {
        self.forebay
            .publish(
                "ai.jobs.chat",
                &json!({ "id": id, "url": url, "body": body }),
            )
            .await;
        self.forebay.completion("default", None, id).await
    }

    async fn chat(&self, id: &str, body: Value) -> Value {
        let completion = self.ask(id, "/v1/chat/completions", body).await;
        assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
        let body = completion.response.expect("an answer").body;
        serde_json::from_str(body.get()).expect("JSON")
    }
}

const MODEL: &str = "a-model";

fn question(text: &str) -> Value {
    json!({ "messages": [{ "role": "system", "content": "Be short." }, { "role": "user", "content": text }] })
}

fn tools() -> Value {
    json!([{ "type": "function", "function": { "name": "weather", "description": "The weather of a place.",
        "parameters": { "type": "object", "properties": { "place": { "type": "string" } }, "required": ["place"] } } }])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dialect_answers_a_chat_in_one_shape() {
    for spoken in SPOKEN {
        let speaker = speaker(spoken, MODEL).await;
        let answer = speaker.chat("plain", question("hello")).await;
        assert_eq!(answer["object"], "chat.completion", "{spoken:?}: {answer}");
        assert_eq!(
            answer["choices"][0]["message"]["content"], "You said: hello",
            "{spoken:?}: {answer}"
        );
        assert_eq!(
            answer["choices"][0]["finish_reason"], "stop",
            "{spoken:?}: {answer}"
        );
        assert!(
            answer["usage"]["total_tokens"].as_u64() > Some(0),
            "{spoken:?}: {answer}"
        );
    }
}

/// Providers whose refusals are text like any other.
const UNSIGNED: [&str; 3] = ["mistral", "cohere", "ollama"];

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_fails_the_job_where_the_provider_marks_refusals() {
    for spoken in SPOKEN {
        let speaker = speaker(spoken, MODEL).await;
        let completion = speaker
            .ask("refused", "/v1/chat/completions", question("refuse this"))
            .await;
        let class = completion.error.as_ref().map(|error| error.class);
        let expected = (!UNSIGNED.contains(&spoken.1)).then_some(Class::ContentFiltered);
        assert_eq!(class, expected, "{spoken:?}: {completion:?}");
        assert!(
            completion.response.is_some(),
            "{spoken:?}: the answer is told: {completion:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dialect_calls_tools_and_takes_their_results() {
    for spoken in SPOKEN {
        let speaker = speaker(spoken, MODEL).await;
        let mut body = question("call weather");
        body["tools"] = tools();
        let answer = speaker.chat("call", body.clone()).await;
        let choice = &answer["choices"][0];
        assert_eq!(
            choice["finish_reason"], "tool_calls",
            "{spoken:?}: {answer}"
        );
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!(call["function"]["name"], "weather", "{spoken:?}: {answer}");
        let arguments = call["function"]["arguments"]
            .as_str()
            .expect("arguments as text");
        let arguments: Value = serde_json::from_str(arguments).expect("JSON");
        assert!(arguments["place"].is_string(), "{spoken:?}: {answer}");
        let messages = body["messages"].as_array_mut().expect("messages");
        messages.push(choice["message"].clone());
        messages.push(
            json!({ "role": "tool", "tool_call_id": call["id"], "content": "{\"sky\":\"blue\"}" }),
        );
        let answer = speaker.chat("result", body).await;
        let said = answer["choices"][0]["message"]["content"]
            .as_str()
            .expect("text");
        assert!(said.contains("blue"), "{spoken:?}: {answer}");
    }
}

/// Providers whose thoughts are signed, and the fields that ask for thought.
const SIGNED: [usize; 4] = [1, 4, 6, 9];

#[tokio::test(flavor = "multi_thread")]
async fn reasoning_signatures_go_back_to_the_provider_that_made_them() {
    for spoken in SIGNED.map(|index| SPOKEN[index]) {
        let speaker = speaker(spoken, "a-claude-model").await;
        let mut body = question("think about it");
        body["reasoning_effort"] = "low".into();
        body["max_completion_tokens"] = 4_000.into();
        let answer = speaker.chat("thought", body.clone()).await;
        let message = &answer["choices"][0]["message"];
        assert!(
            message["reasoning_details"][0]["data"].is_object()
                || message["reasoning_details"][0]["data"].is_string(),
            "{spoken:?}: {answer}"
        );
        let messages = body["messages"].as_array_mut().expect("messages");
        messages.push(message.clone());
        messages.push(json!({ "role": "user", "content": "and then?" }));
        let answer = speaker.chat("again", body.clone()).await;
        assert_eq!(
            answer["choices"][0]["message"]["content"], "You said: and then?",
            "{spoken:?}: {answer}"
        );
        // What was changed on the way is refused there, which shows that it was sent at all.
        change_signatures(&mut body["messages"][2]["reasoning_details"][0]["data"]);
        let completion = speaker.ask("spoiled", "/v1/chat/completions", body).await;
        assert_eq!(
            completion.error.expect("refused").class,
            Class::BadRequest,
            "{spoken:?}"
        );
    }
}

/// Changes every signature in a value.
fn change_signatures(value: &mut Value) {
    match value {
        Value::String(text) => text.insert(0, 'A'),
        Value::Object(map) => {
            for (name, value) in map {
                if [
                    "signature",
                    "encrypted_content",
                    "reasoningContent",
                    "reasoningText",
                ]
                .contains(&name.as_str())
                {
                    change_signatures(value);
                }
            }
        }
        _ => {}
    }
}

/// How long a job waits that is refused for now; its attempts tell what the refusal was taken for.
const REFUSAL_WINDOW: SignedDuration = SignedDuration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn every_error_of_every_provider_gets_the_right_class() {
    let spoken = SPOKEN.into_iter().filter(|spoken| spoken.3.is_empty());
    let tried = futures::future::join_all(spoken.map(misread_failures)).await;
    let all: usize = tried.iter().map(|(all, _)| all).sum();
    let mistaken: Vec<_> = tried
        .into_iter()
        .flat_map(|(_, mistaken)| mistaken)
        .collect();
    assert!(mistaken.is_empty(), "{mistaken:#?}");
    assert!(all > 150, "{all}");
}

/// How many failures a provider has, and which of them are taken for something else.
async fn misread_failures(spoken: (&'static str, &str, &str, &str)) -> (usize, Vec<String>) {
    let is_responses = spoken.1 == "openai-responses";
    let failures = failures()
        .into_iter()
        .filter(|failure| failure.provider == spoken.0);
    let cases: Vec<_> = failures
        .filter(|failure| is_responses || failure.task == "chat")
        .collect();
    assert!(cases.len() > 5, "{spoken:?}");
    let (forebay, _simulated) = forebay_for_failures(spoken, &cases).await;
    for failure in &cases {
        let deadline = SystemClock.now() + REFUSAL_WINDOW;
        let said = "a prompt that is longer than a name is";
        let body = json!({ "messages": [{ "role": "user", "content": said }] });
        let job = json!({ "id": failure.case, "deadline": deadline, "body": body });
        forebay
            .publish(&format!("ai.jobs.{}", failure.case), &job)
            .await;
    }
    let mut mistaken = Vec::new();
    for failure in &cases {
        let completion = forebay.completion("default", None, failure.case).await;
        let outcome = completion
            .attempts
            .first()
            .map(|attempt| attempt.outcome.as_str());
        if outcome != Some(failure.class) {
            mistaken.push(format!(
                "{} {} was taken for {outcome:?}",
                spoken.1, failure.case
            ));
        }
        let text = serde_json::to_string(&completion).expect("JSON");
        for secret in ["sk-a-ke", "longer than a name", "org-", "org_"] {
            assert!(
                !text.contains(secret),
                "{} {}: {text}",
                spoken.1,
                failure.case
            );
        }
    }
    (cases.len(), mistaken)
}

/// A Forebay with an account and a pool for each failure, since some stop a whole account.
async fn forebay_for_failures(
    (simulated, name, path, _): (&str, &str, &str, &str),
    cases: &[VendorFailure],
) -> (Forebay, forebay_simulator::Provider) {
    let key = |case: &str| format!("sk-a-key-of-{case}");
    let accounts: Vec<_> = match simulated {
        "ollama" => vec!["provider=ollama,name=one".to_owned()],
        _ => {
            let account = |failure: &VendorFailure| {
                format!(
                    "provider={simulated},name=org-{0},key={1}",
                    failure.case,
                    key(failure.case)
                )
            };
            cases.iter().map(account).collect()
        }
    };
    let accounts: Vec<_> = accounts.iter().map(String::as_str).collect();
    let simulated = provider(&accounts, "").await;
    let mut builder = Forebay::builder().config("[call]\nattempts = 1\n");
    for VendorFailure { case, .. } in cases {
        let account = Account::at(case, &simulated)
            .provider(name, path)
            .keys(&[&key(case)]);
        builder = builder
            .account(account)
            .pool(case, &format!("fail-{case}"), &[case]);
    }
    (builder.start().await, simulated)
}
