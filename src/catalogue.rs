//! What is known of models: windows, prices and abilities, from a published list that is in the binary, and from
//! lists that an operator adds.

mod lists;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, anyhow};
use flate2::read::GzDecoder;
use forebay_providers::WorkKind;
use forebay_providers::price::Prices;
use forebay_providers::registry::Provider;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// The list that is in the binary; `scripts/update-catalogue.sh` writes it.
const BUILT_IN: &[u8] = include_bytes!("catalogue/models.json.gz");

static KNOWN: LazyLock<Catalogue> =
    LazyLock::new(|| Catalogue::built_in().expect("the list in the binary is read by a test"));

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueModel {
    /// The provider's name.
    pub provider: String,
    /// What the provider calls it.
    pub name: String,
    /// The kind of work that it is made for.
    pub kind: WorkKind,
    /// The most tokens of a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// The most tokens of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// How many numbers a vector has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u64>,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abilities: Vec<Ability>,
    /// When its provider ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retires: Option<Date>,
    /// In US dollars for a million tokens.
    #[serde(flatten)]
    pub prices: Prices,
}

/// Something that not every model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Ability {
    /// It calls tools.
    Tools,
    /// It answers in a given JSON schema.
    JsonSchema,
    /// It thinks before it answers.
    Reasoning,
    /// It sees images.
    Vision,
    /// It reads PDF files.
    Pdf,
    /// It hears.
    AudioInput,
    /// It speaks.
    AudioOutput,
    /// Its provider keeps prompts in a cache.
    PromptCache,
}

impl std::fmt::Display for Ability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = clap::ValueEnum::to_possible_value(self);
        f.write_str(name.as_ref().map_or("", |name| name.get_name()))
    }
}

/// Where a list is from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOrigin {
    /// Who published it, and which version it is of.
    #[serde(default)]
    pub source: String,
    /// When it was taken from there.
    pub date: Option<Date>,
    /// The licence that it may be copied under.
    #[serde(default)]
    pub notice: String,
}

/// A list as Forebay writes it.
#[derive(Debug, Serialize, Deserialize)]
struct ModelList {
    #[serde(flatten)]
    origin: ModelOrigin,
    models: Vec<CatalogueModel>,
}

/// Models that are known.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// Where the list in the binary is from; nothing, if it is not used.
    pub origin: ModelOrigin,
    /// By provider and name.
    models: BTreeMap<(String, String), Arc<CatalogueModel>>,
}

impl Catalogue {
    /// What is in the binary.
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

    /// Adds a list: as Forebay writes it, or in `LiteLLM`'s or models.dev's format. What it names replaces what was
    /// known of that model.
    ///
    /// # Errors
    /// When the file cannot be read or is none of these.
    pub fn extend_from(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let models = lists::read(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        self.add(models);
        Ok(())
    }

    fn add(&mut self, models: Vec<CatalogueModel>) {
        let keyed = models
            .into_iter()
            .map(|model| ((model.provider.clone(), model.name.clone()), model));
        self.models
            .extend(keyed.map(|(key, model)| (key, Arc::new(model))));
    }

    /// All models, by provider and name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<CatalogueModel>> {
        self.models.values()
    }

    /// What is known of a model at a provider. A tuned one is as the one that it was made of.
    pub fn find(&self, provider: &Provider, name: &str) -> Option<&Arc<CatalogueModel>> {
        let find = |name: &str| {
            self.models
                .get(&(provider.listed_as().to_owned(), name.to_owned()))
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
