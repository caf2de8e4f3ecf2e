//! OpenAI's dialect, for OpenAI and for every server that speaks it. The job's body is sent as it
//! is, except for the quirks in the provider's entry of the table. The answer is kept as it is.

mod answer;
mod messages;
mod multipart;

use forebay_schemas::job::Object;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall, AnswerKind};
use crate::chat::is_so_anyway;
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::registry::{Dialect, Quirks};
use crate::unsupported::Unsupported;

/// The beginning of a deployment's path, where Azure's API has a version.
const DEPLOYMENTS: &str = "/openai/deployments/";

/// OpenAI's dialect.
#[derive(Debug)]
pub(super) struct OpenAi;

impl Adapter for OpenAi {
    fn kinds(&self) -> &'static [WorkKind] {
        &WorkKind::ALL
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        if let Some(unsupported) = self.refusal(call) {
            return Err(unsupported);
        }
        let body = body(call)?;
        if call.kind == WorkKind::Transcription {
            // Mistral takes the items of a list under the list's plain name.
            let of_lists = match call.endpoint.provider.dialect {
                Dialect::Mistral => "",
                _ => "[]",
            };
            let (content_type, bytes) = multipart::of(&body, of_lists)?;
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, content_type);
            return Ok(call.request(&path(call), headers, bytes));
        }
        call.post(&path(call), &body)
    }

    fn refusal(&self, call: &AdapterCall<'_>) -> Option<Unsupported> {
        let mut refused = call.quirks().flat_map(|quirks| &quirks.refuses);
        if let Some(field) = refused.find(|field| asks(&call.job.body, field)) {
            let provider = &call.endpoint.provider.name;
            let problem = format!("{provider} refuses it, leave it out");
            return Some(Unsupported::new(format!("body.{field}"), problem));
        }
        if call.kind == WorkKind::Transcription {
            return multipart::file(&call.job.body).err();
        }
        None
    }

    fn decode(&self, call: &AdapterCall<'_>, reply: &Reply, _: Timestamp) -> Option<AdapterAnswer> {
        if call.kind == WorkKind::Speech {
            let body = answer::sound(reply)?;
            return Some(AdapterAnswer {
                body,
                usage: None,
                answer_kind: AnswerKind::Whole,
            });
        }
        let Ok(body) = serde_json::from_slice::<Box<RawValue>>(&reply.body) else {
            let body = answer::plain_text(call, reply)?;
            return Some(AdapterAnswer {
                body,
                usage: None,
                answer_kind: AnswerKind::Whole,
            });
        };
        let parts = answer::AnswerParts::read(body.get())?;
        let (answer_kind, usage) = (parts.answer_kind(), parts.usage());
        let is_answer = matches!(answer_kind, AnswerKind::Error(_)) || parts.answers(call.kind);
        is_answer.then_some(AdapterAnswer {
            body,
            usage,
            answer_kind,
        })
    }
}

/// Returns the path under the base address. Azure's older API names the deployment in it.
fn path(call: &AdapterCall<'_>) -> String {
    let path = call.kind.url().trim_start_matches("/v1");
    match &call.endpoint.api_version {
        // Azure's path of Responses names no deployment.
        Some(version) if call.kind == WorkKind::Responses => {
            format!("/openai{path}?api-version={version}")
        }
        Some(version) => format!(
            "{DEPLOYMENTS}{}{path}?api-version={version}",
            call.model_in_path()
        ),
        None => path.to_owned(),
    }
}

/// Returns true if a field requests more than happens without it.
fn asks(body: &Object, field: &str) -> bool {
    let Some(raw) = body.get(field) else {
        return false;
    };
    serde_json::from_str::<Value>(raw.get())
        .is_ok_and(|value| !value.is_null() && !is_so_anyway(field, &value))
}

/// Returns the job's body with the target's model and the provider's quirks.
fn body(call: &AdapterCall<'_>) -> Result<Object, Unsupported> {
    let mut body = call.job.body.clone();
    let model =
        to_raw_value(call.model).map_err(|error| Unsupported::new("model", error.to_string()))?;
    body.insert("model".to_owned(), model);
    for quirks in call.quirks() {
        let Quirks {
            drops,
            refuses,
            renames,
            ..
        } = quirks;
        // A refused field that is still here requests nothing: `refusal` has found no other.
        for field in drops.iter().chain(refuses) {
            body.remove(field);
        }
        for (field, name) in renames {
            if let Some(value) = body.remove(field) {
                body.entry(name.clone()).or_insert(value);
            }
        }
    }
    messages::adapt(&mut body, call.quirks());
    Ok(body)
}
