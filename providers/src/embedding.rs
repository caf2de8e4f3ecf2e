//! The unified embeddings request and answer, which are OpenAI's, for dialects that encode them
//! differently.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use forebay_schemas::Usage;
use forebay_schemas::job::Object;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::adapter::{AdapterAnswer, AnswerKind};
use crate::chat::whole;
use crate::unsupported::Unsupported;

/// The fields that no dialect copies: `model`, which is the target's, and `user`, which names the
/// end user.
const HINTS: [&str; 2] = ["model", "user"];

/// The purposes of vectors that a request can name.
const INPUT_TYPES: [&str; 4] = [
    "search_document",
    "search_query",
    "classification",
    "clustering",
];

/// A request for the vectors of texts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmbeddingRequest {
    pub(super) input: EmbeddingInput,
    pub(super) dimensions: Option<u64>,
    #[serde(default)]
    encoding_format: VectorEncoding,
    /// The purpose of the vectors in Cohere's words, one of [`INPUT_TYPES`]. OpenAI has no such
    /// field.
    pub(super) input_type: Option<String>,
}

/// One text or several.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a text or a list of texts; token ids are OpenAI's alone"
)]
pub(super) enum EmbeddingInput {
    One(String),
    Many(Vec<String>),
}

/// Returns the usage of a call with prompt tokens alone, such as one for embeddings.
pub(super) fn usage_of_prompt(input_tokens: u64) -> Usage {
    Usage {
        input_tokens,
        ..Usage::default()
    }
}

/// The encoding of vectors in an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum VectorEncoding {
    #[default]
    Float,
    Base64,
}

impl EmbeddingRequest {
    /// Reads the request from a job's body.
    pub(super) fn read(body: &Object) -> Result<Self, Unsupported> {
        let mut known = Map::new();
        for (name, raw) in body {
            if HINTS.contains(&name.as_str()) {
                continue;
            }
            let value: Value = serde_json::from_str(raw.get())
                .map_err(|error| Unsupported::invalid(format!("body.{name}"), error.to_string()))?;
            if !value.is_null() {
                known.insert(name.clone(), whole(name, value));
            }
        }
        let mut track = serde_path_to_error::Track::new();
        let from = serde_path_to_error::Deserializer::new(Value::Object(known), &mut track);
        let embedding = Self::deserialize(from)
            .map_err(|error| Unsupported::unreadable(format!("body.{}", track.path()), &error))?;
        embedding.check()?;
        Ok(embedding)
    }

    fn check(&self) -> Result<(), Unsupported> {
        if self.texts().is_empty() {
            return Err(Unsupported::invalid("body.input", "is empty"));
        }
        match self.input_type.as_deref() {
            Some(given) if !INPUT_TYPES.contains(&given) => {
                let known = INPUT_TYPES.join(", ");
                let problem = format!("is not known, use one of {known}");
                Err(Unsupported::invalid("body.input_type", problem))
            }
            _ => Ok(()),
        }
    }

    /// Returns the texts to embed.
    pub(super) fn texts(&self) -> &[String] {
        match &self.input {
            EmbeddingInput::One(text) => std::slice::from_ref(text),
            EmbeddingInput::Many(texts) => texts,
        }
    }

    /// Returns OpenAI's name of the encoding of vectors.
    pub(super) fn encoding(&self) -> &'static str {
        match self.encoding_format {
            VectorEncoding::Float => "float",
            VectorEncoding::Base64 => "base64",
        }
    }

    /// Refuses the request if one of `fields` is given, because the provider has nothing like it.
    /// Each item is a field's name and true if the field is given.
    pub(super) fn without(
        &self,
        fields: &[(&str, bool)],
        provider: &str,
    ) -> Result<(), Unsupported> {
        let Some((name, _)) = fields.iter().find(|(_, given)| *given) else {
            return Ok(());
        };
        let problem = format!("{provider} has nothing like it, leave it out");
        Err(Unsupported::new(format!("body.{name}"), problem))
    }

    /// Builds the answer in OpenAI's shape from vectors in the order of the texts. `None` if the
    /// number of vectors is not the number of texts.
    pub(super) fn answer(
        &self,
        model: &str,
        vectors: Vec<Vec<f32>>,
        usage: Option<Usage>,
    ) -> Option<AdapterAnswer> {
        if vectors.len() != self.texts().len() {
            return None;
        }
        let vectors = vectors.into_iter().enumerate();
        let data = vectors.map(|(index, vector)| self.item(index, &vector));
        let data: Vec<_> = data.collect();
        // OpenAI's answer always has a usage. Where the provider reports none it is null: 0 would
        // be read as a count.
        let tokens = usage.map(|usage| usage.input_tokens);
        let wire_usage =
            tokens.map(|tokens| json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
        let body = json!({ "object": "list", "data": data, "model": model, "usage": wire_usage });
        Some(AdapterAnswer {
            body: serde_json::value::to_raw_value(&body).ok()?,
            usage,
            answer_kind: AnswerKind::Whole,
        })
    }

    fn item(&self, index: usize, vector: &[f32]) -> Value {
        let embedding = self.written(vector);
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    }

    /// Encodes one vector. Base64 contains little-endian 32-bit floats, as at OpenAI.
    fn written(&self, vector: &[f32]) -> Value {
        match self.encoding_format {
            VectorEncoding::Float => json!(vector),
            VectorEncoding::Base64 => {
                let bytes = vector.iter().flat_map(|number| number.to_le_bytes());
                let bytes: Vec<u8> = bytes.collect();
                BASE64_STANDARD.encode(bytes).into()
            }
        }
    }
}
