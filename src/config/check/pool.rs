//! Checks of pools: their targets and their cache mode.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_schemas::Cache;
use forebay_workers::outcome::patience::Patience;

use super::{ConfigChecker, DAY};
use crate::config::raw;
use crate::config::{AccountConfig, ConfiguredPool, ConfiguredTarget};

/// The settings outside of a pool that decide about it.
pub(super) struct PoolDefaults {
    pub(super) dedupe_days: u16,
    pub(super) patience: Patience,
}

impl ConfigChecker<'_> {
    pub(super) fn pool(
        &mut self,
        name: &str,
        raw: raw::RawPool,
        accounts: &BTreeMap<String, AccountConfig>,
        defaults: &PoolDefaults,
    ) -> ConfiguredPool {
        let path = format!("pool.{name}");
        self.name(&path, "pool", name);
        if raw.targets.is_empty() && !self.has_unreadable(&format!("{path}.targets")) {
            self.wrong(
                &format!("{path}.targets"),
                "is missing: at least one { account = \"…\", model = \"…\" }",
            );
        }
        let mut targets = Vec::new();
        for (index, target) in raw.targets.into_iter().enumerate() {
            let target = self.target(
                &format!("{path}.targets[{index}]"),
                target,
                accounts,
                &targets,
            );
            targets.extend(target);
        }
        let cache = self.cache(&format!("{path}.cache"), raw.cache, defaults.dedupe_days);
        let patience = raw
            .patience
            .map(|raw| self.patience(&format!("{path}.patience"), raw, defaults.patience));
        ConfiguredPool {
            targets,
            content_fallback: raw.content_fallback,
            merge: raw.merge.unwrap_or(true),
            cache,
            patience,
        }
    }

    fn target(
        &mut self,
        path: &str,
        raw: raw::RawTarget,
        accounts: &BTreeMap<String, AccountConfig>,
        others: &[ConfiguredTarget],
    ) -> Option<ConfiguredTarget> {
        let account = self.required(
            &format!("{path}.account"),
            raw.account,
            "the name of an account",
        );
        let model = self.required(&format!("{path}.model"), raw.model, "the model to ask for");
        let (account, model) = account.zip(model)?;
        if !accounts.contains_key(&account) {
            let known: Vec<_> = accounts.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            let problem = format!("there is no account `{account}`; known accounts: {known}");
            self.wrong(&format!("{path}.account"), problem);
        }
        if others
            .iter()
            .any(|other| (&other.account, &other.model) == (&account, &model))
        {
            let problem =
                format!("`{model}` at `{account}` is a target already; its `weight` is its share");
            self.wrong(path, problem);
        }
        let weight = raw.weight.unwrap_or(1.0);
        if !(weight.is_finite() && weight > 0.0) {
            self.wrong(&format!("{path}.weight"), "must be a number above 0");
        }
        let after = self.duration(&format!("{path}.after"), raw.after, Duration::ZERO);
        let (tier, context_window) = (raw.tier.unwrap_or(0), raw.context_window);
        Some(ConfiguredTarget {
            account,
            model,
            tier,
            weight,
            after,
            context_window,
        })
    }

    fn cache(&mut self, path: &str, raw: Option<String>, dedupe_days: u16) -> Cache {
        let Some(text) = raw else { return Cache::Off };
        match text.parse() {
            Ok(Cache::Within(age)) if age > DAY * u32::from(dedupe_days) => {
                self.wrong(
                    path,
                    format!(
                        "`{text}` is more than data.dedupe_days, after which no answer serves again"
                    ),
                );
                Cache::Off
            }
            Ok(cache) => cache,
            Err(problem) => {
                self.wrong(path, problem);
                Cache::Off
            }
        }
    }
}
