//! The contract as documents: JSON Schemas and an AsyncAPI description. They are made from the
//! types and the names, so that they cannot differ from them.

use schemars::schema_for;

use crate::flow::{Flow, Lane};
use crate::subjects::Names;
use crate::{AccountEvent, Completion, Job};

/// The AsyncAPI description, with `<<name>>` in place of each name of [`Names`].
const TEMPLATE: &str = include_str!("contract/asyncapi.yaml.in");

/// Returns the documents of the contract: each with its path below `schemas/` and its text.
pub fn documents() -> Vec<(&'static str, String)> {
    vec![
        ("json/job.schema.json", pretty(&schema_for!(Job))),
        (
            "json/completion.schema.json",
            pretty(&schema_for!(Completion)),
        ),
        (
            "json/account_event.schema.json",
            pretty(&schema_for!(AccountEvent)),
        ),
        ("asyncapi.yaml", asyncapi(&Names::default())),
    ]
}

fn pretty(schema: &schemars::Schema) -> String {
    // A schema is a JSON value; printing one cannot fail.
    let text = serde_json::to_string_pretty(schema).unwrap_or_default();
    format!("{text}\n")
}

fn asyncapi(names: &Names) -> String {
    let flow = Flow {
        pool: "{pool}".to_owned(),
        team: "{team}".to_owned(),
        lane: Lane::Normal,
    };
    let job = names.job(&flow).replace("normal", "{lane}");
    let short = names.job_filters(&flow)[1].clone();
    let pool_only = short.replace(".{team}", "");
    // Built by hand: `Names::completion` would encode the braces of an id.
    let completion = names
        .completions_of("{team}", Some("{batch}"))
        .replace('*', "{id}");
    let ask = names
        .ask()
        .replacen('*', "{pool}", 1)
        .replacen('*', "{team}", 1);
    let dead = names.dead("{pool}", "{team}");
    let values = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("jobs_stream", names.jobs_stream()),
        ("completions_stream", names.completions_stream()),
        ("dead_stream", names.dead_stream()),
        ("reply_to", crate::header::REPLY_TO_HEADER.to_owned()),
        ("object", crate::header::OBJECT_HEADER.to_owned()),
        ("requests_bucket", names.requests_bucket()),
        ("answers_bucket", names.answers_bucket()),
        ("job", job),
        ("short", short),
        ("pool_only", pool_only),
        ("completion", completion),
        ("ask", ask),
        ("dead", dead),
        ("events_stream", names.events_stream()),
        ("account_event", names.account_event("{account}")),
    ];
    values
        .into_iter()
        .fold(TEMPLATE.to_owned(), |text, (name, value)| {
            text.replace(&format!("<<{name}>>"), &value)
        })
}
