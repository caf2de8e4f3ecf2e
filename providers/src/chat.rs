//! The unified chat request, which is OpenAI's, for dialects that encode it differently.
//!
//! No field is lost in silence: an unknown field is refused by name. Each dialect states which of
//! the known fields it maps and which it drops, see [`ChatFieldRules`].

pub(super) mod answer;
mod content;
mod effort;
mod fields;
mod tools;

use std::collections::HashSet;

use forebay_schemas::job::Object;
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Map, Number, Value};

use content::ContentPart;
pub(super) use content::{AttachedFile, ContentPiece, MediaContent, MessageContent, is_blank};
pub(super) use effort::{EffortShare, MOST_UNSTATED, ReasoningEffort};
pub(super) use fields::{ChatFieldRules, is_so_anyway, whole};
use tools::OfferedTool;
pub(super) use tools::{AnswerFormat, CalledTool, ToolCall, ToolChoice, ToolFunction, fitting};

use crate::unsupported::Unsupported;

#[derive(Debug, Deserialize)]
#[serde(expecting = "struct Chat")]
pub(super) struct ChatRequest {
    pub(super) messages: Vec<ChatMessage>,
    #[serde(default)]
    tools: Vec<OfferedTool>,
    #[serde(default)]
    pub(super) tool_choice: ToolChoice,
    pub(super) parallel_tool_calls: Option<bool>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    pub(super) temperature: Option<Number>,
    pub(super) top_p: Option<Number>,
    pub(super) top_k: Option<Number>,
    #[serde(default)]
    pub(super) stop: StopWords,
    pub(super) seed: Option<i64>,
    pub(super) presence_penalty: Option<Number>,
    pub(super) frequency_penalty: Option<Number>,
    pub(super) n: Option<u64>,
    #[serde(default)]
    pub(super) response_format: AnswerFormat,
    pub(super) reasoning_effort: Option<ReasoningEffort>,
    pub(super) verbosity: Option<String>,
    pub(super) service_tier: Option<String>,
    pub(super) prompt_cache_key: Option<String>,
    user: Option<String>,
    safety_identifier: Option<String>,
    pub(super) metadata: Option<Map<String, Value>>,
}

/// A message of a chat.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "struct Message")]
pub(super) struct ChatMessage {
    pub(super) role: MessageRole,
    #[serde(default)]
    pub(super) content: MessageContent,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) tool_calls: Vec<ToolCall>,
    pub(super) tool_call_id: Option<String>,
    /// The model's refusal in place of an answer.
    pub(super) refusal: Option<String>,
    /// The model's thoughts, for people.
    pub(super) reasoning_content: Option<String>,
    /// The images that the model drew: see [`answer::AnswerChoice`].
    #[serde(default, deserialize_with = "null_as_empty")]
    images: Vec<ContentPart>,
    /// The values that a provider wants back unchanged: see [`answer::OpaqueValue`].
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) reasoning_details: Vec<Value>,
    // The following fields are left out: names of speakers, which no other dialect has, and parts
    // of an answer that is sent back.
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "annotations")]
    _annotations: Option<Value>,
    #[serde(rename = "audio", default, deserialize_with = "nothing")]
    _audio: (),
    #[serde(rename = "function_call", default, deserialize_with = "nothing")]
    _function_call: (),
    #[serde(rename = "reasoning")]
    _reasoning: Option<Value>,
}

/// Refuses any value but null: only OpenAI can read it.
fn nothing<'de, D: serde::Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(()),
        _ => Err(D::Error::custom(
            "is OpenAI's alone, say it as `content` or as `tool_calls`",
        )),
    }
}

pub(super) fn null_as_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum MessageRole {
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
    Tool,
}

/// The texts that end an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged, expecting = "invalid type: not a text or a list of texts")]
pub(super) enum StopWords {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl StopWords {
    pub(super) fn list(&self) -> &[String] {
        match self {
            StopWords::None => &[],
            StopWords::One(one) => std::slice::from_ref(one),
            StopWords::Many(many) => many,
        }
    }
}

impl ChatRequest {
    /// Reads the request from a job's body, for a dialect with these rules for `fields`.
    pub(super) fn read(
        body: &Object,
        fields: &ChatFieldRules,
        provider: &str,
    ) -> Result<Self, Unsupported> {
        let mut known = Map::new();
        for (name, raw) in body {
            let value: Value = serde_json::from_str(raw.get())
                .map_err(|error| Unsupported::invalid(format!("body.{name}"), error.to_string()))?;
            if fields.passes(name, &value, provider)? {
                known.insert(name.clone(), whole(name, value));
            }
        }
        let mut chat: ChatRequest = serde_path_to_error::deserialize(Value::Object(known))
            .map_err(|error| unreadable(&error))?;
        chat.messages.iter_mut().for_each(ChatMessage::take_images);
        chat.check()?;
        Ok(chat)
    }

    /// Finds mistakes that every provider would refuse, before any call.
    fn check(&self) -> Result<(), Unsupported> {
        if self.messages.is_empty() {
            return Err(Unsupported::invalid("body.messages", "is empty"));
        }
        let maxima = [
            ("max_completion_tokens", self.max_completion_tokens),
            ("max_tokens", self.max_tokens),
        ];
        if let Some((name, _)) = maxima.into_iter().find(|(_, most)| *most == Some(0)) {
            return Err(Unsupported::invalid(
                format!("body.{name}"),
                "is 0, an answer has at least one token",
            ));
        }
        self.check_names()?;
        self.check_choice()?;
        if let AnswerFormat::JsonSchema { json_schema } = &self.response_format
            && json_schema.schema.is_null()
        {
            return Err(Unsupported::invalid(
                "body.response_format.json_schema.schema",
                "is missing",
            ));
        }
        let mut called = HashSet::new();
        for (index, message) in self.messages.iter().enumerate() {
            message.check(&format!("body.messages[{index}]"), &called)?;
            for call in &message.tool_calls {
                called.insert(call.id.as_str());
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), Unsupported> {
        let mut names = HashSet::new();
        let mut functions = self.functions().enumerate();
        let repeated = functions.find(|(_, function)| !names.insert(&function.name));
        let Some((index, _)) = repeated else {
            return Ok(());
        };
        let problem = "is the name of an earlier tool, too";
        Err(Unsupported::invalid(
            format!("body.tools[{index}].function.name"),
            problem,
        ))
    }

    fn check_choice(&self) -> Result<(), Unsupported> {
        match &self.tool_choice {
            ToolChoice::Required if !self.has_tools() => Err(Unsupported::invalid(
                "body.tool_choice",
                "asks for a call, and there are no `tools`",
            )),
            ToolChoice::One(name) if !self.has_function(name) => {
                let problem = "is none of the `tools`";
                Err(Unsupported::invalid(
                    "body.tool_choice.function.name",
                    problem,
                ))
            }
            _ => Ok(()),
        }
    }

    /// Returns the functions that the model may call.
    pub(super) fn functions(&self) -> impl Iterator<Item = &ToolFunction> {
        self.tools.iter().map(OfferedTool::function)
    }

    pub(super) fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    fn has_function(&self, name: &str) -> bool {
        self.functions().any(|function| function.name == name)
    }

    /// Returns the maximum length of the answer, in tokens; `None` where the job sets none.
    pub(super) fn most_tokens(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Returns the name of the end user, for a provider that watches for abuse.
    pub(super) fn end_user(&self) -> Option<&str> {
        let identifier = self.safety_identifier.as_deref();
        identifier.or(self.user.as_deref())
    }

    /// Returns the texts of all instructions in their order, without blank ones.
    pub(super) fn instructions(&self) -> Result<Vec<&str>, Unsupported> {
        let mut texts = Vec::new();
        for (index, message) in self.messages.iter().enumerate() {
            if message.role != MessageRole::System {
                continue;
            }
            let field = format!("body.messages[{index}].content");
            let given = message.content.texts(&field)?;
            texts.extend(given.into_iter().filter(|text| !is_blank(text)));
        }
        Ok(texts)
    }

    /// Returns the messages that are not instructions, each with its index.
    pub(super) fn turns(&self) -> impl Iterator<Item = (usize, &ChatMessage)> {
        self.messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.role != MessageRole::System)
    }

    /// Groups the messages into alternating turns of the user and of the model. Successive messages
    /// of one turn are joined; results of calls belong to the user. `parts` encodes a message in a
    /// dialect. The first item of a turn is true if the turn is the model's.
    pub(super) fn by_turns(
        &self,
        parts: impl Fn(&ChatMessage, &str) -> Result<Vec<Value>, Unsupported>,
    ) -> Result<Vec<(bool, Vec<Value>)>, Unsupported> {
        let mut turns: Vec<(bool, Vec<Value>)> = Vec::new();
        for (index, message) in self.turns() {
            let parts = parts(message, &format!("body.messages[{index}]"))?;
            let of_model = message.role == MessageRole::Assistant;
            match turns.last_mut() {
                Some((last, all)) if *last == of_model => all.extend(parts),
                _ if parts.is_empty() => {}
                _ => turns.push((of_model, parts)),
            }
        }
        Ok(turns)
    }

    /// Returns the name of the function that was called with this id.
    pub(super) fn function_of(&self, call_id: &str) -> Option<&str> {
        let messages = self.messages.iter();
        let mut calls = messages.flat_map(|message| &message.tool_calls);
        let call = calls.find(|call| call.id == call_id)?;
        Some(&call.function.name)
    }
}

impl ChatMessage {
    /// Moves the images that the model drew behind the message's text.
    fn take_images(&mut self) {
        if self.images.is_empty() {
            return;
        }
        let mut parts = match std::mem::take(&mut self.content) {
            MessageContent::None => Vec::new(),
            MessageContent::Text(text) => vec![ContentPart::Text { text }],
            MessageContent::Parts(parts) => parts,
        };
        parts.append(&mut self.images);
        self.content = MessageContent::Parts(parts);
    }

    fn check(&self, field: &str, called: &HashSet<&str>) -> Result<(), Unsupported> {
        if self.role != MessageRole::Assistant && matches!(self.content, MessageContent::None) {
            return Err(Unsupported::invalid(
                format!("{field}.content"),
                "is missing",
            ));
        }
        if self.role == MessageRole::Tool {
            let problem = match self.tool_call_id.as_deref() {
                None => "is missing: which call does this answer?",
                Some(id) if !called.contains(id) => "is no call of an earlier message",
                Some(_) => return self.content.check(&format!("{field}.content")),
            };
            return Err(Unsupported::invalid(
                format!("{field}.tool_call_id"),
                problem,
            ));
        }
        self.content.check(&format!("{field}.content"))
    }

    /// Returns the message's text, with the model's refusal behind it.
    pub(super) fn text_and_refusal(&self, field: &str) -> Result<String, Unsupported> {
        let mut text = self.content.texts(field)?.concat();
        if let Some(refusal) = &self.refusal {
            text.push_str(refusal);
        }
        Ok(text)
    }

    /// Returns the values in this message that `dialect` wants back.
    pub(super) fn opaque<'a>(&'a self, dialect: &'a str) -> impl Iterator<Item = &'a Value> {
        self.kept(dialect).filter_map(|detail| detail.get("data"))
    }

    fn kept<'a>(&'a self, dialect: &'a str) -> impl Iterator<Item = &'a Value> {
        let of_dialect =
            move |detail: &&Value| detail.get("format").is_some_and(|format| format == dialect);
        self.reasoning_details.iter().filter(of_dialect)
    }

    /// Returns the text, with the values that `dialect` wants back at their former places. `None`
    /// where no places are given.
    pub(super) fn woven<'a>(&'a self, dialect: &'a str) -> Option<Vec<Woven<'a>>> {
        let MessageContent::Text(text) = &self.content else {
            return None;
        };
        self.kept(dialect)
            .find(|detail| detail.get("after").is_some())?;
        let (mut woven, mut rest, mut from) = (Vec::new(), text.as_str(), 0);
        for detail in self.kept(dialect) {
            let after = detail.get("after").and_then(Value::as_u64).unwrap_or(0);
            let after = usize::try_from(after).unwrap_or(usize::MAX);
            let mut places = rest.char_indices();
            let place = places.nth(after.saturating_sub(from));
            let place = place.map_or(rest.len(), |(at, _)| at);
            let (before, behind) = rest.split_at(place);
            if !before.is_empty() {
                woven.push(Woven::Text(before));
            }
            woven.extend(detail.get("data").map(Woven::Opaque));
            (rest, from) = (behind, from.max(after));
        }
        if !rest.is_empty() {
            woven.push(Woven::Text(rest));
        }
        Some(woven)
    }
}

fn unreadable(error: &serde_path_to_error::Error<serde_json::Error>) -> Unsupported {
    let path = match error.path().to_string() {
        path if path == "." => "body".to_owned(),
        path => format!("body.{path}"),
    };
    Unsupported::unreadable(path, error.inner())
}

/// A piece of a message's text, or a value that its dialect wants back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Woven<'a> {
    Text(&'a str),
    Opaque(&'a Value),
}
