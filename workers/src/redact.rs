//! What errors repeat and nobody else is to read: credentials, the names of accounts, and the request's own words.
//!
//! OpenAI repeats the ends of a wrong key, Groq the organization, Cohere values of the request, OpenRouter the
//! beginning of a prompt that its moderation flagged.

use forebay_schemas::Job;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::secret::Secret;

/// What stands where an account's name stood.
const ACCOUNT: &str = "[account]";
/// What stands where words of the request stood.
const REQUEST: &str = "[request]";
/// What names of organizations and projects begin with.
const ACCOUNTS: [&str; 4] = ["org-", "org_", "proj_", "proj-"];
/// Characters of such a name at least; less is a word.
const SHORTEST_NAME: usize = 12;
/// Bytes of a text of the request that are told from a chance likeness.
const SHORTEST_TEXT: usize = 24;
/// No error repeats more bytes of a text.
const LONGEST_TEXT: usize = 4_096;
/// Fields of an error that hold the request, or another provider's error, as they came.
const FIELDS: [&str; 3] = ["flagged_input", "raw", "user_id"];
/// Fields of a job whose texts are names that an error has to repeat.
const NAMES: [&str; 4] = ["model", "name", "type", "role"];

/// What is taken out of an error to one call.
#[derive(Debug)]
pub(crate) struct Redaction<'a> {
    secret: &'a Secret,
    /// The texts of the request.
    texts: Vec<String>,
}

impl<'a> Redaction<'a> {
    pub(crate) fn new(secret: &'a Secret, job: &Job) -> Self {
        let mut texts = Vec::new();
        for (name, raw) in job.body.iter().filter(|(name, _)| !NAMES.contains(&name.as_str())) {
            let value = serde_json::from_str(raw.get()).unwrap_or(Value::Null);
            collect(name, value, &mut texts);
        }
        Self { secret, texts }
    }

    /// A text without what is not to be read.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut clean = without_accounts(&self.secret.redact(text));
        for said in &self.texts {
            clean = without(said, &clean);
        }
        clean
    }

    /// A body without it, JSON as before.
    pub(crate) fn body(&self, body: &RawValue) -> Option<Box<RawValue>> {
        let mut value = serde_json::from_str(body.get()).ok()?;
        self.clean(&mut value);
        serde_json::value::to_raw_value(&value).ok()
    }

    fn clean(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.clean(item)),
            Value::Object(map) => {
                map.retain(|name, _| !FIELDS.contains(&name.as_str()));
                map.values_mut().for_each(|value| self.clean(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn collect(name: &str, value: Value, texts: &mut Vec<String>) {
    match value {
        Value::String(mut text) if text.len() >= SHORTEST_TEXT && !NAMES.contains(&name) => {
            text.truncate(boundary(&text, LONGEST_TEXT.min(text.len())));
            texts.push(text);
        }
        Value::Array(items) => items.into_iter().for_each(|item| collect(name, item, texts)),
        Value::Object(map) => map.into_iter().for_each(|(name, value)| collect(&name, value, texts)),
        _ => {}
    }
}

/// `text` without what it repeats of the beginning of `said`, however much that is.
fn without(said: &str, text: &str) -> String {
    let beginning = &said[..boundary(said, SHORTEST_TEXT)];
    let (mut clean, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(beginning) {
        let (before, found) = rest.split_at(at);
        let same = found.bytes().zip(said.bytes()).take_while(|(one, other)| one == other).count();
        clean.push_str(before);
        clean.push_str(REQUEST);
        rest = &found[boundary(found, same)..];
    }
    clean + rest
}

/// Where the character begins in which byte `index` is.
fn boundary(text: &str, index: usize) -> usize {
    (0..=index).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

/// `text` without names of organizations and projects.
fn without_accounts(text: &str) -> String {
    let (mut clean, mut rest) = (String::new(), text);
    while let Some(at) = ACCOUNTS.iter().filter_map(|begin| rest.find(begin)).min() {
        let (before, found) = rest.split_at(at);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let length = found.find(|c| !is_name(c)).unwrap_or(found.len());
        let starts = !before.ends_with(is_name);
        clean.push_str(before);
        clean.push_str(if starts && length >= SHORTEST_NAME { ACCOUNT } else { &found[..length] });
        rest = &found[length..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(error: &str) -> String {
        let job = r#"{"body":{"model":"a-model-with-a-name-that-is-long","messages":[
            {"role":"user","content":"Ring me up: my number is 555 0100\nand not any other, please."}]}}"#;
        let job = Job::parse(job.as_bytes()).expect("a job");
        let secret = Secret::new("sk-very-secret");
        let redaction = Redaction::new(&secret, &job);
        let raw: Box<RawValue> = serde_json::from_str(error).expect("JSON");
        redaction.body(&raw).expect("JSON").get().to_owned()
    }

    #[test]
    fn errors_keep_their_words_and_lose_what_is_not_theirs() {
        for (error, expected) in [
            (
                r#"{"error":{"message":"Incorrect API key provided: sk-very-****cret."}}"#,
                r#"{"error":{"message":"Incorrect API key provided: [redacted]."}}"#,
            ),
            (
                r#"{"error":{"message":"Rate limit reached in organization `org_01hq3example` on tokens"}}"#,
                r#"{"error":{"message":"Rate limit reached in organization `[account]` on tokens"}}"#,
            ),
            (
                r#"{"message":"invalid: Ring me up: my number is 555 0100\nand not"}"#,
                r#"{"message":"invalid: [request]"}"#,
            ),
            (
                r#"{"error":{"code":403,"metadata":{"flagged_input":"Ring me up","reasons":["x"]}},"user_id":"u"}"#,
                r#"{"error":{"code":403,"metadata":{"reasons":["x"]}}}"#,
            ),
            (
                r#"{"error":"no a-model-with-a-name-that-is-long in the organisation"}"#,
                r#"{"error":"no a-model-with-a-name-that-is-long in the organisation"}"#,
            ),
            (r#"{"error":"reorg-anisation, org-"}"#, r#"{"error":"reorg-anisation, org-"}"#),
        ] {
            assert_eq!(clean(error), expected);
        }
    }
}
