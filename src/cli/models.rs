//! The commands `forebay models` and `forebay providers`.

use forebay_providers::WorkKind;
use forebay_providers::registry::Provider;
use rust_decimal::Decimal;
use serde_json::json;

use super::{GlobalOptions, print};
use crate::catalogue::{Ability, Catalogue, CatalogueModel, ModelOrigin};
use crate::config::Config;
use crate::nats::connection::Error;

/// List known models: context windows, prices in US dollars per million tokens, and abilities.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  forebay models --provider anthropic\n  \
    forebay models gemini flash --can vision --can tools\n\n\
    What is not known of a model is -. Lists of your own are named in [catalogue] of the configuration.")]
pub(super) struct ModelsArgs {
    /// Words that the model's name has.
    words: Vec<String>,
    /// Only models of this provider.
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    /// Only models for this kind of work: chat, embeddings, …
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<WorkKind>,
    /// Only models with this ability. Can be given more than once.
    #[arg(long = "can", value_name = "ABILITY")]
    abilities: Vec<Ability>,
    /// Print the origin and the licence of the built-in list.
    #[arg(long)]
    notice: bool,
}

/// List the providers that an account may name.
#[derive(Debug, clap::Args)]
pub(super) struct ProvidersArgs {
    /// Words in the provider's name.
    words: Vec<String>,
}

pub(super) fn models(global: &GlobalOptions, args: &ModelsArgs) -> Result<u8, Error> {
    if args.notice {
        let ModelOrigin {
            source,
            date,
            notice,
        } = &Catalogue::known().origin;
        let date = date.map_or_else(String::new, |date| format!(", taken over on {date}"));
        print::line(&format!(
            "Models and prices are from {source}{date}.\n\n{}",
            notice.trim_end()
        ));
        return Ok(0);
    }
    let config = Config::load(global.config.as_deref())?;
    let listed_as = match &args.provider {
        None => None,
        Some(name) => {
            let provider = config
                .providers
                .iter()
                .find(|provider| provider.name == *name);
            let unknown = || {
                Error::Usage(anyhow::anyhow!(
                    "`{name}` is not known; see `forebay providers`"
                ))
            };
            Some(provider.ok_or_else(unknown)?.listed_as())
        }
    };
    let is_wanted = |model: &&std::sync::Arc<CatalogueModel>| {
        listed_as.is_none_or(|provider| model.provider == provider)
            && args.kind.is_none_or(|kind| model.kind == kind)
            && args
                .abilities
                .iter()
                .all(|ability| model.abilities.contains(ability))
            && has_words(&model.name, &args.words)
    };
    let found = config.catalogue.models().filter(is_wanted);
    if global.json {
        print::json(&found.map(AsRef::as_ref).collect::<Vec<&CatalogueModel>>());
        return Ok(0);
    }
    let header = [
        "PROVIDER",
        "MODEL",
        "KIND",
        "WINDOW",
        "OUTPUT",
        "$/M IN",
        "$/M OUT",
        "$/M CACHED",
        "CAN",
    ];
    print::table(&header, &found.map(|model| row(model)).collect::<Vec<_>>());
    Ok(0)
}

fn row(model: &CatalogueModel) -> Vec<String> {
    let count =
        |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let price =
        |price: Option<Decimal>| price.map_or_else(|| "-".to_owned(), |price| price.to_string());
    let rates = &model.prices.rates;
    let abilities = model.abilities.iter().map(Ability::to_string);
    let abilities: Vec<_> = abilities.collect();
    vec![
        model.provider.clone(),
        model.name.clone(),
        model.kind.to_string(),
        count(model.context_window),
        count(model.max_output),
        price(rates.input),
        price(rates.output),
        price(rates.cached_input),
        abilities.join(" "),
    ]
}

pub(super) fn providers(global: &GlobalOptions, args: &ProvidersArgs) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let found = config
        .providers
        .iter()
        .filter(|provider| has_words(&provider.name, &args.words));
    if global.json {
        print::json(&found.map(|provider| in_json(provider)).collect::<Vec<_>>());
        return Ok(0);
    }
    let header = [
        "PROVIDER",
        "DIALECT",
        "KEY IN",
        "ADDRESS IN",
        "ADDRESS",
        "KINDS",
    ];
    let rows = found.map(|provider| provider_row(provider));
    print::table(&header, &rows.collect::<Vec<_>>());
    Ok(0)
}

fn provider_row(provider: &Provider) -> Vec<String> {
    let or_dash = |name: Option<&String>| name.map_or_else(|| "-".to_owned(), String::clone);
    vec![
        provider.name.clone(),
        provider.dialect.to_string(),
        or_dash(provider.key_env.first()),
        or_dash(provider.url_env.as_ref()),
        address(provider).to_owned(),
        kinds(provider).join(" "),
    ]
}

fn in_json(provider: &Provider) -> serde_json::Value {
    let dialect = provider.dialect.to_string();
    json!({
        "name": provider.name, "dialect": dialect, "base_url": provider.base_url,
        "example_url": provider.example_url, "key_env": provider.key_env, "url_env": provider.url_env,
        "keyless": provider.keyless, "kinds": kinds(provider), "algorithm": provider.algorithm,
        "settles_tokens": provider.settles(),
    })
}

/// Returns the address of a provider, or an example if each account has its own.
fn address(provider: &Provider) -> &str {
    provider
        .base_url
        .as_deref()
        .or(provider.example_url.as_deref())
        .unwrap_or("-")
}

fn kinds(provider: &Provider) -> Vec<String> {
    let kinds = provider.kinds();
    kinds.iter().map(WorkKind::to_string).collect()
}

fn has_words(name: &str, words: &[String]) -> bool {
    let name = name.to_lowercase();
    let is_in_name = |word: &String| name.contains(&word.to_lowercase());
    words.iter().all(is_in_name)
}

fn kind(text: &str) -> Result<WorkKind, String> {
    WorkKind::ALL
        .into_iter()
        .find(|kind| kind.to_string() == text)
        .ok_or_else(|| {
            let all: Vec<_> = WorkKind::ALL.iter().map(WorkKind::to_string).collect();
            format!("use one of {}", all.join(", "))
        })
}
