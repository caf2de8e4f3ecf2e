//! Providers as data: addresses, dialects, the way keys are sent, limits' headers, errors' meanings and quirks.
//! The table is `providers.toml`; a provider that speaks a known dialect is some lines there.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use forebay_schemas::Class;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::ErrorScope;
use super::kind::WorkKind;
use super::limits::{LimitHeader, WaitHeader};
use crate::cost::CountedTogether;

const TABLE: &str = include_str!("providers.toml");

/// A provider that is known by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: String,
    /// Its address when the configuration gives none; absent where every account has its own.
    pub base_url: Option<String>,
    /// What an address looks like, where every account has its own.
    pub example_url: Option<String>,
    /// Its dialect.
    pub dialect: Dialect,
    /// The environment variables that its key is usually in.
    #[serde(default)]
    pub key_env: Vec<String>,
    /// The environment variable that its address is usually in.
    pub url_env: Option<String>,
    /// The provider under whose name its models are listed, if it is another.
    listed_as: Option<String>,
    /// Whether it has no list of an account's models, although its dialect has.
    #[serde(default)]
    lists_no_models: bool,
    /// The request that tells whether a key is accepted, where the list of models does not: it is there for everybody.
    /// Without a path it is the smallest call.
    pub(super) tries_keys_at: Option<String>,
    /// Whether models are called by names that each account chooses.
    #[serde(default)]
    pub names_deployments: bool,
    /// How it spends limits, where it documents that: the name of an `algorithm` in the configuration.
    pub algorithm: Option<String>,
    /// The version of its API that is asked for when the configuration gives none.
    pub api_version: Option<String>,
    /// The versions that there are.
    #[serde(default)]
    pub(super) api_versions: Vec<String>,
    /// The end of addresses that need no version, where all others are asked for one by its date.
    pub(super) dated_address: Option<String>,
    /// How its keys are sent.
    #[serde(default)]
    pub auth: KeyPlacement,
    /// Whether it may be called without a key.
    #[serde(default)]
    pub keyless: bool,
    /// The kinds of work that it has, where they are fewer than its dialect's.
    pub kinds: Option<Vec<WorkKind>>,
    /// How it counts tokens against limits.
    #[serde(default)]
    pub(super) tokens: TokenRules,
    /// What of several jobs' embeddings fits one request.
    #[serde(default)]
    pub merges: MergeLimits,
    /// Headers that tell of limits, where they are not its dialect's.
    pub(super) limits: Option<Vec<LimitHeader>>,
    /// A header that tells how long to wait, beside `retry-after`.
    pub(super) wait: Option<WaitHeader>,
    /// What its errors mean, before its dialect's rules.
    #[serde(default)]
    pub(super) errors: Vec<ErrorRule>,
    /// Where it differs from OpenAI, if it speaks OpenAI's dialect.
    #[serde(default)]
    pub(super) quirks: Quirks,
    /// The same for some of its models.
    #[serde(default)]
    pub(super) models: Vec<ModelQuirks>,
}

/// A wire family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI's chat completions and what goes with them; most providers have it.
    Openai,
    /// OpenAI's Responses, also for jobs that are chats.
    Responses,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's `generateContent`.
    Gemini,
    /// Mistral's own chat.
    Mistral,
    /// Cohere's second version.
    Cohere,
    /// Bedrock's Converse.
    Bedrock,
    /// Ollama's own.
    Ollama,
    /// Anthropic's Messages at Vertex.
    VertexClaude,
}

impl std::fmt::Display for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Dialect::Openai => "openai",
            Dialect::Responses => "responses",
            Dialect::Anthropic => "anthropic",
            Dialect::Gemini => "gemini",
            Dialect::Mistral => "mistral",
            Dialect::Cohere => "cohere",
            Dialect::Bedrock => "bedrock",
            Dialect::Ollama => "ollama",
            Dialect::VertexClaude => "vertex_claude",
        })
    }
}

/// How a key is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPlacement {
    /// `Authorization: Bearer KEY`.
    #[default]
    Bearer,
    /// In a header of its own.
    Header(String),
    /// AWS Signature Version 4; the key is `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, or with `:SESSION_TOKEN`.
    AwsSigv4,
}

/// How tokens count against limits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TokenRules {
    /// What a limit on all tokens counts of a call when it is admitted.
    pub(super) together: CountedTogether,
    /// Whether what was admitted and not used is given back.
    pub(super) settles: bool,
    /// Whether prompt tokens that were read from the provider's cache count for nothing once it is settled.
    pub(super) cached_is_free: bool,
    /// Whether the longest answer is sent also where a job sets none; see [`super::chat`].
    pub(super) always_sets_maximum: bool,
    /// How many times an answer token counts when it is settled; the first entry whose text is in the model's name.
    pub(super) burndown: Vec<(String, u64)>,
}

/// What of several jobs' embeddings fits one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeLimits {
    /// Texts of one request; with 1 nothing is merged.
    pub inputs: usize,
    /// Tokens of them all.
    pub tokens: u64,
}

impl Default for MergeLimits {
    /// Where nothing is documented: so few that no provider is known to refuse them.
    fn default() -> Self {
        Self {
            inputs: 64,
            tokens: 60_000,
        }
    }
}

/// Where a server that speaks OpenAI's dialect differs from OpenAI.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quirks {
    /// Fields of a body that it refuses: the job goes to another target instead.
    #[serde(default)]
    pub(super) refuses: Vec<String>,
    /// Fields that it refuses and that change no answer: they are left out.
    #[serde(default)]
    pub(super) drops: Vec<String>,
    /// Fields that have another name there.
    #[serde(default)]
    pub(super) renames: BTreeMap<String, String>,
    /// Fields of messages, and of calls in them, that it refuses and that change no answer: they are left out.
    #[serde(default)]
    pub(super) message_drops: Vec<String>,
    /// Roles that have another name there.
    #[serde(default)]
    pub(super) roles: BTreeMap<String, String>,
}

/// Quirks of models whose names begin so.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelQuirks {
    pub(super) begin: Vec<String>,
    pub(super) quirks: Quirks,
}

/// What becomes of the fields of a chat request; what is in no list is refused by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatFields {
    /// Said in the provider's way. `None` where a request goes as it is, but for what the other lists name.
    pub mapped: Option<Vec<&'static str>>,
    /// Left out: they change what an answer costs, how fast it comes or who is told of it, not what is asked.
    pub dropped: Vec<&'static str>,
    /// Refused although the rest goes as it is.
    pub refused: Vec<&'static str>,
    /// Said by another name.
    pub renamed: Vec<(&'static str, &'static str)>,
    /// Left out of messages.
    pub dropped_of_messages: Vec<&'static str>,
    /// Roles by another name.
    pub roles: Vec<(&'static str, &'static str)>,
}

/// What an error means. All that a rule names must hold; of a list, one entry.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorRule {
    pub(super) class: Class,
    /// HTTP statuses.
    #[serde(default)]
    pub(super) status: Vec<u16>,
    /// Codes and types: the whole name.
    #[serde(default)]
    pub(super) names: Vec<String>,
    /// The same: a part of the name.
    #[serde(default)]
    pub(super) names_with: Vec<String>,
    /// Parts of the message, in lower case.
    #[serde(default)]
    pub(super) says: Vec<String>,
    /// A header and its value.
    pub(super) header: Option<(String, String)>,
    /// What the error speaks of, where its class does not tell.
    pub(super) scope: Option<ErrorScope>,
    /// When what is spent is back, whatever wait the provider names.
    pub(super) back: Option<ReturnRule>,
}

/// When a calendar's allowance is back, in an IANA time zone.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ReturnRule {
    /// At midnight.
    DayIn(String),
    /// When the month is over.
    MonthIn(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderTable {
    #[serde(deserialize_with = "like_others")]
    provider: Vec<Provider>,
    dialect: BTreeMap<Dialect, SharedRules>,
    common: CommonRules,
}

/// Entries that are like an earlier one have its fields, but for their own.
fn like_others<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Provider>, D::Error> {
    let mut entries: Vec<toml::Table> = Vec::new();
    for mut entry in Vec::<toml::Table>::deserialize(from)? {
        if let Some(name) = entry.remove("like") {
            let like = entries
                .iter()
                .find(|other| other.get("name") == Some(&name));
            let unknown =
                || D::Error::custom(of_entry(&entry, &format!("nothing above is named {name}")));
            let mut fields = like.ok_or_else(unknown)?.clone();
            fields.extend(entry);
            entry = fields;
        }
        entries.push(entry);
    }
    let read = |entry: toml::Table| {
        let named = entry.clone();
        entry
            .try_into()
            .map_err(|error: toml::de::Error| D::Error::custom(of_entry(&named, error.message())))
    };
    entries.into_iter().map(read).collect()
}

/// A problem of an entry, with its name.
fn of_entry(entry: &toml::Table, problem: &str) -> String {
    let name = entry
        .get("name")
        .and_then(toml::Value::as_str)
        .unwrap_or("without a name");
    let like = if entry.contains_key("dialect") {
        ""
    } else {
        "; say which one it is `like`, or its `dialect`"
    };
    format!("provider {name}: {problem}{like}")
}

/// What the providers of a dialect have in common.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedRules {
    #[serde(default)]
    pub(super) limits: Vec<LimitHeader>,
    #[serde(default)]
    pub(super) errors: Vec<ErrorRule>,
}

/// What all have in common.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommonRules {
    errors: Vec<ErrorRule>,
}

static KNOWN: LazyLock<ProviderTable> =
    LazyLock::new(|| toml::from_str(TABLE).expect("the table of providers is checked by a test"));

/// Every provider that is known by name, in the order of the table.
pub fn providers() -> &'static [Provider] {
    &KNOWN.provider
}

/// A provider by its name.
pub fn provider(name: &str) -> Option<&'static Provider> {
    KNOWN.provider.iter().find(|provider| provider.name == name)
}

/// Every provider that is known by name, with those of `text`: a table of `[[provider]]` entries like the built-in
/// one, which replace those of the same name and may be `like` them. It stays in memory as long as the process, so it
/// is for whoever reads a configuration once.
///
/// # Errors
/// When the text is no such table; says where.
pub fn providers_with(text: &str) -> Result<Vec<&'static Provider>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct AddedProviders {
        provider: Vec<toml::Table>,
    }
    #[derive(Deserialize)]
    struct BuiltIn {
        provider: Vec<toml::Table>,
    }
    let added: AddedProviders = toml::from_str(text).map_err(|error| error.to_string())?;
    let former: Vec<_> = added.provider.iter().flat_map(words_of_0_1).collect();
    if !former.is_empty() {
        return Err(former.join("; "));
    }
    let BuiltIn { mut provider } = toml::from_str(TABLE).map_err(|error| error.to_string())?;
    let known = provider.len();
    provider.extend(added.provider);
    let all = like_others(toml::Value::from(provider))
        .map_err(|error: toml::de::Error| error.to_string())?;
    let (built_in, added) = all.split_at(known);
    let replaced = |one: &&Provider| added.iter().any(|other| other.name == one.name);
    let kept = built_in
        .iter()
        .filter(|one| !replaced(one))
        .filter_map(|one| self::provider(&one.name));
    let leaked = added.iter().cloned().map(|one| &*Box::leak(Box::new(one)));
    Ok(kept.chain(leaked).collect())
}

/// What an entry says in words that are others now, with those.
fn words_of_0_1(provider: &toml::Table) -> Vec<String> {
    let name = provider
        .get("name")
        .and_then(toml::Value::as_str)
        .unwrap_or_default();
    let rules = provider
        .get("errors")
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten();
    let mut classes = rules.filter_map(|rule| rule.get("class")?.as_str());
    let mut found = Vec::new();
    if provider.contains_key("joins") {
        found.push(format!("provider `{name}`: `joins` is now `merges`"));
    }
    if classes.any(|class| class == "exceeds_key_limit") {
        found.push(format!(
            "provider `{name}`: the class `exceeds_key_limit` is now `exceeds_limit`"
        ));
    }
    found
}

impl Provider {
    /// The name under which its models are listed.
    pub fn listed_as(&self) -> &str {
        self.listed_as.as_deref().unwrap_or(&self.name)
    }

    /// Whether it lists an account's models, if its dialect can, and to nobody else.
    pub(super) fn lists_models(&self) -> bool {
        !self.lists_no_models && self.tries_keys_at.is_none()
    }

    /// Where it tells whether a key is accepted, if its list of models does not.
    pub fn tries_keys_at(&self) -> Option<&str> {
        self.tries_keys_at.as_deref()
    }

    /// Whether it gives back what was admitted and not used.
    pub fn settles(&self) -> bool {
        self.tokens.settles
    }

    /// What it has in common with others of its dialect; Responses are OpenAI's in this, and what is at Vertex is Anthropic's.
    fn shared(&self) -> Option<&'static SharedRules> {
        let dialect = match self.dialect {
            Dialect::Responses => Dialect::Openai,
            Dialect::VertexClaude => Dialect::Anthropic,
            other => other,
        };
        KNOWN.dialect.get(&dialect)
    }

    /// The headers that tell of its limits.
    pub(super) fn limit_headers(&'static self) -> &'static [LimitHeader] {
        let shared = || self.shared().map_or(&[][..], |shared| &shared.limits);
        self.limits.as_deref().unwrap_or_else(shared)
    }

    /// Its own rules of errors, then its dialect's, then those of all.
    pub(super) fn rules(&self) -> impl Iterator<Item = &ErrorRule> {
        let shared = self.shared().into_iter().flat_map(|shared| &shared.errors);
        self.errors.iter().chain(shared).chain(&KNOWN.common.errors)
    }

    /// Its quirks, with those of `model`.
    pub(super) fn quirks_of(&self, model: &str) -> impl Iterator<Item = &Quirks> {
        let of_model = self
            .models
            .iter()
            .filter(move |entry| entry.begin.iter().any(|begin| model.starts_with(begin)));
        std::iter::once(&self.quirks).chain(of_model.map(|entry| &entry.quirks))
    }

    /// How many times an answer token of `model` counts when it is settled.
    pub(super) fn burndown(&self, model: &str) -> u64 {
        let entry = self
            .tokens
            .burndown
            .iter()
            .find(|(text, _)| model.contains(text.as_str()));
        entry.map_or(1, |(_, times)| *times)
    }
}
