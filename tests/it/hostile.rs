//! Producers and providers that mean ill.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use async_compression::tokio::bufread;
use async_nats::HeaderMap;
use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use forebay_schemas::Status;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{
    Account, Forebay, answer_text, chat, eventually_within, until, with_deadline_in_a_second,
};

/// A server that answers every request with the same bytes; and the requests.
async fn server(answer: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 64 * 1024];
            let read = socket.read(&mut request).await.unwrap_or_default();
            noted
                .lock()
                .push(String::from_utf8_lossy(&request[..read]).into_owned());
            // Whoever asked may have gone.
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (address, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_with_the_credential() {
    let (elsewhere, requests) = server(String::new()).await;
    for status in [
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let (address, asked) = server(format!(
            "HTTP/1.1 {status}\r\nlocation: {elsewhere}/v1/chat/completions\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ))
        .await;
        let forebay = Forebay::builder()
            .account(Account::at_url("one", &address))
            .pool("chat", "gpt-4o-mini", &["one"])
            .config("[call]\nattempts = 1\n")
            .start()
            .await;
        let job = with_deadline_in_a_second("led");
        forebay.publish("ai.jobs.chat", &job).await;
        let completion = forebay.completion("default", None, "led").await;
        assert_eq!(completion.status, Status::Expired, "{status}");
        assert_eq!(completion.attempts[0].outcome, "model_not_allowed");
        assert!(
            asked.lock()[0].contains("authorization: Bearer sk-one"),
            "{status}"
        );
    }
    assert_eq!(*requests.lock(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_with_a_large_body_counts_as_a_429() {
    let large = "x".repeat(20 << 20);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let answers = [
            format!(
                "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: {}\r\n\r\n{large}",
                large.len()
            ),
            "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"choices\":[{}]}".to_owned(),
        ];
        for answer in answers {
            let (mut socket, _) = listener.accept().await.expect("a call");
            let _ = socket.read(&mut vec![0; 64 * 1024]).await;
            // Whoever asked may have heard enough.
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    let forebay = Forebay::builder()
        .account(Account::at_url("one", &address))
        .pool("chat", "gpt-4o-mini", &["one"])
        .config("[call]\nattempts = 1\nmax_answer = \"16MiB\"\n")
        .start()
        .await;
    forebay
        .publish("ai.jobs.chat", &chat("refused", "hello"))
        .await;
    let completion = forebay.completion("default", None, "refused").await;
    let outcomes: Vec<_> = completion
        .attempts
        .iter()
        .map(|attempt| attempt.outcome.as_str())
        .collect();
    assert_eq!(
        (completion.status, outcomes.as_slice()),
        (Status::Succeeded, &["rate_limited", "succeeded"][..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_cannot_choose_the_address_of_its_call() {
    let (elsewhere, requests) = server(String::new()).await;
    let (forebay, provider) = Forebay::simple().await;
    let host = elsewhere.trim_start_matches("http://");
    let urls = [
        format!("{elsewhere}/v1/chat/completions"),
        format!("//{host}/v1/chat/completions"),
        format!("@{host}/v1/chat/completions"),
        format!(".{host}/v1/chat/completions"),
        "/v1/../admin".to_owned(),
        "/v1/chat/completions/../../models".to_owned(),
        "/v1/chat/completions?x=1 HTTP/1.1\r\nx: y".to_owned(),
    ];
    for (index, url) in urls.iter().enumerate() {
        let id = index.to_string();
        let mut job = chat(&id, "hello");
        (job["url"], job["base_url"], job["body"]["base_url"]) =
            (json!(url), json!(elsewhere), json!(elsewhere));
        forebay.publish("ai.jobs.chat", &job).await;
        let error = forebay
            .completion("default", None, &id)
            .await
            .error
            .unwrap_or_else(|| panic!("{url}"));
        assert_eq!(error.code, "unsupported", "{url}: {error:?}");
    }
    assert_eq!((requests.lock().len(), provider.calls().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_headers_cannot_inject_subjects_or_headers() {
    let (forebay, _provider) = Forebay::simple().await;
    let ids = [
        "a.b",
        "*",
        ">",
        "a b",
        "\r\nForebay-Revision: 9\r\n\r\nPUB x 1",
        "\u{0}",
        "é%2E",
        "$JS.API",
        "..",
        "%",
    ];
    for id in ids {
        let mut headers = HeaderMap::new();
        headers.insert(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
        headers.insert("Nats-Rollup", "sub");
        headers.insert("Nats-Expected-Stream", "AI_JOBS");
        let job = chat(id, "hello");
        let published = forebay.connection.context.publish_with_headers(
            "ai.jobs.chat",
            headers,
            job.to_string().into(),
        );
        // A rollup is refused by the stream; without it the job is one like any other.
        published.await.expect("sent").await.expect_err("a rollup");
        forebay.publish("ai.jobs.chat", &job).await;
        let names = &forebay.connection.names;
        let subject = names.completion("default", None, id);
        assert_eq!(subject.split('.').count(), 5, "{subject}");
        let message = forebay.message(names.completions_stream(), &subject).await;
        let completion: forebay_schemas::Completion =
            serde_json::from_slice(&message.payload).expect("one");
        assert_eq!(
            (completion.id.as_str(), answer_text(&completion).as_str()),
            (id, "You said: hello")
        );
        let names: Vec<_> = message
            .headers
            .iter()
            .flat_map(HeaderMap::iter)
            .map(|(name, _)| name.to_string())
            .collect();
        assert!(
            !names.iter().any(|name| name == "Forebay-Revision"),
            "{names:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_jobs_become_dead_letters_and_harm_no_other_job() {
    let (forebay, provider) = Forebay::simple().await;
    let bytes: [Vec<u8>; 5] = [
        b"{\"id\":\"\xff\xfe\",\"body\":{}}".to_vec(),
        vec![0; 1_000],
        b"".to_vec(),
        br#"{"body":{"#.to_vec(),
        br#"[{"body":{}}]"#.to_vec(),
    ];
    let count = bytes.len() as u64;
    for bytes in bytes {
        forebay
            .publish_bytes("ai.jobs.chat", bytes, HeaderMap::new())
            .await;
    }
    // What is deeper than a reader goes, and numbers that no type holds, the provider gets as they are.
    let deep = |open: &str, close: &str| {
        format!(
            r#"{{"body":{{"messages":{}1{}}}}}"#,
            open.repeat(100_000),
            close.repeat(100_000)
        )
    };
    for bytes in [deep("[", "]"), deep(r#"{"a":"#, "}")] {
        forebay
            .publish_bytes("ai.jobs.chat", bytes.into_bytes(), HeaderMap::new())
            .await;
    }
    let huge = format!(
        r#"{{"id":"huge","body":{{"messages":[{{"role":"user","content":"hello"}}],"seed":{},"x":1e999999}}}}"#,
        "9".repeat(10_000)
    );
    forebay
        .publish_bytes("ai.jobs.chat", huge.into_bytes(), HeaderMap::new())
        .await;
    forebay.completion("default", None, "huge").await;
    until("all letters", async || {
        forebay.count("AI_DEAD".to_owned()).await >= count + 3
    })
    .await;
    forebay
        .publish("ai.jobs.chat", &chat("after", "hello"))
        .await;
    assert_eq!(
        answer_text(&forebay.completion("default", None, "after").await),
        "You said: hello"
    );
    assert_eq!(
        provider.calls().len(),
        4,
        "two deep ones, one with numbers, one after"
    );
    forebay.drained().await;
}

/// Answers one call: whole, or its first part and then next to nothing.
async fn answer_or_drip(mut socket: tokio::net::TcpStream) {
    const SIZE: usize = 2 << 20;
    const ANSWER: &str = "{\"choices\":[{}],\"a\":\"";
    let mut request = vec![0; 64 * 1024];
    let read = socket.read(&mut request).await.unwrap_or_default();
    let drips = String::from_utf8_lossy(&request[..read]).contains("Bearer sk-slow");
    let head =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {SIZE}\r\n\r\n{ANSWER}");
    let rest = "x".repeat(SIZE - ANSWER.len() - 2) + "\"}";
    let at_once = if drips { SIZE * 3 / 4 } else { rest.len() };
    let mut sent = socket
        .write_all(head.as_bytes())
        .await
        .and(socket.write_all(&rest.as_bytes()[..at_once]).await);
    for byte in &rest.as_bytes()[at_once..] {
        if sent.is_err() {
            return;
        }
        // A byte a second is the slowness that is tested.
        tokio::time::sleep(Duration::from_secs(1)).await;
        sent = socket.write_all(&[*byte]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_large_answers_do_not_hold_up_other_accounts_and_are_given_up() {
    // More than may be here at once.
    const SLOW: usize = 6;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer_or_drip(socket));
        }
    });
    let forebay = Forebay::builder()
        .account(Account::at_url("slow", &address))
        .account(Account::at_url("fast", &address))
        .pool("slow", "gpt-4o-mini", &["slow"])
        .pool("fast", "gpt-4o-mini", &["fast"])
        .config("[call]\nattempts = 1\n")
        .start()
        .await;
    for index in 0..SLOW {
        forebay
            .publish("ai.jobs.slow", &chat(&format!("slow-{index}"), "hello"))
            .await;
    }
    for index in 0..SLOW {
        let id = format!("fast-{index}");
        forebay.publish("ai.jobs.fast", &chat(&id, "hello")).await;
        assert_eq!(
            forebay.completion("default", None, &id).await.status,
            Status::Succeeded
        );
    }
    assert_eq!(
        forebay.count("AI_COMPLETIONS".to_owned()).await,
        SLOW as u64,
        "none of the slow ones yet"
    );
    let another = async || {
        let completions = forebay.count("AI_COMPLETIONS".to_owned()).await;
        (completions > SLOW as u64).then_some(())
    };
    eventually_within(Duration::from_secs(60), "a slow one to give up", another).await;
    forebay.stop_within(Duration::ZERO).await;
}

/// A coding of bodies, with the function that brings a body into it.
type Coding = (
    &'static str,
    fn(Vec<u8>) -> Box<dyn AsyncRead + Send + Unpin>,
);

const CODINGS: [Coding; 4] = [
    ("gzip", |body| {
        Box::new(bufread::GzipEncoder::new(Cursor::new(body)))
    }),
    ("deflate", |body| {
        Box::new(bufread::ZlibEncoder::new(Cursor::new(body)))
    }),
    ("br", |body| {
        Box::new(bufread::BrotliEncoder::new(Cursor::new(body)))
    }),
    ("zstd", |body| {
        Box::new(bufread::ZstdEncoder::new(Cursor::new(body)))
    }),
];

/// Answers each request with a small answer, or with one of many MiB where it asks for a `bomb`, in the coding.
async fn compressed(coding: Coding, request: String) -> Response {
    let (name, encoder) = coding;
    let text = match request.contains("bomb") {
        true => "0".repeat(64 << 20),
        false => "small".to_owned(),
    };
    let message = json!({ "role": "assistant", "content": text });
    let body = json!({ "choices": [{ "index": 0, "finish_reason": "stop", "message": message }] });
    let mut encoded = Vec::new();
    let mut encoder = encoder(body.to_string().into_bytes());
    let read = encoder.read_to_end(&mut encoded).await;
    read.expect("encoded");
    ([("content-encoding", name)], encoded).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_is_read_and_one_that_swells_is_given_up() {
    for coding in CODINGS {
        let answer = async move |request: String| compressed(coding, request).await;
        let router = Router::new().route("/v1/chat/completions", post(answer));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}/v1", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let forebay = Forebay::builder()
            .account(Account::at_url("one", &address))
            .pool("chat", "gpt-4o-mini", &["one"])
            .config("[call]\nmax_answer = \"1MiB\"\n")
            .start()
            .await;
        forebay
            .publish("ai.jobs.chat", &chat("small", "hello"))
            .await;
        let small = forebay.completion("default", None, "small").await;
        assert_eq!(answer_text(&small), "small", "{}", coding.0);
        forebay
            .publish("ai.jobs.chat", &chat("large", "bomb"))
            .await;
        let large = forebay.completion("default", None, "large").await;
        let error = large.error.expect("a reason");
        assert_eq!(error.code, "answer_too_large", "{}", coding.0);
    }
}
