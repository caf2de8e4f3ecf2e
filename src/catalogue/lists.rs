//! Published lists of models: `LiteLLM`'s, models.dev's and Forebay's own.

use std::str::FromStr;

use anyhow::{anyhow, bail};
use forebay_providers::WorkKind;
use forebay_providers::price::{Prices, TokenRates};
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::{Ability, CatalogueModel};

/// Names of providers in other lists, and Forebay's names for them.
const PROVIDERS: [(&str, &str); 32] = [
    ("alibaba", "dashscope"),
    ("amazon-bedrock", "bedrock"),
    ("bedrock_converse", "bedrock"),
    ("cohere_chat", "cohere"),
    ("codestral", "mistral"),
    ("fireworks-ai", "fireworks"),
    ("fireworks_ai", "fireworks"),
    ("fireworks_ai-embedding-models", "fireworks"),
    ("featherless_ai", "featherless"),
    ("google", "gemini"),
    ("google-vertex", "vertex"),
    ("google-vertex-anthropic", "vertex-claude"),
    ("lambda_ai", "lambda"),
    ("meta_llama", "meta"),
    ("moonshotai", "moonshot"),
    ("nvidia_nim", "nvidia"),
    ("novita-ai", "novita"),
    ("ollama_chat", "ollama"),
    ("togetherai", "together"),
    ("together_ai", "together"),
    ("vercel", "vercel-ai-gateway"),
    ("vercel_ai_gateway", "vercel-ai-gateway"),
    ("vertex_ai", "vertex"),
    ("vertex_ai-anthropic_models", "vertex-claude"),
    ("vertex_ai-embedding-models", "vertex"),
    ("vertex_ai-language-models", "vertex"),
    ("xiaomi_mimo", "xiaomi-mimo"),
    ("friendli", "friendliai"),
    ("jina_ai", "jina"),
    ("zhipuai", "zai"),
    ("gradient_ai", "digitalocean"),
    ("github-models", "github"),
];

/// Decimal places of a price. Further digits are errors of floating-point numbers.
const PRICE_DIGITS: u32 = 10;

/// Reads a list in any of the formats.
pub(super) fn read(text: &str) -> anyhow::Result<Vec<CatalogueModel>> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| anyhow!("it is no JSON: {error}"))?;
    let Value::Object(entries) = value else {
        bail!("it is no list of models: {FORMATS}")
    };
    if let Some(models) = entries.get("models").and_then(Value::as_array) {
        let models = models.iter().enumerate();
        return models
            .map(|(index, model)| read_own_entry(index, model))
            .collect();
    }
    let of_litellm = entries
        .iter()
        .filter_map(|(name, entry)| read_litellm_entry(name, entry.as_object()?));
    let of_models_dev = entries
        .iter()
        .flat_map(|(provider, entry)| models_of_provider(provider, entry));
    let models: Vec<_> = of_litellm.chain(of_models_dev).collect();
    if models.is_empty() {
        bail!("it names no model: {FORMATS}");
    }
    Ok(models)
}

/// Reads the models of a provider in models.dev's list.
fn models_of_provider(provider: &str, entry: &Value) -> impl Iterator<Item = CatalogueModel> {
    let models = entry.get("models").and_then(Value::as_object);
    let models = models.into_iter().flatten();
    models.filter_map(move |(name, model)| {
        let model = model.as_object()?;
        Some(read_models_dev_entry(provider, name, model))
    })
}

/// The fields of an entry in Forebay's format.
const FIELDS: [&str; 15] = [
    "provider",
    "name",
    "kind",
    "context_window",
    "max_output",
    "dimensions",
    "abilities",
    "retires",
    "input",
    "output",
    "cached_input",
    "cache_write",
    "reasoning",
    "above",
    "tiers",
];
const PRICES: [&str; 5] = [
    "input",
    "output",
    "cached_input",
    "cache_write",
    "reasoning",
];

/// Reads an entry in Forebay's format, whose prices may be numbers or strings.
fn read_own_entry(index: usize, entry: &Value) -> anyhow::Result<CatalogueModel> {
    let name = entry.get("name").and_then(Value::as_str);
    let which = name.map_or_else(
        || format!("models[{index}]"),
        |name| format!("model `{name}`"),
    );
    let mut entry = entry.clone();
    if let Some(unknown) = entry
        .as_object()
        .and_then(|fields| fields.keys().find(|field| !is_field(field)))
    {
        bail!(
            "{which}: `{unknown}` is no field, use {}",
            FIELDS.join(", ")
        );
    }
    prices_as_texts(&mut entry).map_err(|problem| anyhow!("{which}: {problem}"))?;
    serde_json::from_value(entry).map_err(|error| anyhow!("{which}: {error}"))
}

fn is_field(name: &str) -> bool {
    FIELDS.contains(&name)
}

/// Replaces numeric prices by strings, which is how prices are stored, at every depth.
fn prices_as_texts(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Object(fields) => fields.iter_mut().try_for_each(field_as_text),
        Value::Array(items) => items.iter_mut().try_for_each(prices_as_texts),
        _ => Ok(()),
    }
}

fn field_as_text((name, value): (&String, &mut Value)) -> Result<(), String> {
    if !PRICES.contains(&name.as_str()) {
        return prices_as_texts(value);
    }
    let Some(price) = decimal(value) else {
        return Err(format!(
            "`{name}` is no price, write for example \"0.15\": US dollars for a million tokens"
        ));
    };
    *value = price.to_string().into();
    Ok(())
}

const FORMATS: &str = "use LiteLLM's or models.dev's format, or {\"models\": [{\"provider\", \"name\", \"kind\", …}]}";

fn forebay_name(provider: &str) -> &str {
    PROVIDERS
        .iter()
        .find(|(theirs, _)| *theirs == provider)
        .map_or(provider, |(_, ours)| ours)
}

/// Reads an entry of `LiteLLM`'s list. Returns `None` if it is no model that a job could name.
fn read_litellm_entry(name: &str, entry: &Map<String, Value>) -> Option<CatalogueModel> {
    let listed = entry.get("litellm_provider")?.as_str()?;
    let kind = litellm_kind(entry.get("mode")?.as_str()?)?;
    let prefix = listed.split('-').next().unwrap_or(listed);
    let strip = |prefix: &str| name.strip_prefix(prefix)?.strip_prefix('/');
    let name = strip(listed)
        .or_else(|| strip(prefix))
        .or_else(|| strip("bedrock"))
        .unwrap_or(name);
    let provider = forebay_name(listed);
    // Entries for sizes of images, and for regions. A region is part of the address and not of the
    // model's name.
    if name.contains("-x-") || (matches!(provider, "azure" | "bedrock") && name.contains('/')) {
        return None;
    }
    let number = |field: &str| entry.get(field).and_then(Value::as_u64);
    let can = |field: &str| entry.get(field).and_then(Value::as_bool) == Some(true);
    let abilities = [
        ("supports_function_calling", Ability::Tools),
        ("supports_response_schema", Ability::JsonSchema),
        ("supports_reasoning", Ability::Reasoning),
        ("supports_vision", Ability::Vision),
        ("supports_pdf_input", Ability::Pdf),
        ("supports_audio_input", Ability::AudioInput),
        ("supports_audio_output", Ability::AudioOutput),
        ("supports_prompt_caching", Ability::PromptCache),
    ];
    Some(CatalogueModel {
        provider: provider.to_owned(),
        name: name.to_owned(),
        kind,
        context_window: number("max_input_tokens"),
        max_output: number("max_output_tokens").filter(|_| kind != WorkKind::Embeddings),
        dimensions: number("output_vector_size"),
        abilities: abilities
            .into_iter()
            .filter(|(field, _)| can(field))
            .map(|(_, ability)| ability)
            .collect(),
        retires: entry
            .get("deprecation_date")
            .and_then(Value::as_str)
            .and_then(|date| date.parse().ok()),
        prices: litellm_prices(entry),
    })
}

fn litellm_kind(mode: &str) -> Option<WorkKind> {
    Some(match mode {
        "chat" => WorkKind::Chat,
        "responses" => WorkKind::Responses,
        "embedding" => WorkKind::Embeddings,
        "moderation" => WorkKind::Moderation,
        "rerank" => WorkKind::Rerank,
        "image_generation" => WorkKind::Image,
        "audio_speech" => WorkKind::Speech,
        "audio_transcription" => WorkKind::Transcription,
        _ => return None,
    })
}

/// Reads prices per token: the usual ones, those of longer prompts (`…_above_200k_tokens`), and
/// those of service tiers (`…_flex`, `…_priority`).
fn litellm_prices(entry: &Map<String, Value>) -> Prices {
    let mut prices = Prices::default();
    // These prices change with the time of day, which `Prices` cannot express.
    if entry.contains_key("off_peak_pricing") {
        return prices;
    }
    for (field, value) in entry {
        let Some((rate, rest)) = litellm_rate(field) else {
            continue;
        };
        let (above, tier) = match rest.strip_prefix("_above_") {
            None => (None, rest),
            Some(rest) => match rest.split_once("k_tokens") {
                Some((thousands, tier)) if let Ok(thousands) = thousands.parse::<u64>() => {
                    (Some(thousands * 1_000), tier)
                }
                _ => continue,
            },
        };
        let of_tier = match tier {
            "" => &mut prices,
            "_flex" | "_priority" => {
                let name = tier[1..].to_owned();
                prices.tiers.entry(name).or_default()
            }
            _ => continue,
        };
        let rates = match above {
            None => &mut of_tier.rates,
            Some(above) => of_tier.beyond(above),
        };
        *rate(rates) = per_million(value);
    }
    for step in entry
        .get("tiered_pricing")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let from = step
            .pointer("/range/0")
            .and_then(Value::as_f64)
            .unwrap_or_default();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of tokens as a float"
        )]
        let rates = match from as u64 {
            0 => &mut prices.rates,
            from => prices.beyond(from),
        };
        for (field, value) in step.as_object().into_iter().flatten() {
            if let Some((rate, "")) = litellm_rate(field) {
                *rate(rates) = per_million(value);
            }
        }
    }
    prices
}

type RateOf = fn(&mut TokenRates) -> &mut Option<Decimal>;

/// Returns the price that a field of `LiteLLM`'s holds, and the rest of the field's name.
fn litellm_rate(field: &str) -> Option<(RateOf, &str)> {
    let fields: [(&str, RateOf); 5] = [
        ("input_cost_per_token", |rates| &mut rates.input),
        ("output_cost_per_token", |rates| &mut rates.output),
        ("cache_read_input_token_cost", |rates| {
            &mut rates.cached_input
        }),
        ("cache_creation_input_token_cost", |rates| {
            &mut rates.cache_write
        }),
        ("output_cost_per_reasoning_token", |rates| {
            &mut rates.reasoning
        }),
    ];
    fields
        .into_iter()
        .find_map(|(name, rate)| Some((rate, field.strip_prefix(name)?)))
}

/// Converts the price of one token to that of a million tokens.
fn per_million(value: &Value) -> Option<Decimal> {
    let price = decimal(value)?.checked_mul(Decimal::from(1_000_000))?;
    Some(price.round_dp(PRICE_DIGITS).normalize())
}

fn decimal(value: &Value) -> Option<Decimal> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let number = Decimal::from_scientific(&text)
        .or_else(|_| Decimal::from_str(&text))
        .ok()?;
    (!number.is_sign_negative()).then_some(number)
}

/// Reads an entry of models.dev's list, whose prices are per million tokens.
fn read_models_dev_entry(provider: &str, name: &str, entry: &Map<String, Value>) -> CatalogueModel {
    let entry = Value::Object(entry.clone());
    let number = |path: &str| entry.pointer(path).and_then(Value::as_u64);
    let can = |field: &str| entry.get(field).and_then(Value::as_bool) == Some(true);
    let has_modality = |way: &str, what: &str| {
        let modalities = entry
            .pointer(&format!("/modalities/{way}"))
            .and_then(Value::as_array);
        modalities
            .into_iter()
            .flatten()
            .any(|modality| modality == what)
    };
    let rates = |path: &str| {
        let rate = |name: &str| {
            let price = decimal(entry.pointer(&format!("{path}/{name}"))?)?;
            Some(price.round_dp(PRICE_DIGITS).normalize())
        };
        TokenRates {
            input: rate("input"),
            output: rate("output"),
            cached_input: rate("cache_read"),
            cache_write: rate("cache_write"),
            reasoning: rate("reasoning"),
        }
    };
    let mut prices = Prices {
        rates: rates("/cost"),
        ..Prices::default()
    };
    let longer = rates("/cost/context_over_200k");
    if longer != TokenRates::default() {
        *prices.beyond(200_000) = longer;
    }
    let abilities = [
        (can("tool_call"), Ability::Tools),
        (can("structured_output"), Ability::JsonSchema),
        (can("reasoning"), Ability::Reasoning),
        (has_modality("input", "image"), Ability::Vision),
        (has_modality("input", "pdf"), Ability::Pdf),
        (has_modality("input", "audio"), Ability::AudioInput),
        (has_modality("output", "audio"), Ability::AudioOutput),
        (
            entry.pointer("/cost/cache_read").is_some(),
            Ability::PromptCache,
        ),
    ];
    CatalogueModel {
        provider: forebay_name(provider).to_owned(),
        name: name.to_owned(),
        // The list states the kind only through the name.
        kind: if name.contains("embed") {
            WorkKind::Embeddings
        } else {
            WorkKind::Chat
        },
        context_window: number("/limit/context"),
        max_output: number("/limit/output"),
        dimensions: None,
        abilities: abilities
            .into_iter()
            .filter(|(can, _)| *can)
            .map(|(_, ability)| ability)
            .collect(),
        retires: None,
        prices,
    }
}
