//! Pools: their targets, and what may serve their jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_schemas::Reuse;

use super::{Checker, DAY};
use crate::config::raw;
use crate::config::{Pool, Quota, Target};

impl Checker<'_> {
    pub(super) fn pool(
        &mut self,
        name: &str,
        raw: raw::Pool,
        quotas: &BTreeMap<String, Quota>,
        dedupe_days: u16,
    ) -> Pool {
        let path = format!("pool.{name}");
        self.name(&path, name);
        if raw.targets.is_empty() && !self.has_unreadable(&format!("{path}.targets")) {
            self.wrong(
                &format!("{path}.targets"),
                "is missing: at least one { quota = \"…\", model = \"…\" }",
            );
        }
        let mut targets = Vec::new();
        for (index, target) in raw.targets.into_iter().enumerate() {
            let target = self.target(&format!("{path}.targets[{index}]"), target, quotas, &targets);
            targets.extend(target);
        }
        let reuse = self.reuse(&format!("{path}.reuse"), raw.reuse, dedupe_days);
        Pool { targets, content_fallback: raw.content_fallback, join: raw.join.unwrap_or(true), reuse }
    }

    fn target(
        &mut self,
        path: &str,
        raw: raw::Target,
        quotas: &BTreeMap<String, Quota>,
        others: &[Target],
    ) -> Option<Target> {
        let quota = self.required(&format!("{path}.quota"), raw.quota, "the name of a quota");
        let model = self.required(&format!("{path}.model"), raw.model, "the model to ask for");
        let (quota, model) = quota.zip(model)?;
        if !quotas.contains_key(&quota) {
            let known: Vec<_> = quotas.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let problem = format!("there is no quota `{quota}`; known quotas: {known}");
            self.wrong(&format!("{path}.quota"), problem);
        }
        if others.iter().any(|other| (&other.quota, &other.model) == (&quota, &model)) {
            let problem = format!("`{model}` at `{quota}` is a target already; its `weight` is its share");
            self.wrong(path, problem);
        }
        let weight = raw.weight.unwrap_or(1.0);
        if !(weight.is_finite() && weight > 0.0) {
            self.wrong(&format!("{path}.weight"), "must be a number above 0");
        }
        let after = self.duration(&format!("{path}.after"), raw.after, Duration::ZERO);
        let (tier, context_window) = (raw.tier.unwrap_or(0), raw.context_window);
        Some(Target { quota, model, tier, weight, after, context_window })
    }

    fn reuse(&mut self, path: &str, raw: Option<String>, dedupe_days: u16) -> Reuse {
        let Some(text) = raw else { return Reuse::Off };
        match text.parse() {
            Ok(Reuse::Within(age)) if age > DAY * u32::from(dedupe_days) => {
                self.wrong(
                    path,
                    format!("`{text}` is more than data.dedupe_days, after which no answer serves again"),
                );
                Reuse::Off
            }
            Ok(reuse) => reuse,
            Err(problem) => {
                self.wrong(path, problem);
                Reuse::Off
            }
        }
    }
}
