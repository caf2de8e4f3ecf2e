//! The exact number of tokens of a request, by the tokenizer of its model, where that is published.
//!
//! Messages are framed as in OpenAI's cookbook ("How to count tokens with tiktoken"). The schemas
//! of tools count as their JSON, because their framing is not published. The usage that providers
//! report corrects the rest: see `accounts/token_correction.rs` in `workers`.

use std::collections::HashSet;

use serde_json::Value;
use tiktoken_rs::CoreBPE;

use crate::estimate::MEDIA;

/// The framing tokens of a message.
const MESSAGE: usize = 3;
/// The framing tokens of a message's name.
const NAME: usize = 1;
/// The tokens that begin the answer.
const REPLY: usize = 3;
/// The framing tokens of a call to a tool.
const CALL: usize = 1;
/// The longest text that is counted, in bytes; longer text is estimated. One token more or less
/// matters little there. Counting would take tenths of a second where text does not break into
/// words.
const LONGEST: usize = 1 << 16;

/// Counts the tokens of the part `name` of a request's body; `None` where only an estimate is
/// possible.
pub(super) fn tokens(model: &str, name: &str, value: &Value) -> Option<usize> {
    let counter = Counter(tiktoken_rs::bpe_for_model(model).ok()?);
    match (name, value) {
        ("messages", Value::Array(messages)) => {
            let counts = messages.iter().map(|message| counter.message(message));
            Some(counts.sum::<Option<usize>>()? + REPLY)
        }
        ("input", _) => counter.input(value),
        _ => counter.text(&value.to_string()),
    }
}

struct Counter(&'static CoreBPE);

impl Counter {
    fn text(&self, text: &str) -> Option<usize> {
        if text.len() > LONGEST {
            return None;
        }
        // The tokenizer fails on some texts, such as very long runs of blanks.
        let (tokens, _) = self.0.encode(text, &HashSet::new()).ok()?;
        Some(tokens.len())
    }

    /// Counts the tokens of an embedding's input: a text, its token ids, or several of either.
    fn input(&self, value: &Value) -> Option<usize> {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                let counts = items.iter().map(|item| self.input(item));
                counts.sum()
            }
            Value::Number(_) => Some(1),
            _ => None,
        }
    }

    fn message(&self, message: &Value) -> Option<usize> {
        let mut tokens = MESSAGE;
        for (field, value) in message.as_object()? {
            tokens += match (field.as_str(), value) {
                (_, Value::Null) => 0,
                ("content", Value::Array(parts)) => parts
                    .iter()
                    .map(|part| self.part(part))
                    .sum::<Option<usize>>()?,
                ("role" | "content" | "refusal" | "tool_call_id", Value::String(text)) => {
                    self.text(text)?
                }
                ("name", Value::String(name)) => self.text(name)? + NAME,
                ("tool_calls", Value::Array(calls)) => calls
                    .iter()
                    .map(|call| self.call(call.get("function")?))
                    .sum::<Option<usize>>()?,
                ("function_call", call) => self.call(call)?,
                _ => return None,
            };
        }
        Some(tokens)
    }

    fn part(&self, part: &Value) -> Option<usize> {
        match part.get("text") {
            Some(text) => self.text(text.as_str()?),
            None => Some(MEDIA),
        }
    }

    fn call(&self, function: &Value) -> Option<usize> {
        let text = |field: &str| self.text(function.get(field)?.as_str()?);
        Some(text("name")? + text("arguments")? + CALL)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// OpenAI's cookbook prints the expected counts beside those of its API.
    #[test]
    fn messages_count_as_the_cookbook_says() {
        let messages = json!([
            {"role": "system", "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
            {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
            {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
            {"role": "system", "name": "example_user", "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
            {"role": "system", "name": "example_assistant", "content": "Let's talk later when we're less busy about how to do better."},
            {"role": "user", "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
        ]);
        assert_eq!(tokens("gpt-4", "messages", &messages), Some(129));
        assert_eq!(tokens("gpt-4o-mini", "messages", &messages), Some(124));
    }

    #[test]
    fn inputs_count_as_text_or_as_the_tokens_that_they_are() {
        assert_eq!(
            tokens(
                "text-embedding-3-small",
                "input",
                &json!("tiktoken is great!")
            ),
            Some(6)
        );
        assert_eq!(
            tokens(
                "text-embedding-3-small",
                "input",
                &json!(["tiktoken is great!", "a"])
            ),
            Some(7)
        );
        assert_eq!(
            tokens("text-embedding-3-small", "input", &json!([1, 2, 3])),
            Some(3)
        );
    }

    #[test]
    fn what_is_not_published_is_left_to_the_estimate() {
        assert_eq!(tokens("claude-opus-4", "input", &json!("Hello")), None);
        assert_eq!(
            tokens("gpt-4o", "messages", &json!([{"role": "user", "odd": 1}])),
            None
        );
        assert_eq!(
            tokens("gpt-4o", "input", &json!("a ".repeat(LONGEST))),
            None
        );
        for unit in [" ", "a", "^", "\n", "漢"] {
            let longest = unit.repeat(LONGEST / unit.len());
            assert!(
                tokens("gpt-4o", "input", &json!(longest)).is_some(),
                "{unit:?}"
            );
        }
    }
}
