use std::io::Write as _;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use forebay_providers::registry::providers;

use super::*;

/// Writes the built-in list from a published one: see `scripts/update-catalogue.sh`.
#[test]
fn the_built_in_list_is_read_and_rewritten_on_request() {
    if let Ok(from) = std::env::var("UPDATE_CATALOGUE") {
        let told = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        let text = std::fs::read_to_string(&from).expect("a published list");
        let ours = |model: &CatalogueModel| {
            providers()
                .iter()
                .any(|provider| provider.listed_as() == model.provider)
        };
        let mut catalogue = Catalogue::default();
        catalogue.add(
            lists::read(&text)
                .expect("a list")
                .into_iter()
                .filter(ours)
                .collect(),
        );
        let notice = std::fs::read_to_string(told("CATALOGUE_NOTICE")).expect("a licence");
        let date = Some(told("CATALOGUE_DATE").parse().expect("a date"));
        let origin = ModelOrigin {
            source: told("CATALOGUE_SOURCE"),
            date,
            notice,
        };
        std::fs::write(notice_file(), notice_of(&origin)).expect("written");
        let models = catalogue
            .models()
            .map(|model| CatalogueModel::clone(model))
            .collect();
        let mut file = GzEncoder::new(Vec::new(), Compression::best());
        file.write_all(&serde_json::to_vec(&ModelList { origin, models }).expect("JSON"))
            .expect("written");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalogue/models.json.gz");
        std::fs::write(path, file.finish().expect("compressed")).expect("written");
        return;
    }
    let known = Catalogue::known();
    assert!(
        known.models().count() >= 1_000,
        "{}",
        known.models().count()
    );
    assert!(
        known.origin.notice.contains("MIT License"),
        "{:?}",
        known.origin
    );
    let notice = std::fs::read_to_string(notice_file()).expect("the notice");
    assert_eq!(
        notice,
        notice_of(&known.origin),
        "NOTICE is that of the built-in list"
    );
}

fn notice_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("NOTICE")
}

/// Returns the text that NOTICE has about the built-in list.
fn notice_of(origin: &ModelOrigin) -> String {
    format!(
        "Forebay\n\nThis product includes a list of models and their prices from {}\n\
         (https://github.com/BerriAI/litellm), under this licence:\n\n{}\n",
        origin.source,
        origin.notice.trim_end()
    )
}

fn read(text: &str) -> Vec<CatalogueModel> {
    lists::read(text).expect("a list")
}

#[test]
fn a_list_of_litellms_is_read() {
    let models = read(
        r#"{
        "sample_spec": {"litellm_provider": "one of …", "mode": "one of …"},
        "gemini/g": {"litellm_provider": "gemini", "mode": "chat", "max_input_tokens": 1000, "max_output_tokens": 10,
            "input_cost_per_token": 1.0000000000000001e-07, "output_cost_per_token": 4e-06,
            "input_cost_per_token_batches": 1e-09, "cache_read_input_token_cost": 2.5e-08,
            "input_cost_per_token_above_200k_tokens": 2e-07, "input_cost_per_token_above_200k_tokens_priority": 4e-07,
            "output_cost_per_token_flex": 2e-06, "supports_vision": true, "supports_reasoning": false,
            "deprecation_date": "2027-01-14"},
        "fireworks_ai/accounts/fireworks/models/m": {"litellm_provider": "fireworks_ai", "mode": "chat"},
        "1024-x-1024/dall-e-3": {"litellm_provider": "openai", "mode": "image_generation"},
        "bedrock/us-east-1/anthropic.claude": {"litellm_provider": "bedrock", "mode": "chat"},
        "us.anthropic.claude": {"litellm_provider": "bedrock_converse", "mode": "chat"},
        "night": {"litellm_provider": "deepseek", "mode": "chat", "input_cost_per_token": 1e-06, "off_peak_pricing": {}},
        "search": {"litellm_provider": "perplexity", "mode": "search"}
    }"#,
    );
    let names: Vec<_> = models
        .iter()
        .map(|model| (model.provider.as_str(), model.name.as_str()))
        .collect();
    let expected = [
        ("gemini", "g"),
        ("fireworks", "accounts/fireworks/models/m"),
        ("bedrock", "us.anthropic.claude"),
        ("deepseek", "night"),
    ];
    assert_eq!(names, expected);
    let written = serde_json::to_string(&models[0]).expect("JSON");
    let expected =
        r#"{"provider":"gemini","name":"g","kind":"chat","context_window":1000,"max_output":10,"#
            .to_owned()
            + r#""abilities":["vision"],"retires":"2027-01-14","input":"0.1","output":"4","cached_input":"0.025","#
            + r#""above":[{"tokens":200000,"input":"0.2"}],"#
            + r#""tiers":{"flex":{"output":"2"},"priority":{"above":[{"tokens":200000,"input":"0.4"}]}}}"#;
    assert_eq!(written, expected);
    assert_eq!(
        models[3].prices,
        Prices::default(),
        "they change with the time of day"
    );
    let again = read(&format!(
        r#"{{"source":"","date":null,"notice":"","models":[{written}]}}"#
    ));
    assert_eq!(again[..], models[..1], "what is written is read");
}

#[test]
fn a_list_of_models_devs_is_read() {
    let models = read(
        r#"{"togetherai": {"id": "togetherai", "models": {"org/m": {
            "tool_call": true, "reasoning": false, "modalities": {"input": ["text", "image"], "output": ["text"]},
            "cost": {"input": 1.25, "output": 10, "cache_read": 0.31, "context_over_200k": {"input": 2.5}},
            "limit": {"context": 1048576, "output": 65536}}}}}"#,
    );
    let model = &models[0];
    assert_eq!(
        (model.provider.as_str(), model.name.as_str()),
        ("together", "org/m")
    );
    assert_eq!(
        model.abilities,
        [Ability::Tools, Ability::Vision, Ability::PromptCache]
    );
    assert_eq!(
        serde_json::to_string(&model.prices).expect("JSON"),
        r#"{"input":"1.25","output":"10","cached_input":"0.31","above":[{"tokens":200000,"input":"2.5"}]}"#
    );
}

#[test]
fn what_is_no_list_is_refused() {
    for (text, problem) in [
        ("[]", "no list of models"),
        ("{}", "names no model"),
        ("{", "no JSON"),
        (
            r#"{"models":[{"provider":"openai","name":"m","kind":"chat","input":-0.5}]}"#,
            "model `m`: `input` is no price",
        ),
        (
            r#"{"models":[{"provider":"openai","name":"m","kind":"chat","input":"free"}]}"#,
            "model `m`: `input` is no price",
        ),
        (
            r#"{"models":[{"provider":"openai","name":"m","kind":"chat","inputt":"1"}]}"#,
            "model `m`: `inputt` is no field",
        ),
        (
            r#"{"models":[{"provider":"openai","kind":"chat"}]}"#,
            "models[0]: missing field `name`",
        ),
        (
            r#"{"models":[{"provider":"openai","name":"m","kind":"talk"}]}"#,
            "model `m`: unknown variant `talk`",
        ),
    ] {
        let error = lists::read(text).expect_err("no list").to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn a_list_of_ones_own_adds_and_replaces() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = r#"{"models":[{"provider":"openai","name":"gpt-4o-mini","kind":"chat","input":1},
        {"provider":"azure","name":"our-deployment","kind":"chat","input":"2"}]}"#;
    std::fs::write(file.path(), text).expect("written");
    let mut catalogue = Catalogue::known().clone();
    catalogue.extend_from(file.path()).expect("a list");
    let input = |provider: &str, name: &str| {
        let provider = forebay_providers::registry::provider(provider).expect("a provider");
        catalogue
            .find(provider, name)
            .and_then(|model| model.prices.rates.input)
            .map(|price| price.to_string())
    };
    assert_eq!(input("openai", "gpt-4o-mini").as_deref(), Some("1"));
    assert_eq!(
        input("azure-entra", "our-deployment").as_deref(),
        Some("2"),
        "it is Azure's"
    );
    assert_eq!(
        input("openai", "gpt-4o").as_deref(),
        Some("2.5"),
        "as before"
    );
    assert_eq!(
        input("openai", "ft:gpt-4o-2024-08-06:acme::id"),
        input("openai", "ft:gpt-4o-2024-08-06")
    );
    assert!(input("openai", "ft:gpt-4o-2024-08-06").is_some());
}
