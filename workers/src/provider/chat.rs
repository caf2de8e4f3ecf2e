//! The unified chat request, which is OpenAI's, read for dialects that say it otherwise.
//!
//! Nothing is lost in silence: a field that is not listed here is refused by name, and each dialect says which of
//! the listed ones it maps and which it drops, see [`Fields`].

pub(super) mod answer;
mod content;
mod fields;
mod tools;

use forebay_schemas::job::Object;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

pub(super) use content::{Content, File, Piece};
pub(super) use fields::Fields;
pub(super) use tools::{Choice, Format, Function, Tool, ToolCall};

use super::Unsupported;

/// A chat request.
#[derive(Debug, Deserialize)]
pub(super) struct Chat {
    pub(super) messages: Vec<Message>,
    #[serde(default)]
    pub(super) tools: Vec<Tool>,
    #[serde(default)]
    pub(super) tool_choice: Choice,
    pub(super) parallel_tool_calls: Option<bool>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    pub(super) temperature: Option<Number>,
    pub(super) top_p: Option<Number>,
    pub(super) top_k: Option<Number>,
    #[serde(default)]
    pub(super) stop: Stop,
    pub(super) seed: Option<i64>,
    pub(super) presence_penalty: Option<Number>,
    pub(super) frequency_penalty: Option<Number>,
    pub(super) n: Option<u64>,
    #[serde(default)]
    pub(super) response_format: Format,
    pub(super) reasoning_effort: Option<Effort>,
    pub(super) verbosity: Option<String>,
    pub(super) service_tier: Option<String>,
    user: Option<String>,
    safety_identifier: Option<String>,
    pub(super) metadata: Option<Map<String, Value>>,
}

/// How much a model thinks before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

impl Effort {
    /// The tokens of thought that stand for it where a budget is asked for (LiteLLM's figures).
    pub(super) fn budget(self) -> u64 {
        match self {
            Effort::None => 0,
            Effort::Minimal | Effort::Low => 1_024,
            Effort::Medium => 2_048,
            Effort::High => 4_096,
            Effort::Xhigh => 8_192,
            Effort::Max => 16_384,
        }
    }

    /// OpenAI's word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Effort::None => "none",
            Effort::Minimal => "minimal",
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::Xhigh => "xhigh",
            Effort::Max => "max",
        }
    }

    /// The nearest of the three that everybody has; `None` for no thought at all.
    pub(super) fn of_three(self) -> Option<&'static str> {
        match self {
            Effort::None => None,
            Effort::Minimal | Effort::Low => Some("low"),
            Effort::Medium => Some("medium"),
            Effort::High | Effort::Xhigh | Effort::Max => Some("high"),
        }
    }
}

/// A message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) role: Role,
    #[serde(default)]
    pub(super) content: Content,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) tool_calls: Vec<ToolCall>,
    pub(super) tool_call_id: Option<String>,
    /// What the model said instead of an answer.
    pub(super) refusal: Option<String>,
    /// What the model thought, for people.
    pub(super) reasoning_content: Option<String>,
    /// What a provider wants back as it gave it: see [`answer::Opaque`].
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) reasoning_details: Vec<Value>,
    // What follows is left out: names of speakers, which no other dialect has, and what came beside an answer that
    // is sent back.
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "annotations")]
    _annotations: Option<Value>,
    #[serde(rename = "audio")]
    _audio: Option<Value>,
    #[serde(rename = "function_call")]
    _function_call: Option<()>,
    #[serde(rename = "reasoning")]
    _reasoning: Option<Value>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
    Tool,
}

/// Texts that end the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub(super) enum Stop {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Stop {
    pub(super) fn list(&self) -> &[String] {
        match self {
            Stop::None => &[],
            Stop::One(one) => std::slice::from_ref(one),
            Stop::Many(many) => many,
        }
    }
}

impl Chat {
    /// Reads a job's body for a dialect that maps and drops `fields`.
    pub(super) fn read(body: &Object, fields: &Fields, provider: &str) -> Result<Self, Unsupported> {
        let mut known = Map::new();
        for (name, raw) in body {
            let value: Value = serde_json::from_str(raw.get())
                .map_err(|error| Unsupported::new(format!("body.{name}"), error.to_string()))?;
            if fields.passes(name, &value, provider)? {
                known.insert(name.clone(), value);
            }
        }
        let chat: Chat = serde_path_to_error::deserialize(Value::Object(known)).map_err(|error| {
            let path = match error.path().to_string() {
                path if path == "." => "body".to_owned(),
                path => format!("body.{path}"),
            };
            Unsupported::new(path, error.into_inner().to_string())
        })?;
        chat.check()?;
        Ok(chat)
    }

    fn check(&self) -> Result<(), Unsupported> {
        if self.messages.is_empty() {
            return Err(Unsupported::new("body.messages", "is empty"));
        }
        for (index, message) in self.messages.iter().enumerate() {
            if message.role == Role::Tool && message.tool_call_id.is_none() {
                let field = format!("body.messages[{index}].tool_call_id");
                return Err(Unsupported::new(field, "is missing: which call does this answer?"));
            }
        }
        Ok(())
    }

    /// The longest answer that is wanted, in tokens.
    pub(super) fn most_tokens(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Who is served, for a provider that watches for abuse.
    pub(super) fn end_user(&self) -> Option<&str> {
        self.safety_identifier.as_deref().or(self.user.as_deref())
    }

    /// The texts of all instructions, in their order.
    pub(super) fn instructions(&self) -> Result<Vec<&str>, Unsupported> {
        let mut texts = Vec::new();
        for (index, message) in self.messages.iter().enumerate().filter(|(_, m)| m.role == Role::System) {
            texts.extend(message.content.texts(&format!("body.messages[{index}].content"))?);
        }
        Ok(texts)
    }

    /// The messages that are no instructions, each with its place.
    pub(super) fn turns(&self) -> impl Iterator<Item = (usize, &Message)> {
        self.messages.iter().enumerate().filter(|(_, message)| message.role != Role::System)
    }

    /// The name of the function that a result answers.
    pub(super) fn function_of(&self, call_id: &str) -> Option<&str> {
        let calls = self.messages.iter().flat_map(|message| &message.tool_calls);
        calls.into_iter().find(|call| call.id == call_id).map(|call| call.function.name.as_str())
    }
}

impl Message {
    /// What `dialect` wants back of this message as it gave it.
    pub(super) fn opaque<'a>(&'a self, dialect: &'a str) -> impl Iterator<Item = &'a Value> {
        let of_dialect = move |detail: &&Value| detail.get("format").is_some_and(|format| format == dialect);
        self.reasoning_details.iter().filter(of_dialect).filter_map(|detail| detail.get("data"))
    }
}
