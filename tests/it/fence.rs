//! No request leaves after the fence has closed, whenever the process is stopped.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay_providers::Request;
use forebay_workers::clock::SystemClock;
use forebay_workers::fence::CallFence;
use forebay_workers::upstream::http::{Config, HttpUpstream};
use forebay_workers::upstream::{Error, Upstream};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{install_crypto, soon, until};

/// How long a lease of the stopped process is valid.
const VALIDITY: Duration = Duration::from_millis(60);
/// How long the process is stopped.
const STOP: Duration = Duration::from_millis(250);
/// How long no byte comes from a stopped process until its connections count as empty.
const QUIET: Duration = Duration::from_millis(50);
/// The calls that the stopped process makes at once.
const CALLS_AT_ONCE: usize = 32;
/// How often each of them begins: 32 in 8 ms are 4,000 calls a second.
const CALL_PERIOD: Duration = Duration::from_millis(8);
/// The variables by which the stopped process gets the addresses of the provider and of the giver of leases.
const PROVIDER: &str = "FENCE_TEST_PROVIDER";
const LEASES: &str = "FENCE_TEST_LEASES";

fn upstream() -> HttpUpstream {
    install_crypto();
    let config = Config {
        timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(5),
        max_answer: 1 << 20,
    };
    HttpUpstream::new(config).expect("a client")
}

fn request(address: &str, body: impl Into<bytes::Bytes>) -> Request {
    Request {
        method: http::Method::POST,
        url: format!("http://{address}/").parse().expect("an address"),
        headers: http::HeaderMap::new(),
        body: body.into(),
        account: "one".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_fence_cuts_off_is_never_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let clock = Arc::new(SystemClock);
    let fence = CallFence::unlimited(clock);
    let body = vec![b'x'; 16 << 20];
    let request = request(&address, body.clone());
    let of_call = Arc::clone(&fence);
    let call = tokio::spawn(async move { upstream().send(request, of_call, |_| {}).await });
    let (mut connection, _) = soon("a connection", listener.accept()).await.expect("one");
    let mut head = [0; 1024];
    let read = soon("the head", connection.read(&mut head)).await;
    assert!(read.expect("bytes") > 0);
    fence.close();
    let mut rest = Vec::new();
    let read = soon("the end", connection.read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.len() < body.len(), "{}", rest.len());
    let error = soon("an outcome", call).await.expect("it ran").err();
    assert!(matches!(error, Some(Error::FenceClosed)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_fence_lets_no_request_begin() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let fence = CallFence::closed(Arc::new(SystemClock));
    let request = request(&address, "{}");
    let sent = Arc::new(AtomicBool::new(false));
    let of_call = Arc::clone(&sent);
    let note = move |_| of_call.store(true, Ordering::Relaxed);
    let call = tokio::spawn(async move { upstream().send(request, fence, note).await });
    let (mut connection, _) = soon("a connection", listener.accept()).await.expect("one");
    let mut received = Vec::new();
    let _ = soon("the end", connection.read_to_end(&mut received)).await;
    assert_eq!(received, b"");
    let error = soon("an outcome", call).await.expect("it ran").err();
    assert!(matches!(error, Some(Error::FenceClosed)), "{error:?}");
    assert!(!sent.load(Ordering::Relaxed));
}

/// What the provider and the giver of leases see of the stopped process.
#[derive(Default)]
struct Watched {
    /// The number of requests that came.
    calls: AtomicU64,
    /// True while no lease is given.
    refuses: AtomicBool,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a time")
}

/// Answers each request of a connection.
async fn answer(mut connection: TcpStream, watched: Arc<Watched>) {
    let mut received = vec![0; 4096];
    while connection
        .read(&mut received)
        .await
        .is_ok_and(|read| read > 0)
    {
        watched.calls.fetch_add(1, Ordering::Relaxed);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        if connection.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Gives leases over a connection: a line with the time of sending comes, and one with the end of the lease, or `0`, goes.
async fn give_leases(connection: TcpStream, watched: Arc<Watched>) {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    while connection
        .read_line(&mut line)
        .await
        .is_ok_and(|read| read > 0)
    {
        let sent: u64 = line.trim().parse().expect("a time");
        let end = match watched.refuses.load(Ordering::Acquire) {
            true => 0,
            false => sent + nanos(VALIDITY),
        };
        let given = format!("{end}\n");
        if connection.write_all(given.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}

/// What the stopped process does: it calls as fast as its fence lets it, and renews its lease.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that the test below starts and stops"]
async fn calls_while_its_fence_is_open() {
    let [provider, leases] = [PROVIDER, LEASES].map(|name| std::env::var(name).expect("set"));
    let fence = CallFence::closed(Arc::new(SystemClock));
    let upstream = Arc::new(upstream());
    for _ in 0..CALLS_AT_ONCE {
        let (upstream, fence) = (Arc::clone(&upstream), Arc::clone(&fence));
        let request = move |provider: &str| request(provider, r#"{"model":"m"}"#);
        let provider = provider.clone();
        tokio::spawn(async move {
            let mut due = tokio::time::interval(CALL_PERIOD);
            loop {
                due.tick().await;
                let call = upstream.send(request(&provider), Arc::clone(&fence), |_| {});
                // A call that the fence refuses is what is tested.
                drop(call.await);
            }
        });
    }
    let mut leases = BufReader::new(TcpStream::connect(leases).await.expect("connected"));
    let mut line = String::new();
    loop {
        let sent = format!("{}\n", nanos(fence.now()));
        leases.write_all(sent.as_bytes()).await.expect("sent");
        leases.read_line(&mut line).await.expect("a lease");
        match line.trim().parse().expect("a time") {
            0 => fence.close(),
            end => fence.extend(Duration::from_nanos(end)),
        }
        line.clear();
        tokio::time::sleep(VALIDITY / 6).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::print_stderr,
    reason = "the figures of this experiment, with `STOPS=60`"
)]
async fn a_process_that_was_stopped_calls_nothing_after_its_lease() {
    let stops: u32 = std::env::var("STOPS").map_or(6, |stops| stops.parse().expect("a number"));
    let watched = Arc::<Watched>::default();
    let [provider, leases] = [
        TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        TcpListener::bind("127.0.0.1:0").await.expect("a port"),
    ];
    let mut command = tokio::process::Command::new(std::env::current_exe().expect("a program"));
    command
        .args([
            "--ignored",
            "--exact",
            "fence::calls_while_its_fence_is_open",
        ])
        .env(PROVIDER, provider.local_addr().expect("bound").to_string())
        .env(LEASES, leases.local_addr().expect("bound").to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let child = command.spawn().expect("it starts");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid = pid.expect("a process");
    let of_provider = Arc::clone(&watched);
    tokio::spawn(async move {
        while let Ok((connection, _)) = provider.accept().await {
            tokio::spawn(answer(connection, Arc::clone(&of_provider)));
        }
    });
    let of_leases = Arc::clone(&watched);
    tokio::spawn(async move {
        let (connection, _) = leases.accept().await.expect("a connection");
        give_leases(connection, of_leases).await;
    });
    let (mut late, mut calls, mut calling) = (0, 0, Duration::ZERO);
    for _ in 0..stops {
        let began = tokio::time::Instant::now();
        let before = watched.calls.load(Ordering::Relaxed);
        until("calls", async || {
            watched.calls.load(Ordering::Relaxed) > before + 400
        })
        .await;
        kill_process(pid, Signal::STOP).expect("stopped");
        calling += began.elapsed();
        calls += watched.calls.load(Ordering::Relaxed) - before;
        watched.refuses.store(true, Ordering::Release);
        let sent = calls_in_the_end(&watched, STOP).await;
        kill_process(pid, Signal::CONT).expect("continued");
        late += calls_in_the_end(&watched, STOP / 2).await - sent;
        watched.refuses.store(false, Ordering::Release);
    }
    let rate = calls as f64 / calling.as_secs_f64();
    eprintln!("{stops} stops of {rate:.0} calls a second: {late} late first bytes");
    // A stop can hit each thread between its check and its write. Without the check, all calls that were due would be late.
    assert!(late <= u64::from(stops), "{late} late first bytes");
}

/// Returns the number of calls after `time`, and after no more of them come.
async fn calls_in_the_end(watched: &Watched, time: Duration) -> u64 {
    // The stop is what is tested, so there is no signal to wait for.
    tokio::time::sleep(time).await;
    loop {
        let calls = watched.calls.load(Ordering::Relaxed);
        tokio::time::sleep(QUIET).await;
        if watched.calls.load(Ordering::Relaxed) == calls {
            return calls;
        }
    }
}
