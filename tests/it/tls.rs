//! TLS to NATS and to the provider, both with the one crypto provider that `main` installs.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::program::{Output, command, finish};
use crate::support::{Account, Forebay, eventually, install_crypto, provider};

/// A certificate authority in `ca.pem`, and a certificate of its for localhost.
fn certificate(dir: &Path) -> (rcgen::Certificate, KeyPair) {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let authority_certificate = authority.self_signed(&authority_key).expect("signed");
    std::fs::write(dir.join("ca.pem"), authority_certificate.pem()).expect("written");
    let issuer = Issuer::new(authority, authority_key);
    let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
        .expect("parameters");
    let key = KeyPair::generate().expect("a key");
    (server.signed_by(&key, &issuer).expect("signed"), key)
}

async fn run_one(dir: &Path, trusted: bool) -> Output {
    let line =
        r#"{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":"hello"}]}}"#;
    std::fs::write(dir.join("in.jsonl"), line).expect("written");
    let mut command = command(dir, &["run", "in.jsonl", "--output", "out.jsonl"]);
    if trusted {
        command.env("SSL_CERT_FILE", dir.join("ca.pem"));
    }
    finish(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_called_over_tls() {
    install_crypto();
    let dir = tempfile::tempdir().expect("a directory");
    let (certificate, key) = certificate(dir.path());
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let server = ServerConfig::builder().with_no_client_auth();
    let server = server
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut request = vec![0; 64 * 1024];
                let _ = stream.read(&mut request).await;
                let body = r#"{"id":"over-tls","choices":[{}]}"#;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let url = format!("https://localhost:{port}/v1");
    let dir = Forebay::builder()
        .account(Account::at_url("one", &url))
        .pool("m", "m", &["one"])
        .in_dir(dir)
        .write();
    let output = run_one(dir.path(), true).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let answer = std::fs::read_to_string(dir.path().join("out.jsonl")).expect("there");
    assert!(answer.contains("over-tls"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_reached_over_tls_and_only_if_its_certificate_is_trusted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (certificate, key) = certificate(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("server.pem"), certificate.pem()).expect("written");
    std::fs::write(path("server.key"), key.serialize_pem()).expect("written");
    let config = format!(
        "host: \"127.0.0.1\"\nport: -1\nports_file_dir: {:?}\njetstream {{ store_dir: {:?} }}\ntls {{ cert_file: {:?}, key_file: {:?} }}\n",
        path(""),
        path("store"),
        path("server.pem"),
        path("server.key")
    );
    std::fs::write(path("nats.conf"), config).expect("written");
    let mut server = tokio::process::Command::new(forebay::nats::server::find().expect("a server"));
    let server = server
        .arg("--config")
        .arg(path("nats.conf"))
        .stderr(std::process::Stdio::null());
    let server = server.kill_on_drop(true).spawn().expect("it starts");
    let ports = dir.path().join(format!(
        "nats-server_{}.ports",
        server.id().expect("it runs")
    ));
    let port = eventually("the server's port", async || {
        let text = std::fs::read_to_string(&ports).ok()?;
        let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
        let first = ports
            .pointer("/nats/0")
            .or_else(|| ports.pointer("/tls/0"))?;
        first.as_str()?.rsplit_once(':')?.1.parse::<u16>().ok()
    })
    .await;

    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::builder()
        .account(Account::at("one", &provider))
        .pool("m", "m", &["one"])
        .nats(&format!("tls://localhost:{port}"))
        .in_dir(dir)
        .write();
    let distrusted = run_one(dir.path(), false).await;
    assert_eq!(distrusted.code, Some(3), "{distrusted:?}");
    let output = run_one(dir.path(), true).await;
    assert_eq!(output.code, Some(0), "{output:?}");
}
