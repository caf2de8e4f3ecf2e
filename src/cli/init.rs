//! The command `forebay init`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use forebay_providers::WorkKind;
use forebay_providers::price::TokenRates;
use forebay_providers::registry::Provider;
use forebay_schemas::flow::pool_of_model;
use forebay_workers::clock::{Clock as _, SystemClock};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;

use super::{GlobalOptions, print};
use crate::catalogue::{Ability, Catalogue, CatalogueModel};
use crate::config::{AccountConfig, Config, DEFAULT_FILE, KeyConfig, KeySource};
use crate::nats::connection::Error;

/// Write a commented forebay.toml from the keys in the environment.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

pub(super) fn init(global: &GlobalOptions, args: &Args) -> Result<u8, Error> {
    let path = global.config.as_deref();
    let path = path.unwrap_or(Path::new(DEFAULT_FILE));
    let found = Config::of_environment()?;
    let today = SystemClock.now().to_zoned_datetime(TimeZone::UTC).date();
    let text = starter(&found, today);
    Config::parse(&text)?;
    write(path, &text, args.force).map_err(Error::Usage)?;
    let names = found.account_names();
    let summary = if names.is_empty() {
        "no key of a provider is in the environment, so that its accounts are examples".to_owned()
    } else {
        format!("with accounts of {}", names.join(", "))
    };
    if global.json {
        print::json(&serde_json::json!({ "written": path, "accounts": names }));
    } else {
        print::line(&format!(
            "{} is written, {summary}; `forebay check` tries it",
            path.display()
        ));
    }
    Ok(0)
}

fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            anyhow!("{} is there already; --force replaces it", path.display())
        }
        _ => anyhow!("{}: {error}", path.display()),
    };
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes())
        .with_context(|| path.display().to_string())
}

const HEAD: &str = r#"# Forebay's configuration: accounts, and the pools that jobs are published to. The README describes every field.

# [nats]
# url = "nats://127.0.0.1:4222"  # a server that you run; without it Forebay minds its own

# [data]
# dir = "./forebay-data"         # results and journals
"#;

const NO_ACCOUNT: &str = r#"
# No key of a provider was in the environment. `forebay providers` lists the providers; an account looks like this:
#
# [account.openai]
# provider = "openai"
# keys = [{ name = "main", env = "OPENAI_API_KEY" }]
# limits = [{ requests = 500, per = "1m" }, { tokens = 200_000, per = "1m" }]
#
# [pool.gpt-4o-mini]
# targets = [{ account = "openai", model = "gpt-4o-mini" }]
"#;

const POOLS: &str = r#"
# Without any pool, one is made for each model that is asked for, over the accounts that are known to have it. Where there
# are pools, only those are served. `forebay models` lists models; a pool may have any name, and several targets.
"#;

/// Formats a configuration with the accounts that were found.
fn starter(found: &Config, today: Date) -> String {
    let mut text = HEAD.to_owned();
    if found.accounts.is_empty() {
        text.push_str(NO_ACCOUNT);
        return text;
    }
    let mut pools: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, account) in &found.accounts {
        text.push_str(&section(name, account));
        if let Some(model) = cheapest(account.endpoint.provider, &found.catalogue, today) {
            let target = format!("{{ account = \"{name}\", model = {:?} }}", model.name);
            pools
                .entry(pool_of_model(&model.name))
                .or_default()
                .push(target);
        }
    }
    text.push_str(POOLS);
    for (pool, targets) in pools {
        text.push_str(&format!(
            "# [pool.{pool}]\n# targets = [{}]\n",
            targets.join(", ")
        ));
    }
    text
}

fn section(name: &str, account: &AccountConfig) -> String {
    let provider = account.endpoint.provider;
    let mut text = format!("\n[account.{name}]\nprovider = \"{}\"\n", provider.name);
    let base_url = account.endpoint.base_url.as_str();
    if provider.base_url.as_deref() != Some(base_url) {
        text.push_str(&format!("base_url = {base_url:?}\n"));
    }
    let keys = account.keys.iter().filter_map(key_entry);
    let keys: Vec<_> = keys.collect();
    text.push_str(&format!("keys = [{}]\n", keys.join(", ")));
    let tokens = match provider.settles() {
        true => "{ input_tokens = 30_000, per = \"1m\" }, { output_tokens = 8_000, per = \"1m\" }",
        false => "{ tokens = 200_000, per = \"1m\" }",
    };
    text.push_str(&format!(
        "# What the provider allows this account. Without any, limits are learned from headers and refusals.\n\
         # limits = [{{ requests = 500, per = \"1m\" }}, {tokens}]\n"
    ));
    if let Some(algorithm) = &provider.algorithm {
        text.push_str(&format!(
            "# It documents this; without it, a minute's limit is spent evenly, which every provider allows.\n\
             # algorithm = \"{algorithm}\"\n"
        ));
    }
    text
}

fn key_entry(key: &KeyConfig) -> Option<String> {
    match &key.source {
        KeySource::Env(variable) => Some(format!("{{ name = \"main\", env = \"{variable}\" }}")),
        KeySource::File(_) => None,
    }
}

/// Returns the cheapest chat model that calls tools and is not retired soon. Returns `None` if the
/// account has its own model names.
fn cheapest<'a>(
    provider: &Provider,
    catalogue: &'a Catalogue,
    today: Date,
) -> Option<&'a Arc<CatalogueModel>> {
    let stays = |model: &CatalogueModel| {
        model
            .retires
            .is_none_or(|date| date > today.saturating_add(jiff::Span::new().days(90)))
    };
    let suits = |model: &&Arc<CatalogueModel>| {
        model.provider == provider.listed_as()
            && model.kind == WorkKind::Chat
            && model.abilities.contains(&Ability::Tools)
            && stays(model)
            && price(model) > Decimal::ZERO
    };
    let models = catalogue.models().filter(|_| !provider.names_deployments);
    models.filter(suits).min_by_key(|model| price(model))
}

fn price(model: &CatalogueModel) -> Decimal {
    let TokenRates { input, output, .. } = model.prices.rates;
    input.unwrap_or_default() + output.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> String {
        let read = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let found = Config::parse("")
            .expect("the defaults")
            .with_environment(read)
            .expect("addresses");
        starter(&found, jiff::civil::date(2026, 11, 25))
    }

    #[test]
    fn what_is_written_is_a_configuration_with_what_was_found_and_no_key() {
        let variables = [
            ("OPENAI_API_KEY", "sk-secret"),
            ("OPENAI_BASE_URL", "http://127.0.0.1:9001/v1"),
            ("ANTHROPIC_API_KEY", "sk-secret"),
            ("OPENROUTER_API_KEY", "sk-secret"),
            // These accounts serve the same models under their own names.
            ("AZURE_OPENAI_API_KEY", "sk-secret"),
            ("AZURE_OPENAI_AD_TOKEN", "sk-secret"),
            ("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com"),
        ];
        let text = of(&variables);
        assert!(!text.contains("sk-secret"), "{text}");
        let config = Config::parse(&text).expect(&text);
        assert_eq!(
            config.accounts.keys().collect::<Vec<_>>(),
            ["anthropic", "azure", "azure-entra", "openai", "openrouter"]
        );
        assert_eq!(
            config.accounts["openai"].endpoint.base_url,
            "http://127.0.0.1:9001/v1"
        );
        assert!(
            config.pools.is_empty() && config.on_demand.is_some(),
            "each model is served: {text}"
        );
        // Each commented line must be valid when it is uncommented.
        let all: Vec<_> = text
            .lines()
            .filter(|line| !line.contains('…'))
            .map(|line| {
                line.strip_prefix("# ")
                    .filter(|rest| rest.contains(" = "))
                    .unwrap_or(line)
            })
            .collect();
        let all = all
            .join("\n")
            .replace("url = \"nats", "[nats]\nurl = \"nats")
            .replace("dir = ", "[data]\ndir = ");
        let all = all.replace("# [pool.", "[pool.");
        let config = Config::parse(&all).expect(&all);
        assert_eq!(config.accounts["anthropic"].limits.len(), 3);
        assert_eq!(
            config.pools.len(),
            2,
            "of OpenRouter's models nothing is known: {text}"
        );
    }

    #[test]
    fn without_a_key_the_accounts_are_examples() {
        let config = Config::parse(&of(&[])).expect("a configuration");
        assert!(config.accounts.is_empty() && config.pools.is_empty());
    }
}
