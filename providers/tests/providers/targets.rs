//! Where requests of fixtures go.

use std::collections::BTreeSet;

use forebay_providers::registry::{self, Provider};
use forebay_providers::{Endpoint, WorkKind};
use forebay_schemas::Job;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::files;

/// A provider as it may be configured, and a model of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) provider: String,
    pub(crate) model: String,
    base_url: Option<String>,
    api_version: Option<String>,
}

impl Target {
    /// A provider as it is without further configuration.
    pub(crate) fn plain(provider: &Provider) -> Self {
        let name = provider.name.clone();
        Self {
            provider: name.clone(),
            name,
            model: "model".to_owned(),
            base_url: None,
            api_version: None,
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        let mut endpoint = endpoint(&self.provider);
        if let Some(base_url) = &self.base_url {
            endpoint.base_url.clone_from(base_url);
        }
        if self.api_version.is_some() {
            endpoint.api_version.clone_from(&self.api_version);
        }
        endpoint
    }
}

/// The targets that have goldens.
pub(crate) fn targets() -> Vec<Target> {
    files::json("targets.json")
}

/// A target of each dialect: the others differ in no more than the table.
pub(crate) fn one_of_each_dialect() -> Vec<(Endpoint, Target)> {
    let mut dialects = BTreeSet::new();
    let all = targets().into_iter();
    all.map(|target| (target.endpoint(), target))
        .filter(|(endpoint, _)| dialects.insert(endpoint.provider.dialect))
        .collect()
}

pub(crate) fn endpoint(provider: &str) -> Endpoint {
    let provider =
        registry::provider(provider).unwrap_or_else(|| panic!("no provider is named {provider}"));
    let base_url = provider.base_url.as_ref().or(provider.example_url.as_ref());
    Endpoint::new(provider, base_url.expect("an address"))
}

/// The time at which all fixtures are read: a Tuesday before dawn in California.
pub(crate) fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().expect("a time")
}

/// A job of this kind; the body keeps its bytes.
pub(crate) fn job(url: &str, body: &RawValue) -> Job {
    let line = format!(r#"{{"url":"{url}","body":{body}}}"#);
    Job::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A chat.
pub(crate) fn chat(body: &RawValue) -> Job {
    job(WorkKind::Chat.url(), body)
}
