//! Chat requests as the simulator reads them from all dialects, and the answers to them before a dialect encodes
//! them.

use serde_json::{Value, json};

use super::schema;

/// A tool that a request offers to the model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RequestTool {
    pub(super) name: String,
    /// The JSON Schema of its arguments.
    pub(super) schema: Value,
}

impl RequestTool {
    /// Returns a tool; without a schema, it accepts any arguments.
    pub(super) fn new(name: &str, schema: Option<&Value>) -> Self {
        Self {
            name: name.to_owned(),
            schema: schema.cloned().unwrap_or_else(|| json!({})),
        }
    }
}

/// The rule by which the model decides if it calls a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum ToolSelection {
    /// The model decides.
    #[default]
    Free,
    /// The model calls no tool.
    Never,
    /// The model calls at least one tool.
    Any,
    /// The model calls the tool of this name.
    Named(String),
}

/// The form of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum AnswerForm {
    /// Plain text.
    #[default]
    Text,
    /// JSON of any shape.
    Json,
    /// JSON that this JSON Schema accepts.
    Schema(Value),
}

impl AnswerForm {
    /// Returns the form of a JSON Schema; without one, any JSON has the form.
    pub(super) fn of_schema(schema: Option<&Value>) -> Self {
        AnswerForm::Schema(schema.cloned().unwrap_or_else(|| json!({})))
    }
}

/// A chat request as the simulator reads it from any dialect.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct UnifiedRequest {
    /// The text of the last message, or of the question before the results of tools. Parts that are not text are
    /// described.
    pub(super) text: String,
    /// The results of tools; `None` if the conversation does not end with results.
    pub(super) result: Option<String>,
    pub(super) tools: Vec<RequestTool>,
    pub(super) choice: ToolSelection,
    pub(super) form: AnswerForm,
    /// The stop sequences, each of which ends the answer.
    pub(super) stops: Vec<String>,
    /// The most tokens of an answer; `None` for no limit.
    pub(super) max_tokens: Option<u64>,
    /// True if the request turns reasoning on.
    pub(super) reasoning: bool,
    /// True if the answer may hold at most one tool call.
    pub(super) single_call: bool,
}

impl UnifiedRequest {
    /// Returns how many of the `input` tokens of a prompt come from the cache.
    ///
    /// Half of the tokens do if the text begins with `cached `, and none otherwise.
    pub(super) fn cached(&self, input: u64) -> u64 {
        if self.text.starts_with("cached ") {
            input / 2
        } else {
            0
        }
    }
}

/// A call of a tool in an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AnswerCall {
    pub(super) name: String,
    /// The arguments, a JSON object.
    pub(super) arguments: Value,
}

impl AnswerCall {
    /// Returns the plainest call of `tool`.
    fn of(tool: &RequestTool) -> Self {
        let arguments = Some(schema::example(&tool.schema)).filter(Value::is_object);
        Self {
            name: tool.name.clone(),
            arguments: arguments.unwrap_or_else(|| json!({})),
        }
    }

    /// Returns the length of the call in bytes.
    fn length(&self) -> usize {
        let arguments = self.arguments.to_string();
        self.name.len() + arguments.len()
    }
}

/// Encodes each call with `encode`, which gets the call's place too.
pub(super) fn encode_calls(
    calls: &[AnswerCall],
    encode: impl Fn(usize, &AnswerCall) -> Value,
) -> Vec<Value> {
    let calls = calls.iter().enumerate();
    calls.map(|(at, call)| encode(at, call)).collect()
}

/// The content of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AnswerContent {
    Text(String),
    Calls(Vec<AnswerCall>),
    /// The text in which the model declines.
    Refusal(String),
}

impl AnswerContent {
    /// Returns the length of the content in bytes.
    fn length(&self) -> usize {
        match self {
            AnswerContent::Text(text) | AnswerContent::Refusal(text) => text.len(),
            AnswerContent::Calls(calls) => calls.iter().map(AnswerCall::length).sum(),
        }
    }
}

/// The reason why an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnswerEnd {
    /// The answer is complete.
    Whole,
    /// The answer reached this stop sequence.
    Stopped(String),
    /// The answer reached the most tokens.
    Length,
}

/// An answer to a chat request, before a dialect encodes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UnifiedAnswer {
    /// The text of the reasoning; `None` if there is no reasoning.
    pub(super) thought: Option<String>,
    pub(super) content: AnswerContent,
    pub(super) end: AnswerEnd,
    /// The tokens of the content alone.
    pub(super) tokens: u64,
    /// The tokens of the reasoning.
    pub(super) thought_tokens: u64,
}

impl UnifiedAnswer {
    /// Returns the text of the content; it is empty for tool calls.
    pub(super) fn text(&self) -> &str {
        match &self.content {
            AnswerContent::Text(text) | AnswerContent::Refusal(text) => text,
            AnswerContent::Calls(_) => "",
        }
    }

    /// Returns the tokens of the content and of the reasoning.
    pub(super) fn all_tokens(&self) -> u64 {
        self.tokens + self.thought_tokens
    }
}

/// Returns the answer to a request, which depends on the request alone.
pub(super) fn reply(request: &UnifiedRequest) -> UnifiedAnswer {
    let reasons = request.reasoning || request.text.starts_with("think ");
    let thought = reasons.then(|| format!("They say: {}", request.text));
    let thought_tokens = thought
        .as_ref()
        .map_or(0, |thought| thought.len() as u64 / 4 + 1);
    let (content, end) = match content(request) {
        AnswerContent::Text(text) => cut(text, request),
        other => (other, AnswerEnd::Whole),
    };
    let tokens = tokens(content.length());
    let tokens = if end == AnswerEnd::Length {
        request.max_tokens.unwrap_or(tokens)
    } else {
        tokens
    };
    UnifiedAnswer {
        thought,
        content,
        end,
        tokens,
        thought_tokens,
    }
}

/// Returns the tokens of an answer of `length` bytes. The first ten bytes, `You said: `, count as two tokens.
fn tokens(length: usize) -> u64 {
    (length as u64).saturating_sub(10) / 4 + 2
}

fn content(request: &UnifiedRequest) -> AnswerContent {
    if let Some(result) = &request.result {
        return AnswerContent::Text(format!("The tool said: {result}"));
    }
    if request.text.starts_with("refuse ") {
        return AnswerContent::Refusal("I cannot help with that.".to_owned());
    }
    let tools = called_tools(request);
    if !tools.is_empty() {
        return AnswerContent::Calls(tools.iter().map(AnswerCall::of).collect());
    }
    AnswerContent::Text(match &request.form {
        AnswerForm::Text => format!("You said: {}", request.text),
        AnswerForm::Json => json!({ "said": request.text }).to_string(),
        AnswerForm::Schema(schema) => schema::example(schema).to_string(),
    })
}

/// Returns the tools that the answer calls. It calls several only if the text begins with `call all `.
fn called_tools(request: &UnifiedRequest) -> &[RequestTool] {
    let tools = request.tools.as_slice();
    let first = &tools[..tools.len().min(1)];
    let callable = if request.text.starts_with("call all ") && !request.single_call {
        tools
    } else {
        first
    };
    match &request.choice {
        ToolSelection::Never => &[],
        ToolSelection::Any => callable,
        ToolSelection::Named(name) => match tools.iter().position(|tool| tool.name == *name) {
            Some(at) => &tools[at..=at],
            None => &[],
        },
        ToolSelection::Free if request.text.starts_with("call ") => callable,
        ToolSelection::Free => &[],
    }
}

/// Cuts a text at its first stop sequence and after the most tokens.
fn cut(mut text: String, request: &UnifiedRequest) -> (AnswerContent, AnswerEnd) {
    let mut end = AnswerEnd::Whole;
    let place = |stop| {
        let at = text.find(stop)?;
        Some((at, stop))
    };
    let stops = request.stops.iter();
    let places = stops.filter(|stop| !stop.is_empty()).filter_map(place);
    if let Some((at, stop)) = places.min() {
        text.truncate(at);
        end = AnswerEnd::Stopped(stop.clone());
    }
    let exceeded = |most: &u64| tokens(text.len()) > *most;
    if let Some(most) = request.max_tokens.filter(exceeded) {
        let bytes = usize::try_from(most * 4).unwrap_or(usize::MAX);
        text.truncate(text.floor_char_boundary(bytes));
        end = AnswerEnd::Length;
    }
    (AnswerContent::Text(text), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> UnifiedRequest {
        UnifiedRequest {
            text: text.to_owned(),
            ..UnifiedRequest::default()
        }
    }

    #[test]
    fn an_answer_follows_its_request() {
        let tool = |name: &str| RequestTool {
            name: name.to_owned(),
            schema: json!({ "type": "object" }),
        };
        let tools = vec![tool("weather"), tool("time")];
        let made = |name: &str| AnswerCall {
            name: name.to_owned(),
            arguments: json!({}),
        };
        let call = AnswerContent::Calls(vec![made("weather")]);
        let both = AnswerContent::Calls(vec![made("weather"), made("time")]);
        assert_eq!(reply(&request("hello")).text(), "You said: hello");
        assert!(matches!(
            reply(&request("refuse this")).content,
            AnswerContent::Refusal(_)
        ));
        assert!(reply(&request("think hard")).thought.is_some());
        assert_eq!(
            reply(&UnifiedRequest {
                tools: tools.clone(),
                ..request("call it")
            })
            .content,
            call
        );
        assert_eq!(
            reply(&UnifiedRequest {
                tools: tools.clone(),
                choice: ToolSelection::Any,
                ..request("hi")
            })
            .content,
            call
        );
        let all = UnifiedRequest {
            tools: tools.clone(),
            ..request("call all of them")
        };
        assert_eq!(reply(&all).content, both);
        assert_eq!(
            reply(&UnifiedRequest {
                single_call: true,
                ..all
            })
            .content,
            call
        );
        let never = UnifiedRequest {
            tools,
            choice: ToolSelection::Never,
            ..request("call it")
        };
        assert_eq!(reply(&never).text(), "You said: call it");
        let result = UnifiedRequest {
            result: Some("rain".to_owned()),
            choice: ToolSelection::Any,
            ..request("call it")
        };
        assert_eq!(reply(&result).text(), "The tool said: rain");
    }

    #[test]
    fn an_answer_ends_at_a_stop_sequence_or_at_its_most_tokens() {
        let stopped = reply(&UnifiedRequest {
            stops: vec!["lo".to_owned(), "l".to_owned()],
            ..request("hello")
        });
        assert_eq!(
            (stopped.text(), &stopped.end),
            ("You said: he", &AnswerEnd::Stopped("l".to_owned()))
        );
        let cut = reply(&UnifiedRequest {
            max_tokens: Some(3),
            ..request("a long story of a river")
        });
        assert_eq!(
            (cut.text(), &cut.end, cut.tokens),
            ("You said: a ", &AnswerEnd::Length, 3)
        );
    }
}
