//! Providers as data: addresses, dialects, the placement of keys, rate-limit headers, meanings of
//! errors and quirks. The table is `providers.toml`. There, a provider with a known dialect takes a
//! few lines.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use forebay_schemas::Class;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::cost::CountedTogether;
use crate::decoded::ErrorScope;
use crate::kind::WorkKind;
use crate::limits::{LimitHeader, WaitHeader};

const TABLE: &str = include_str!("providers.toml");

/// A provider of the table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The provider's name in the configuration.
    pub name: String,
    /// The base address when the configuration gives none; `None` where every account has its own.
    pub base_url: Option<String>,
    /// An example of an address, where every account has its own.
    pub example_url: Option<String>,
    /// The provider's dialect.
    pub dialect: Dialect,
    /// The environment variables that usually contain the provider's key.
    #[serde(default)]
    pub key_env: Vec<String>,
    /// The environment variable that usually contains the provider's address.
    pub url_env: Option<String>,
    /// The provider under whose name the models are listed; `None` for this one.
    listed_as: Option<String>,
    /// True if the provider has no list of an account's models, although its dialect has.
    #[serde(default)]
    lists_no_models: bool,
    /// The path of a request that shows if a key is accepted. It is for providers that list their
    /// models without a key. An empty path means the smallest call.
    pub(super) tries_keys_at: Option<String>,
    /// True if each account chooses the names by which models are called.
    #[serde(default)]
    pub names_deployments: bool,
    /// The provider's algorithm for limits, by the name of an `algorithm` in the configuration;
    /// `None` where it is not documented.
    pub algorithm: Option<String>,
    /// The version of the API that is requested when the configuration gives none.
    pub api_version: Option<String>,
    /// The versions of the API from which the configuration can choose.
    #[serde(default)]
    pub(super) api_versions: Vec<String>,
    /// The end of addresses that need no version, where all others need a version that is a date.
    pub(super) dated_address: Option<String>,
    /// The placement of keys in a request.
    #[serde(default)]
    pub auth: KeyPlacement,
    /// True if the provider may be called without a key.
    #[serde(default)]
    pub keyless: bool,
    /// The kinds of work that the provider offers; `None` where they are its dialect's.
    pub kinds: Option<Vec<WorkKind>>,
    /// The rules by which tokens count against limits.
    #[serde(default)]
    pub(super) tokens: TokenRules,
    /// The bounds of one request for several jobs' embeddings.
    #[serde(default)]
    pub merges: MergeLimits,
    /// The rate-limit headers; `None` where they are the dialect's.
    pub(super) limits: Option<Vec<LimitHeader>>,
    /// A header that contains a wait, beside `retry-after`.
    pub(super) wait: Option<WaitHeader>,
    /// The meanings of the provider's errors, which precede its dialect's rules.
    #[serde(default)]
    pub(super) errors: Vec<ErrorRule>,
    /// The differences from OpenAI, if the provider speaks OpenAI's dialect.
    #[serde(default)]
    pub(super) quirks: Quirks,
    /// Further quirks of some of the models.
    #[serde(default)]
    pub(super) models: Vec<ModelQuirks>,
}

/// A wire format, which several providers may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI's chat completions and the APIs beside them; most providers speak it.
    Openai,
    /// OpenAI's Responses, also for jobs that are chats.
    Responses,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's `generateContent`.
    Gemini,
    /// Mistral's own chat.
    Mistral,
    /// Version 2 of Cohere's API.
    Cohere,
    /// Bedrock's Converse.
    Bedrock,
    /// Ollama's own API.
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

/// The placement of a key in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPlacement {
    /// `Authorization: Bearer KEY`.
    #[default]
    Bearer,
    /// The key alone, in the header of this name.
    Header(String),
    /// A signature by AWS Signature Version 4. The key is `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, or the
    /// same with `:SESSION_TOKEN`.
    AwsSigv4,
}

/// The rules by which tokens count against limits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TokenRules {
    /// The count of a call against a limit on all tokens, at admission.
    pub(super) together: CountedTogether,
    /// True if the provider gives back what was reserved and not used.
    pub(super) settles: bool,
    /// True if prompt tokens from the provider's cache do not count once the call is settled.
    pub(super) cached_is_free: bool,
    /// True if the adapter sends a maximum also where a job sets none; see [`crate::chat`].
    pub(super) always_sets_maximum: bool,
    /// The weights of an answer token once the call is settled. The first entry whose text is in
    /// the model's name applies.
    pub(super) burndown: Vec<(String, u64)>,
}

/// The bounds of one request for the embeddings of several jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeLimits {
    /// The most texts of one request; 1 means that nothing is merged.
    pub inputs: usize,
    /// The most tokens of all texts of one request.
    pub tokens: u64,
}

impl Default for MergeLimits {
    /// Returns the bounds where the provider documents none. No provider is known to refuse such
    /// small requests.
    fn default() -> Self {
        Self {
            inputs: 64,
            tokens: 60_000,
        }
    }
}

/// The differences of a server from OpenAI, whose dialect it speaks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quirks {
    /// The fields of a body that the server refuses. A job that needs one is sent to another target
    /// instead.
    #[serde(default)]
    pub(super) refuses: Vec<String>,
    /// The fields that the server refuses and that change no answer; they are left out.
    #[serde(default)]
    pub(super) drops: Vec<String>,
    /// The fields that have another name at the server, each with that name.
    #[serde(default)]
    pub(super) renames: BTreeMap<String, String>,
    /// The fields of messages, and of calls in them, that the server refuses and that change no
    /// answer; they are left out.
    #[serde(default)]
    pub(super) message_drops: Vec<String>,
    /// The roles that have another name at the server, each with that name.
    #[serde(default)]
    pub(super) roles: BTreeMap<String, String>,
}

/// The quirks of the models whose names begin with one of `begin`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelQuirks {
    pub(super) begin: Vec<String>,
    pub(super) quirks: Quirks,
}

impl ModelQuirks {
    fn concerns(&self, model: &str) -> bool {
        let mut begins = self.begin.iter();
        begins.any(|begin| model.starts_with(begin))
    }
}

/// The treatment of the fields of a chat request. Unless `mapped` is `None`, a field in none of the
/// lists is refused by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatFields {
    /// The fields that are encoded in the provider's form. `None` where a request is sent as it is,
    /// except for the fields in the other lists.
    pub mapped: Option<Vec<&'static str>>,
    /// The fields that are left out. They change an answer's cost, its speed or the parties that
    /// learn of it, not what is requested.
    pub dropped: Vec<&'static str>,
    /// The fields that are refused although the rest is sent as it is.
    pub refused: Vec<&'static str>,
    /// The fields with another name at the provider, each with that name.
    pub renamed: Vec<(&'static str, &'static str)>,
    /// The fields that are left out of messages.
    pub dropped_of_messages: Vec<&'static str>,
    /// The roles with another name at the provider, each with that name.
    pub roles: Vec<(&'static str, &'static str)>,
}

/// A rule for the meaning of an error. Every condition that it names must hold; of a list, one
/// entry.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorRule {
    pub(super) class: Class,
    /// The HTTP statuses.
    #[serde(default)]
    pub(super) status: Vec<u16>,
    /// The codes and types, as whole names.
    #[serde(default)]
    pub(super) names: Vec<String>,
    /// Parts of codes and types.
    #[serde(default)]
    pub(super) names_with: Vec<String>,
    /// Parts of the message, in lower case.
    #[serde(default)]
    pub(super) says: Vec<String>,
    /// A header and its value.
    pub(super) header: Option<(String, String)>,
    /// The subject of the error; `None` where the class decides it.
    pub(super) scope: Option<ErrorScope>,
    /// The time at which a spent allowance is back, regardless of a shorter wait from the provider.
    pub(super) back: Option<ReturnRule>,
}

/// The time at which a calendar's allowance is back, in an IANA time zone.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ReturnRule {
    /// The next midnight.
    DayIn(String),
    /// The start of the next month.
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

/// Reads the entries. One with `like` has the fields of that earlier entry, except for its own.
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
    let read = |entry| read_entry(entry).map_err(D::Error::custom);
    entries.into_iter().map(read).collect()
}

fn read_entry(entry: toml::Table) -> Result<Provider, String> {
    let problem = |error: toml::de::Error| of_entry(&entry, error.message());
    Provider::deserialize(entry.clone()).map_err(problem)
}

/// Returns a problem of an entry together with the entry's name.
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

/// The rules that the providers of a dialect share.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedRules {
    #[serde(default)]
    pub(super) limits: Vec<LimitHeader>,
    #[serde(default)]
    pub(super) errors: Vec<ErrorRule>,
}

/// The rules that all providers share.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommonRules {
    /// Those that stop an account or a model, tried before the dialect's.
    stops: Vec<ErrorRule>,
    /// The others, tried after the dialect's.
    errors: Vec<ErrorRule>,
}

static KNOWN: LazyLock<ProviderTable> =
    LazyLock::new(|| toml::from_str(TABLE).expect("the table of providers is checked by a test"));

/// Returns every provider of the built-in table, in its order.
pub fn providers() -> &'static [Provider] {
    &KNOWN.provider
}

/// Returns a provider of the built-in table by its name; `None` if it is not there.
pub fn provider(name: &str) -> Option<&'static Provider> {
    let mut known = providers().iter();
    known.find(|provider| provider.name == name)
}

/// Returns the providers of the built-in table and of `text`, a table of `[[provider]]` entries of
/// the same form. An entry of `text` replaces a built-in one of the same name, and may be `like`
/// one. The entries stay in memory until the process ends, so the function suits a configuration
/// that is read once.
///
/// # Errors
/// Fails when the text is no such table; the error names the place.
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
    let former = added.provider.iter().flat_map(words_of_0_1);
    let former: Vec<_> = former.collect();
    if !former.is_empty() {
        return Err(former.join("; "));
    }
    let BuiltIn { mut provider } = toml::from_str(TABLE).map_err(|error| error.to_string())?;
    let known = provider.len();
    provider.extend(added.provider);
    let all = like_others(toml::Value::from(provider))
        .map_err(|error: toml::de::Error| error.to_string())?;
    let (built_in, added) = all.split_at(known);
    let is_added = |name: &str| added.iter().any(|provider| provider.name == name);
    let kept = built_in
        .iter()
        .filter(|one| !is_added(&one.name))
        .filter_map(|one| self::provider(&one.name));
    let leaked = added.iter().cloned().map(|one| &*Box::leak(Box::new(one)));
    Ok(kept.chain(leaked).collect())
}

/// Returns a problem for each former word of version 0.1 in an entry, with the present word.
fn words_of_0_1(provider: &toml::Table) -> Vec<String> {
    let name = provider
        .get("name")
        .and_then(toml::Value::as_str)
        .unwrap_or_default();
    let rules = provider.get("errors").and_then(toml::Value::as_array);
    let rules = rules.into_iter().flatten();
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
    /// Returns the name of the provider under which the models are listed.
    pub fn listed_as(&self) -> &str {
        let other = self.listed_as.as_deref();
        other.unwrap_or(&self.name)
    }

    /// Returns true if the provider lists an account's models and needs a key for it, provided that
    /// its dialect has a list.
    pub(super) fn lists_models(&self) -> bool {
        !self.lists_no_models && self.tries_keys_at.is_none()
    }

    /// Returns the path of a request that shows if a key is accepted, where the list of models does
    /// not. An empty path means the smallest call.
    pub fn tries_keys_at(&self) -> Option<&str> {
        self.tries_keys_at.as_deref()
    }

    /// Returns true if the provider gives back what was reserved and not used.
    pub fn settles(&self) -> bool {
        self.tokens.settles
    }

    /// Returns the rules that the provider shares with others of its dialect. Responses have
    /// OpenAI's rules, and Claude at Vertex has Anthropic's.
    fn shared(&self) -> Option<&'static SharedRules> {
        let dialect = match self.dialect {
            Dialect::Responses => Dialect::Openai,
            Dialect::VertexClaude => Dialect::Anthropic,
            other => other,
        };
        KNOWN.dialect.get(&dialect)
    }

    /// Returns the provider's rate-limit headers.
    pub(super) fn limit_headers(&'static self) -> &'static [LimitHeader] {
        let shared = || self.shared().map_or(&[][..], |shared| &shared.limits);
        self.limits.as_deref().unwrap_or_else(shared)
    }

    /// Returns the rules for errors: the provider's own, then its dialect's, then those of all.
    pub(super) fn rules(&self) -> impl Iterator<Item = &ErrorRule> {
        let shared = self.shared().into_iter();
        let of_dialect = shared.flat_map(|shared| &shared.errors);
        let CommonRules { stops, errors } = &KNOWN.common;
        let own = self.errors.iter().chain(stops);
        own.chain(of_dialect).chain(errors)
    }

    /// Returns the provider's quirks, and then those of `model`.
    pub(super) fn quirks_of(&self, model: &str) -> impl Iterator<Item = &Quirks> {
        let models = self.models.iter();
        let of_model = models
            .filter(move |entry| entry.concerns(model))
            .map(|entry| &entry.quirks);
        std::iter::once(&self.quirks).chain(of_model)
    }

    /// Returns the weight of an answer token of `model` once the call is settled.
    pub(super) fn burndown(&self, model: &str) -> u64 {
        let mut entries = self.tokens.burndown.iter();
        let entry = entries.find(|(text, _)| model.contains(text.as_str()));
        entry.map_or(1, |(_, times)| *times)
    }
}
