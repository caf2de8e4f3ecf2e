//! The decoding of Mistral's moderation, which has OpenAI's shape and Mistral's own names of
//! categories. Most categories are wider or narrower than any of OpenAI's. So they keep their
//! names: a renamed one would report a judgement that Mistral did not make.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Number, Value, json};

use crate::adapter::{AdapterAnswer, AnswerKind};
use crate::usage::WireUsage;

#[derive(Deserialize)]
pub(super) struct ModerationAnswer {
    id: String,
    model: Option<String>,
    results: Vec<ModerationResult>,
    usage: Option<WireUsage>,
}

/// The judgement of one text. Categories are required: without them nothing is judged.
#[derive(Deserialize)]
struct ModerationResult {
    categories: BTreeMap<String, bool>,
    #[serde(default)]
    category_scores: BTreeMap<String, Number>,
}

impl ModerationAnswer {
    pub(super) fn unified(self, model: &str) -> Option<AdapterAnswer> {
        let results = self.results.iter().map(ModerationResult::unified);
        let body = json!({
            "id": self.id,
            "model": self.model.as_deref().unwrap_or(model),
            "results": results.collect::<Vec<_>>(),
        });
        let body = serde_json::value::to_raw_value(&body).ok()?;
        let usage = self.usage.as_ref().and_then(WireUsage::unified);
        Some(AdapterAnswer {
            body,
            usage,
            answer_kind: AnswerKind::Whole,
        })
    }
}

impl ModerationResult {
    fn unified(&self) -> Value {
        json!({
            "flagged": self.categories.values().any(|hit| *hit),
            "categories": self.categories,
            "category_scores": self.category_scores,
        })
    }
}
