//! Mistral's moderation as OpenAI's: the same shape, with Mistral's own names of categories. Most of them are
//! wider or narrower than any of OpenAI's, so that another name would say what nobody judged.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Number, Value, json};

use crate::usage::WireUsage;
use crate::{AdapterAnswer, AnswerKind};

#[derive(Deserialize)]
pub(super) struct ModerationAnswer {
    id: String,
    model: Option<String>,
    results: Vec<ModerationResult>,
    usage: Option<WireUsage>,
}

/// One text's. Without categories it judges nothing.
#[derive(Deserialize)]
struct ModerationResult {
    categories: BTreeMap<String, bool>,
    #[serde(default)]
    category_scores: BTreeMap<String, Number>,
}

impl ModerationAnswer {
    pub(super) fn unified(self, model: &str) -> Option<AdapterAnswer> {
        let body = json!({
            "id": self.id,
            "model": self.model.as_deref().unwrap_or(model),
            "results": self.results.iter().map(ModerationResult::unified).collect::<Vec<_>>(),
        });
        let body = serde_json::value::to_raw_value(&body).ok()?;
        let usage = self.usage.as_ref().and_then(WireUsage::unified);
        Some(AdapterAnswer {
            body,
            usage,
            said: AnswerKind::Whole,
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
