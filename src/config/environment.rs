//! The accounts and pools without a configuration. Each provider whose key is in the environment
//! gives an account with learned limits. Each requested model gets a pool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_providers::Endpoint;
use forebay_providers::registry::Provider;
use forebay_schemas::flow::pool_of_model;
use forebay_workers::{OnDemand, TargetConfig, WantedModel};

use super::address::wrong_address;
use super::{AccountConfig, ConfigError, KeyConfig, KeySource};
use crate::catalogue::{Catalogue, CatalogueModel};

/// Returns an account for each provider whose key is in the environment, by the provider's name. An
/// invalid address is added to `mistakes` instead.
pub(super) fn accounts(
    providers: &[&'static Provider],
    read: impl Fn(&str) -> Option<String>,
    mistakes: &mut Vec<ConfigError>,
) -> BTreeMap<String, AccountConfig> {
    let read = |variable: &str| read(variable).filter(|value| !value.trim().is_empty());
    let account = |provider: &&'static Provider| {
        let variable = provider
            .key_env
            .iter()
            .find(|variable| read(variable).is_some())?;
        let given = provider
            .url_env
            .as_ref()
            .and_then(|variable| Some((variable, read(variable)?)));
        let problem = given
            .as_ref()
            .and_then(|(_, url)| wrong_address(url.trim(), provider));
        if let Some(((path, _), problem)) = given.as_ref().zip(problem) {
            mistakes.push(ConfigError {
                path: (*path).clone(),
                problem,
            });
            return None;
        }
        let base_url = given
            .map(|(_, url)| url)
            .or_else(|| provider.base_url.clone())?;
        let mut endpoint = Endpoint::new(provider, base_url.trim());
        let has_own_address = provider.base_url.is_none();
        if has_own_address && endpoint.wrong_version().is_some() {
            // Azure's variable holds the address without `/openai/v1`, the path that needs no
            // version.
            endpoint = Endpoint::new(provider, &format!("{}/openai/v1", endpoint.base_url));
        }
        let key = KeyConfig {
            name: variable.clone(),
            source: KeySource::Env(variable.clone()),
        };
        Some((
            provider.name.clone(),
            AccountConfig {
                endpoint,
                keys: vec![key],
                limits: Vec::new(),
            },
        ))
    };
    providers.iter().filter_map(account).collect()
}

/// Reads a variable of the environment.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the providers' variables where a key is set and a required address is missing. Each pair
/// is the key's variable and the address's variable.
pub(super) fn without_address(
    providers: &[&'static Provider],
    read: impl Fn(&str) -> Option<String>,
) -> Vec<(&'static str, &'static str)> {
    let is_set = |variable: &str| read(variable).is_some_and(|value| !value.trim().is_empty());
    let incomplete = |provider: &&'static Provider| {
        let key = provider.key_env.iter().find(|variable| is_set(variable))?;
        let url = provider
            .url_env
            .as_ref()
            .filter(|variable| !is_set(variable))?;
        provider
            .base_url
            .is_none()
            .then_some((key.as_str(), url.as_str()))
    };
    providers.iter().filter_map(incomplete).collect()
}

/// Builds the rule that finds the targets of a model.
///
/// The accounts whose provider lists the model in the catalogue serve it. If no provider lists it,
/// the accounts whose provider has no listed models serve it. If all accounts are of one provider,
/// all of them serve it.
pub(super) fn on_demand(
    accounts: &BTreeMap<String, AccountConfig>,
    catalogue: &Catalogue,
) -> OnDemand {
    let providers: Vec<_> = accounts
        .values()
        .map(|account| account.endpoint.provider)
        .collect();
    let listed: BTreeSet<_> = catalogue
        .models()
        .map(|model| model.provider.as_str())
        .collect();
    let listed_as: BTreeSet<_> = providers
        .iter()
        .map(|provider| provider.listed_as())
        .collect();
    let is_only_provider = listed_as.len() == 1;
    let may_have_any: Vec<_> = providers
        .iter()
        .map(|provider| is_only_provider || !listed.contains(provider.listed_as()))
        .collect();
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let is_listed = |model: &&Arc<CatalogueModel>| listed_as.contains(model.provider.as_str());
    for model in catalogue.models().filter(is_listed) {
        let models = named.entry(pool_of_model(&model.name)).or_default();
        if !models.contains(&model.name) {
            models.push(model.name.clone());
        }
    }
    let catalogue = catalogue.clone();
    let serving = move |model: &str| -> Vec<TargetConfig> {
        let known: Vec<_> = providers
            .iter()
            .map(|provider| catalogue.find(provider, model))
            .collect();
        let is_known = known.iter().any(Option::is_some);
        let serves = |account: &usize| {
            if is_known {
                known[*account].is_some()
            } else {
                may_have_any[*account]
            }
        };
        (0..known.len())
            .filter(serves)
            .map(|account| target(account, model, known[account]))
            .collect()
    };
    let targets = move |wanted: WantedModel<'_>| match wanted {
        WantedModel::Model(model) => serving(model),
        // The name of a pool has underscores for the dots and slashes of its model's name.
        WantedModel::AnyOf(pool) => match named.get(pool) {
            Some(models) => models.iter().flat_map(|model| serving(model)).collect(),
            None => serving(pool),
        },
    };
    OnDemand::new(targets)
}

fn target(account: usize, model: &str, known: Option<&Arc<CatalogueModel>>) -> TargetConfig {
    TargetConfig {
        context_window: known.and_then(|model| model.context_window),
        max_output: known.and_then(|model| model.max_output),
        prices: known.map(|model| Arc::new(model.prices.clone())),
        ..TargetConfig::new(account, model)
    }
}

#[cfg(test)]
mod tests {
    use forebay_providers::registry::providers;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> (BTreeMap<String, AccountConfig>, Vec<ConfigError>) {
        let read = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let mut mistakes = Vec::new();
        let found = accounts(&providers().iter().collect::<Vec<_>>(), read, &mut mistakes);
        (found, mistakes)
    }

    fn found(variables: &[(&str, &str)]) -> BTreeMap<String, AccountConfig> {
        let (found, mistakes) = read(variables);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        found
    }

    fn serve(accounts: &BTreeMap<String, AccountConfig>, model: &str) -> Vec<String> {
        let names: Vec<_> = accounts.keys().collect();
        let targets =
            on_demand(accounts, Catalogue::known()).targets(&pool_of_model(model), Some(model));
        targets
            .into_iter()
            .map(|target| names[target.account].clone())
            .collect()
    }

    #[test]
    fn an_invalid_address_is_reported_by_its_variable_without_its_secret() {
        for url in [
            "not a url",
            "proxy.example/v1",
            "ftp://x",
            "https://h/v1?key=s3cret",
            "https://u:s3cret@h",
        ] {
            let (found, mistakes) = read(&[("OPENAI_API_KEY", "sk-1"), ("OPENAI_BASE_URL", url)]);
            assert!(
                found.is_empty() && mistakes[0].path == "OPENAI_BASE_URL",
                "{url}: {mistakes:?}"
            );
            assert!(!mistakes[0].problem.contains("s3cret"), "{mistakes:?}");
        }
    }

    #[test]
    fn a_job_that_names_its_pool_alone_takes_the_model_that_the_pool_is_named_after() {
        let one = found(&[("OPENAI_API_KEY", "1")]);
        let demand = on_demand(&one, Catalogue::known());
        let models = |model: Option<&str>| -> Vec<String> {
            demand
                .targets("gpt-4_1", model)
                .into_iter()
                .map(|target| target.model)
                .collect()
        };
        for model in [None, Some("gpt-4_1"), Some("gpt-4.1")] {
            assert_eq!(models(model), ["gpt-4.1"]);
        }
        assert_eq!(models(Some("gpt-4o")), [""; 0], "it is another pool's");
    }

    #[test]
    fn each_key_in_the_environment_is_an_account_at_its_usual_or_its_own_address() {
        let accounts = found(&[
            ("OPENAI_API_KEY", "sk-1"),
            ("OPENAI_BASE_URL", "http://127.0.0.1:9001/v1/"),
            ("GOOGLE_API_KEY", "g"),
            ("GROQ_API_KEY", " "),
            ("AZURE_OPENAI_API_KEY", "a"),
            ("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com/"),
            ("AWS_BEARER_TOKEN_BEDROCK", "no address"),
        ]);
        let addresses: Vec<_> = accounts
            .iter()
            .map(|(name, account)| (name.as_str(), account.endpoint.base_url.as_str()))
            .collect();
        let expected = [
            ("azure", "https://r.openai.azure.com/openai/v1"),
            ("gemini", "https://generativelanguage.googleapis.com/v1beta"),
            ("openai", "http://127.0.0.1:9001/v1"),
        ];
        assert_eq!(addresses, expected);
        assert!(
            matches!(&accounts["gemini"].keys[0].source, KeySource::Env(name) if name == "GOOGLE_API_KEY")
        );
    }

    #[test]
    fn a_model_goes_to_the_accounts_that_have_it() {
        let both = found(&[("OPENAI_API_KEY", "1"), ("ANTHROPIC_API_KEY", "2")]);
        assert_eq!(serve(&both, "gpt-4o-mini"), ["openai"]);
        assert_eq!(serve(&both, "claude-sonnet-4-5"), ["anthropic"]);
        assert_eq!(
            serve(&both, "a-model-of-tomorrow"),
            [""; 0],
            "nobody can tell whose it is"
        );
        let with_router = found(&[("OPENAI_API_KEY", "1"), ("OPENROUTER_API_KEY", "3")]);
        assert_eq!(
            serve(&with_router, "acme/model"),
            ["openrouter"],
            "it may have any"
        );
        let one = found(&[("OPENAI_API_KEY", "1")]);
        assert_eq!(serve(&one, "a-model-of-tomorrow"), ["openai"]);
        let two_accounts =
            BTreeMap::from(["one", "two"].map(|name| (name.to_owned(), one["openai"].clone())));
        assert_eq!(serve(&two_accounts, "a-model-of-tomorrow"), ["one", "two"]);
    }
}
