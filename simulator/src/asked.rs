//! What a conversation asks for and what is said to it, in no dialect.

use serde_json::{Value, json};

use super::schema;

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RequestTool {
    pub(super) name: String,
    pub(super) schema: Value,
}

/// Whether a tool is to be called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum ToolSelection {
    #[default]
    Free,
    Never,
    Any,
    Named(String),
}

/// The form of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum AnswerForm {
    #[default]
    Text,
    Json,
    Schema(Value),
}

/// What a conversation asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct UnifiedRequest {
    /// What the last message says; what is not text is described.
    pub(super) text: String,
    /// What a tool gave back, where the conversation ends with that.
    pub(super) result: Option<String>,
    pub(super) tools: Vec<RequestTool>,
    pub(super) choice: ToolSelection,
    pub(super) form: AnswerForm,
    pub(super) stops: Vec<String>,
    /// The most tokens of an answer.
    pub(super) most: Option<u64>,
    /// Whether reasoning is asked for.
    pub(super) thinks: bool,
    /// Whether no more than one tool may be called at once.
    pub(super) one_call: bool,
}

impl UnifiedRequest {
    /// How many of the `input` tokens of a prompt were cached before: half of them, where that is wished for.
    pub(super) fn cached(&self, input: u64) -> u64 {
        if self.text.starts_with("cached ") {
            input / 2
        } else {
            0
        }
    }
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AnswerCall {
    pub(super) name: String,
    /// An object.
    pub(super) arguments: Value,
}

/// What is said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AnswerContent {
    Text(String),
    Calls(Vec<AnswerCall>),
    Refusal(String),
}

/// Why no more is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnswerEnd {
    Whole,
    Stopped(String),
    Length,
}

/// An answer to a conversation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UnifiedAnswer {
    pub(super) thought: Option<String>,
    pub(super) content: AnswerContent,
    pub(super) end: AnswerEnd,
    /// The tokens of the content alone.
    pub(super) tokens: u64,
    /// The tokens of the thought.
    pub(super) thought_tokens: u64,
}

impl UnifiedAnswer {
    pub(super) fn text(&self) -> &str {
        match &self.content {
            AnswerContent::Text(text) | AnswerContent::Refusal(text) => text,
            AnswerContent::Calls(_) => "",
        }
    }

    pub(super) fn all_tokens(&self) -> u64 {
        self.tokens + self.thought_tokens
    }
}

/// What is said: made from what is asked alone.
pub(super) fn reply(asked: &UnifiedRequest) -> UnifiedAnswer {
    let thinks = asked.thinks || asked.text.starts_with("think ");
    let thought = thinks.then(|| format!("They say: {}", asked.text));
    let thought_tokens = thought
        .as_ref()
        .map_or(0, |thought| thought.len() as u64 / 4 + 1);
    let content = content(asked);
    let (content, end) = match content {
        AnswerContent::Text(text) => cut(text, asked),
        other => (other, AnswerEnd::Whole),
    };
    let length = match &content {
        AnswerContent::Text(text) | AnswerContent::Refusal(text) => text.len(),
        AnswerContent::Calls(calls) => calls
            .iter()
            .map(|call| call.name.len() + call.arguments.to_string().len())
            .sum(),
    };
    let tokens = tokens(length);
    let tokens = if end == AnswerEnd::Length {
        asked.most.unwrap_or(tokens)
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

/// The tokens of so many bytes of an answer. `You said: ` counts as two, whatever follows.
fn tokens(length: usize) -> u64 {
    (length as u64).saturating_sub(10) / 4 + 2
}

fn content(asked: &UnifiedRequest) -> AnswerContent {
    if asked.text.starts_with("refuse ") && asked.result.is_none() {
        return AnswerContent::Refusal("I cannot help with that.".to_owned());
    }
    if let Some(result) = &asked.result {
        return AnswerContent::Text(format!("The tool said: {result}"));
    }
    let tools = called(asked);
    if !tools.is_empty() {
        return AnswerContent::Calls(tools.iter().map(call).collect());
    }
    AnswerContent::Text(match &asked.form {
        AnswerForm::Text => format!("You said: {}", asked.text),
        AnswerForm::Json => json!({ "said": asked.text }).to_string(),
        AnswerForm::Schema(wanted) => schema::example(wanted).to_string(),
    })
}

/// A call with the plainest arguments.
fn call(tool: &RequestTool) -> AnswerCall {
    let arguments = Some(schema::example(&tool.schema)).filter(Value::is_object);
    AnswerCall {
        name: tool.name.clone(),
        arguments: arguments.unwrap_or_else(|| json!({})),
    }
}

/// The tools that are to be called: all only where the text says so.
fn called(asked: &UnifiedRequest) -> &[RequestTool] {
    let tools = asked.tools.as_slice();
    let first = &tools[..tools.len().min(1)];
    let wished = if asked.text.starts_with("call all ") && !asked.one_call {
        tools
    } else {
        first
    };
    match &asked.choice {
        ToolSelection::Never => &[],
        ToolSelection::Any => wished,
        ToolSelection::Named(name) => match tools.iter().position(|tool| tool.name == *name) {
            Some(at) => &tools[at..=at],
            None => &[],
        },
        ToolSelection::Free if asked.text.starts_with("call ") => wished,
        ToolSelection::Free => &[],
    }
}

/// What is left of a text before the first stop sequence and within the most tokens.
fn cut(mut text: String, asked: &UnifiedRequest) -> (AnswerContent, AnswerEnd) {
    let mut end = AnswerEnd::Whole;
    let stops = asked.stops.iter().filter(|stop| !stop.is_empty());
    if let Some((at, stop)) = stops
        .filter_map(|stop| Some((text.find(stop)?, stop)))
        .min()
    {
        text.truncate(at);
        end = AnswerEnd::Stopped(stop.clone());
    }
    if let Some(most) = asked.most.filter(|most| tokens(text.len()) > *most) {
        let mut at = usize::try_from(most * 4)
            .unwrap_or(usize::MAX)
            .min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
        end = AnswerEnd::Length;
    }
    (AnswerContent::Text(text), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> UnifiedRequest {
        UnifiedRequest {
            text: text.to_owned(),
            ..UnifiedRequest::default()
        }
    }

    #[test]
    fn what_is_said_follows_what_is_asked() {
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
        assert_eq!(reply(&asked("hello")).text(), "You said: hello");
        assert!(matches!(
            reply(&asked("refuse this")).content,
            AnswerContent::Refusal(_)
        ));
        assert!(reply(&asked("think hard")).thought.is_some());
        assert_eq!(
            reply(&UnifiedRequest {
                tools: tools.clone(),
                ..asked("call it")
            })
            .content,
            call
        );
        assert_eq!(
            reply(&UnifiedRequest {
                tools: tools.clone(),
                choice: ToolSelection::Any,
                ..asked("hi")
            })
            .content,
            call
        );
        let all = UnifiedRequest {
            tools: tools.clone(),
            ..asked("call all of them")
        };
        assert_eq!(reply(&all).content, both);
        assert_eq!(
            reply(&UnifiedRequest {
                one_call: true,
                ..all
            })
            .content,
            call
        );
        let never = UnifiedRequest {
            tools,
            choice: ToolSelection::Never,
            ..asked("call it")
        };
        assert_eq!(reply(&never).text(), "You said: call it");
        let result = UnifiedRequest {
            result: Some("rain".to_owned()),
            choice: ToolSelection::Any,
            ..asked("call it")
        };
        assert_eq!(reply(&result).text(), "The tool said: rain");
    }

    #[test]
    fn an_answer_ends_at_a_stop_sequence_or_at_its_most_tokens() {
        let stopped = reply(&UnifiedRequest {
            stops: vec!["lo".to_owned(), "l".to_owned()],
            ..asked("hello")
        });
        assert_eq!(
            (stopped.text(), &stopped.end),
            ("You said: he", &AnswerEnd::Stopped("l".to_owned()))
        );
        let cut = reply(&UnifiedRequest {
            most: Some(3),
            ..asked("a long story of a river")
        });
        assert_eq!(
            (cut.text(), &cut.end, cut.tokens),
            ("You said: a ", &AnswerEnd::Length, 3)
        );
    }
}
