//! An answer before it is sent, and what all of them are made of.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use forebay_schemas::subjects::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The creation time of every answer, in Unix seconds: the same in every run.
pub(super) const CREATED: u64 = 1_767_225_600;
/// Numbers in a vector, unless the request says otherwise.
pub(super) const DIMENSIONS: u64 = 8;

/// An answer.
#[derive(Debug)]
pub(super) struct VendorAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// The tokens that it was made from and that it consists of, for limits that learn of them late.
    pub(super) spent: Option<(u64, u64)>,
}

impl VendorAnswer {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::raw(status, "application/json", body.to_string().into_bytes())
    }

    pub(super) fn raw(status: u16, content_type: &str, body: Vec<u8>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            headers: HeaderMap::new(),
            body,
            spent: None,
        }
        .with("content-type", content_type)
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    pub(super) fn spending(mut self, input: u64, output: u64) -> Self {
        self.spent = Some((input, output));
        self
    }

    /// What goes out: what it says itself is stronger than what `limits` tell.
    pub(super) fn response(self, limits: HeaderMap) -> Response<Body> {
        let mut headers = limits;
        headers.extend(self.headers);
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

/// The tokens of a prompt, estimated from its length.
pub(super) fn prompt_tokens(body: &[u8]) -> u64 {
    body.len() as u64 / 4
}

/// What tells one request from another.
pub(super) fn digest(body: &[u8]) -> String {
    hex(&Sha256::digest(body)[..12])
}

/// A vector that only this text has.
pub(super) fn vector(text: &str, dimensions: u64) -> Vec<f64> {
    let number = |index: u64| {
        let digest = Sha256::digest(format!("{index}:{text}"));
        f64::from(i16::from_be_bytes([digest[0], digest[1]])) / 32_768.0
    };
    (0..dimensions).map(number).collect()
}

/// How well a document answers a query: the share of the query's words that are in it, below 1.
pub(super) fn relevance(query: &str, document: &str) -> f64 {
    let words: Vec<_> = query.split_whitespace().map(str::to_lowercase).collect();
    let document = document.to_lowercase();
    let found = words
        .iter()
        .filter(|word| document.contains(word.as_str()))
        .count();
    #[expect(clippy::cast_precision_loss, reason = "a count of words")]
    let share = found as f64 / words.len().max(1) as f64;
    0.05 + share * 0.9
}

/// Documents by their relevance, best first: each one's place in the request and its score.
pub(super) fn ranking(query: &str, documents: &[String], most: Option<u64>) -> Vec<(usize, f64)> {
    let mut ranks: Vec<_> = documents
        .iter()
        .map(|document| relevance(query, document))
        .enumerate()
        .collect();
    ranks.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    ranks.truncate(
        most.and_then(|most| usize::try_from(most).ok())
            .unwrap_or(usize::MAX),
    );
    ranks
}

/// Documents as they are sent: texts, or objects with one.
pub(super) fn documents(request: &Value) -> Option<Vec<String>> {
    let text = |document: &Value| {
        document
            .as_str()
            .or_else(|| document.get("text")?.as_str())
            .map(str::to_owned)
    };
    request
        .get("documents")?
        .as_array()?
        .iter()
        .map(text)
        .collect()
}
