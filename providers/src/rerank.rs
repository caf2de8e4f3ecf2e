//! The unified rerank request, for dialects that check it.

use forebay_schemas::job::Object;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::chat::whole;
use crate::unsupported::Unsupported;

/// A request to order documents by their relevance to a query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rerank {
    pub(super) query: String,
    pub(super) documents: Vec<String>,
    pub(super) top_n: Option<u64>,
}

impl Rerank {
    /// Reads the request from a job's body.
    pub(super) fn read(body: &Object) -> Result<Self, Unsupported> {
        let mut known = Map::new();
        for (name, raw) in body.iter().filter(|(name, _)| *name != "model") {
            let value: Value = serde_json::from_str(raw.get())
                .map_err(|error| Unsupported::invalid(format!("body.{name}"), error.to_string()))?;
            known.insert(name.clone(), whole(name, value));
        }
        serde_path_to_error::deserialize(Value::Object(known)).map_err(|error| unreadable(&error))
    }
}

fn unreadable(error: &serde_path_to_error::Error<serde_json::Error>) -> Unsupported {
    let field = format!("body.{}", error.path());
    Unsupported::unreadable(field, error.inner())
}
