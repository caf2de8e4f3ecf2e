//! Tools, calls of tools, and the format of an answer.

use forebay_schemas::quoting::without_values;
use forebay_schemas::subjects::hex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::unsupported::Unsupported;

/// A tool that the model may call.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum OfferedTool {
    Function { function: ToolFunction },
}

impl OfferedTool {
    pub(crate) fn function(&self) -> &ToolFunction {
        let OfferedTool::Function { function } = self;
        function
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "struct Function")]
pub(crate) struct ToolFunction {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) parameters: Option<Value>,
    pub(crate) strict: Option<bool>,
}

impl ToolFunction {
    /// Returns the schema of the arguments, which are an object. OpenAI takes a schema that does not say so, or none.
    pub(crate) fn schema(&self) -> Value {
        let mut schema = match &self.parameters {
            Some(Value::Object(schema)) => schema.clone(),
            Some(other) if !other.is_null() => return other.clone(),
            _ => Map::new(),
        };
        if schema.is_empty() {
            return json!({ "type": "object", "properties": {} });
        }
        schema.entry("type").or_insert_with(|| json!("object"));
        Value::Object(schema)
    }
}

/// The choice of the tools that the model calls.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "WireChoice")]
pub(crate) enum ToolChoice {
    #[default]
    Auto,
    Required,
    None,
    One(String),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "auto, required, none or {\"type\": \"function\", \"function\": {\"name\": …}}"
)]
enum WireChoice {
    Word(ChoiceWord),
    One {
        #[serde(rename = "type")]
        _kind: OnlyFunction,
        function: ToolName,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChoiceWord {
    Auto,
    #[serde(alias = "any")]
    Required,
    None,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
enum OnlyFunction {
    #[default]
    #[serde(rename = "function")]
    Function,
}

#[derive(Deserialize)]
#[serde(expecting = "struct Name")]
struct ToolName {
    name: String,
}

impl From<WireChoice> for ToolChoice {
    fn from(wire: WireChoice) -> Self {
        match wire {
            WireChoice::Word(ChoiceWord::Auto) => ToolChoice::Auto,
            WireChoice::Word(ChoiceWord::Required) => ToolChoice::Required,
            WireChoice::Word(ChoiceWord::None) => ToolChoice::None,
            WireChoice::One { function, .. } => ToolChoice::One(function.name),
        }
    }
}

/// A call that the model made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolCall {
    #[serde(rename = "type", default)]
    _kind: OnlyFunction,
    #[serde(rename = "index")]
    _index: Option<u64>,
    pub(crate) id: String,
    pub(crate) function: CalledTool,
    /// The value that a provider wants back with the call. Google's own OpenAI surface puts a
    /// signature here.
    pub(crate) extra_content: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "struct Called")]
pub(crate) struct CalledTool {
    pub(crate) name: String,
    /// The arguments: JSON as text.
    pub(crate) arguments: String,
}

impl ToolCall {
    /// Encodes the call in OpenAI's shape, with this id.
    pub(crate) fn with_id(&self, id: &str) -> Value {
        let CalledTool { name, arguments } = &self.function;
        let function = json!({ "name": name, "arguments": arguments });
        json!({ "id": id, "type": "function", "function": function })
    }

    /// Returns the arguments as an object; a blank text gives an empty one.
    pub(crate) fn arguments(&self, field: &str) -> Result<Map<String, Value>, Unsupported> {
        let text = self.function.arguments.trim();
        if text.is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_str(text).map_err(|error| {
            let problem = format!("is no JSON object as text: {}", without_values(&error));
            Unsupported::invalid(field, problem)
        })
    }
}

/// Returns an id of a call for a provider that limits its characters and its length. An id that
/// does not fit is replaced by a part of its hash, which is the same each time.
pub(crate) fn fitting(id: &str, longest: usize, marks: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    let is_short = (1..=longest).contains(&id.len());
    if is_short && id.chars().all(fits) {
        return id.to_owned();
    }
    hex(&Sha256::digest(id))[..32].to_owned()
}

/// The format of the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AnswerFormat {
    #[default]
    Text,
    JsonObject,
    JsonSchema {
        json_schema: JsonSchema,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "struct Schema")]
pub(crate) struct JsonSchema {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) schema: Value,
    pub(crate) strict: Option<bool>,
}
