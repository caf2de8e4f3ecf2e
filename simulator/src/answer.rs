//! An answer before it is sent, and the values that answers of all dialects are made of.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use forebay_schemas::subjects::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::field::text_field;

/// The creation time of every answer, in Unix seconds; it is the same in every run.
pub(super) const CREATED: u64 = 1_767_225_600;
/// The dimensions of an embedding, unless the request sets another number.
pub(super) const DIMENSIONS: u64 = 8;
/// The most dimensions of an embedding.
pub(super) const MOST_DIMENSIONS: u64 = 4_096;

/// An answer before it is sent.
#[derive(Debug)]
pub(super) struct VendorAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// The tokens of the prompt and of the answer, for limits that count them after the answer. `None` if they are
    /// not counted.
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

    /// Returns the HTTP response. The answer's own headers replace those of `limits`.
    pub(super) fn response(self, limits: HeaderMap) -> Response<Body> {
        let mut headers = limits;
        headers.extend(self.headers);
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

/// Estimates the tokens of a prompt from the length of the request.
pub(super) fn prompt_tokens(body: &[u8]) -> u64 {
    body.len() as u64 / 4
}

/// Returns a hash in hex that distinguishes one request from another.
pub(super) fn digest(body: &[u8]) -> String {
    hex(&Sha256::digest(body)[..12])
}

/// Returns an embedding that only this text has.
pub(super) fn vector(text: &str, dimensions: u64) -> Vec<f64> {
    let number = |index: u64| {
        let digest = Sha256::digest(format!("{index}:{text}"));
        f64::from(i16::from_be_bytes([digest[0], digest[1]])) / 32_768.0
    };
    (0..dimensions).map(number).collect()
}

/// Returns how well a document answers a query, from 0.05 to 0.95, by the share of the query's words in it.
pub(super) fn relevance(query: &str, document: &str) -> f64 {
    let words: Vec<_> = query.split_whitespace().map(str::to_lowercase).collect();
    let document = document.to_lowercase();
    let found = words.iter().filter(|word| document.contains(*word));
    let found = found.count();
    #[expect(clippy::cast_precision_loss, reason = "a count of words")]
    let share = found as f64 / words.len().max(1) as f64;
    0.05 + share * 0.9
}

/// Ranks documents by relevance, best first: each document's place in the request and its score.
pub(super) fn ranking(query: &str, documents: &[String], most: Option<u64>) -> Vec<(usize, f64)> {
    let scores = documents.iter().map(|document| relevance(query, document));
    let mut ranks: Vec<_> = scores.enumerate().collect();
    ranks.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let most = most.and_then(|most| usize::try_from(most).ok());
    ranks.truncate(most.unwrap_or(usize::MAX));
    ranks
}

/// Returns the documents of a request, which are texts or objects with a text.
pub(super) fn documents(request: &Value) -> Option<Vec<String>> {
    let text = |document: &Value| {
        let text = document.as_str().or_else(|| text_field(document, "text"));
        text.map(str::to_owned)
    };
    let documents = request.get("documents")?.as_array()?;
    documents.iter().map(text).collect()
}
