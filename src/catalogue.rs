//! The catalogue of models: context windows, prices and abilities. They come from a published list
//! in the binary and from lists that an operator adds.

mod lists;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, anyhow};
use clap::builder::PossibleValue;
use flate2::read::GzDecoder;
use forebay_providers::WorkKind;
use forebay_providers::price::Prices;
use forebay_providers::registry::Provider;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// The list in the binary. `scripts/update-catalogue.sh` writes it.
const BUILT_IN: &[u8] = include_bytes!("catalogue/models.json.gz");

static KNOWN: LazyLock<Catalogue> =
    LazyLock::new(|| Catalogue::built_in().expect("the list in the binary is read by a test"));

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueModel {
    /// The provider's name.
    pub provider: String,
    /// The model's name at the provider.
    pub name: String,
    /// The kind of work of the model.
    pub kind: WorkKind,
    /// Maximum number of tokens of a prompt. `None` means unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// Maximum number of tokens of a response. `None` means unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// Number of elements of an embedding vector. `None` means unknown, or no embeddings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u64>,
    /// Its abilities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abilities: Vec<Ability>,
    /// The day on which the provider retires it. `None` means that no day is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retires: Option<Date>,
    /// Prices in US dollars per million tokens.
    #[serde(flatten)]
    pub prices: Prices,
}

impl CatalogueModel {
    fn key(&self) -> (String, String) {
        let Self { provider, name, .. } = self;
        (provider.clone(), name.clone())
    }
}

/// An ability that not every model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Ability {
    /// Calls tools.
    Tools,
    /// Answers in a given JSON schema.
    JsonSchema,
    /// Reasons before it answers.
    Reasoning,
    /// Reads images.
    Vision,
    /// Reads PDF files.
    Pdf,
    /// Takes audio.
    AudioInput,
    /// Returns audio.
    AudioOutput,
    /// Its provider caches prompts.
    PromptCache,
}

impl std::fmt::Display for Ability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.write_str(value.as_ref().map_or("", PossibleValue::get_name))
    }
}

/// The origin of a list of models.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOrigin {
    /// The publisher of the list, and its version.
    #[serde(default)]
    pub source: String,
    /// The day on which the list was copied.
    pub date: Option<Date>,
    /// The licence notice under which the list may be copied.
    #[serde(default)]
    pub notice: String,
}

/// A list of models in Forebay's format.
#[derive(Debug, Serialize, Deserialize)]
struct ModelList {
    #[serde(flatten)]
    origin: ModelOrigin,
    models: Vec<CatalogueModel>,
}

/// The known models.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// The origin of the list in the binary. Empty if that list is not used.
    pub origin: ModelOrigin,
    /// The models, by provider and name.
    models: BTreeMap<(String, String), Arc<CatalogueModel>>,
}

impl Catalogue {
    /// Returns the catalogue of the list in the binary.
    pub fn known() -> &'static Self {
        &KNOWN
    }

    fn built_in() -> anyhow::Result<Self> {
        let mut text = String::new();
        GzDecoder::new(BUILT_IN).read_to_string(&mut text)?;
        let ModelList { origin, models } = serde_json::from_str(&text)?;
        let mut catalogue = Self {
            origin,
            ..Self::default()
        };
        catalogue.add(models);
        Ok(catalogue)
    }

    /// Adds a list in Forebay's, `LiteLLM`'s or models.dev's format. Its entries replace known
    /// entries of the same models.
    ///
    /// # Errors
    /// Returns an error when the file cannot be read or has none of these formats.
    pub fn extend_from(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let models = lists::read(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        self.add(models);
        Ok(())
    }

    fn add(&mut self, models: Vec<CatalogueModel>) {
        for model in models {
            self.models.insert(model.key(), Arc::new(model));
        }
    }

    /// Returns all models, ordered by provider and name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<CatalogueModel>> {
        self.models.values()
    }

    /// Finds a model at a provider. A fine-tuned model that is not listed has the entry of its base
    /// model.
    pub fn find(&self, provider: &Provider, name: &str) -> Option<&Arc<CatalogueModel>> {
        let find = |name: &str| {
            let key = (provider.listed_as().to_owned(), name.to_owned());
            self.models.get(&key)
        };
        let tuned_from = || {
            let (base, _) = name.strip_prefix("ft:")?.split_once(':')?;
            find(&format!("ft:{base}"))
        };
        find(name).or_else(tuned_from)
    }
}

#[cfg(test)]
mod tests;
