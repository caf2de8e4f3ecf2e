//! Mistral's moderation as OpenAI's: the same shape, with Mistral's own names of categories. Most of them are
//! wider or narrower than any of OpenAI's, so that another name would say what nobody judged.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Number, Value, json};

use crate::usage::WireUsage;
use crate::{Answer, Said};

#[derive(Deserialize)]
pub(super) struct Moderated {
    id: String,
    model: Option<String>,
    results: Vec<Judged>,
    usage: Option<WireUsage>,
}

/// One text's. Without categories it judges nothing.
#[derive(Deserialize)]
struct Judged {
    categories: BTreeMap<String, bool>,
    #[serde(default)]
    category_scores: BTreeMap<String, Number>,
}

impl Moderated {
    pub(super) fn unified(self, model: &str) -> Option<Answer> {
        let body = json!({
            "id": self.id,
            "model": self.model.as_deref().unwrap_or(model),
            "results": self.results.iter().map(Judged::unified).collect::<Vec<_>>(),
        });
        let body = serde_json::value::to_raw_value(&body).ok()?;
        let usage = self.usage.as_ref().and_then(WireUsage::unified);
        Some(Answer {
            body,
            usage,
            said: Said::Whole,
        })
    }
}

impl Judged {
    fn unified(&self) -> Value {
        json!({
            "flagged": self.categories.values().any(|hit| *hit),
            "categories": self.categories,
            "category_scores": self.category_scores,
        })
    }
}
