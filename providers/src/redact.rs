//! The redaction of errors. They repeat credentials, the names of accounts, and the request's own
//! words.
//!
//! OpenAI repeats the ends of a wrong key, Groq the organization, Cohere values of the request.
//! OpenRouter repeats the beginning of a prompt that its moderation flagged.

use std::collections::{HashMap, HashSet};

use forebay_schemas::Job;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::secret::Secret;

/// The marks between which an error quotes a value.
const QUOTATION_MARKS: [char; 3] = ['"', '\'', '`'];
/// The replacement of an account's name.
const ACCOUNT: &str = "[account]";
/// The replacement of words of the request.
const REQUEST: &str = "[request]";
/// The prefixes of the names of organizations and projects.
const ACCOUNTS: [&str; 4] = ["org-", "org_", "proj_", "proj-"];
/// The fewest characters of such a name; a shorter text is a word.
const SHORTEST_NAME: usize = 12;
/// The fewest bytes of a text of the request that cannot match by chance.
const BEGINNING: usize = 24;
/// The fewest bytes of a shorter text that is found where an error quotes it.
const SHORTEST_QUOTED: usize = 4;
/// The most texts with one beginning that are found whole. Of any more, only their common part with
/// these is found.
const MOST_ALIKE: usize = 8;
/// The most bytes of a text that an error repeats.
const LONGEST_TEXT: usize = 4_096;
/// The largest good answer, in bytes, in which the credential is searched. Larger ones are images, sounds and vectors.
const LONGEST_ANSWER: usize = 1 << 20;
/// The fields of an error that are removed. They hold the request or another provider's error as
/// they came, or the id of a user.
const FIELDS: [&str; 3] = ["flagged_input", "raw", "user_id"];
/// The fields of a job whose texts are names that an error has to repeat.
const NAMES: [&str; 4] = ["model", "name", "type", "role"];

/// The redaction of the errors of one call.
#[derive(Debug)]
pub struct Redaction<'a> {
    secret: &'a Secret,
    /// The texts of the request by their beginnings, both as they are and as escaped in JSON.
    texts: HashMap<[u8; BEGINNING], Vec<String>>,
    /// The shorter texts of the request. They may match by chance, so they are found in quotation marks alone.
    short: HashSet<String>,
}

impl<'a> Redaction<'a> {
    /// Prepares the redaction for a job. With `by_limit` it ignores the request's texts: a refusal
    /// by a limit repeats none of them, and there may be many refusals.
    pub fn new(secret: &'a Secret, job: &Job, by_limit: bool) -> Self {
        let (mut texts, mut short) = (HashMap::new(), HashSet::new());
        let fields = job
            .body
            .iter()
            .filter(|(name, _)| !by_limit && !NAMES.contains(&name.as_str()));
        for (name, raw) in fields {
            let value = serde_json::from_str(raw.get()).unwrap_or(Value::Null);
            collect(name, value, &mut texts, &mut short);
        }
        Self {
            secret,
            texts,
            short,
        }
    }

    /// Redacts a text.
    pub fn text(&self, text: &str) -> String {
        let clean = self.without_request(&without_accounts(&self.secret.redact(text)));
        self.without_quoted(&clean)
    }

    /// Redacts a JSON body; `None` if it is not JSON.
    pub fn body(&self, body: &RawValue) -> Option<Box<RawValue>> {
        let mut value = serde_json::from_str(body.get()).ok()?;
        self.clean(&mut value);
        serde_json::value::to_raw_value(&value).ok()
    }

    /// Redacts the texts of the request that `text` has between two equal quotation marks.
    fn without_quoted(&self, text: &str) -> String {
        if self.short.is_empty() {
            return text.to_owned();
        }
        let (mut clean, mut rest) = (String::new(), text);
        while let Some((at, mark)) = rest
            .char_indices()
            .find(|(_, c)| QUOTATION_MARKS.contains(c))
        {
            let (before, quoted) = rest.split_at(at + mark.len_utf8());
            clean.push_str(before);
            rest = quoted;
            let inner = quoted
                .find(mark)
                .map(|end| quoted[..end].trim_end_matches('\\'));
            if let Some(inner) = inner.filter(|inner| self.short.contains(*inner)) {
                clean.push_str(REQUEST);
                rest = &quoted[inner.len()..];
            }
        }
        clean + rest
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

    /// Redacts in `text` every repetition of the beginning of one of the request's texts, however
    /// long.
    fn without_request(&self, text: &str) -> String {
        let (mut clean, mut from, mut at) = (String::new(), 0, 0);
        while let Some(beginning) = beginning(text, at) {
            let Some(known) = self.texts.get(beginning) else {
                at += 1;
                continue;
            };
            let found = &text[at..];
            let same = known.iter().map(|known| same_bytes(found, known));
            let same = same.max().unwrap_or(BEGINNING);
            clean.push_str(&text[from..at]);
            clean.push_str(REQUEST);
            at += boundary(found, same);
            from = at;
        }
        clean.push_str(&text[from..]);
        clean
    }
}

/// Redacts the credential in the body of a good answer; `None` if the answer stays as it is. Its own words are the
/// producer's and stay.
pub fn redact_answer(secret: &Secret, body: &RawValue) -> Option<Box<RawValue>> {
    let text = body.get();
    if text.len() > LONGEST_ANSWER || !secret.is_repeated_in(text) {
        return None;
    }
    let mut value = serde_json::from_str(text).ok()?;
    remove_secret(secret, &mut value);
    serde_json::value::to_raw_value(&value).ok()
}

fn remove_secret(secret: &Secret, value: &mut Value) {
    match value {
        Value::String(text) => *text = secret.redact(text),
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| remove_secret(secret, item)),
        Value::Object(map) => {
            for (name, mut value) in std::mem::take(map) {
                remove_secret(secret, &mut value);
                map.insert(secret.redact(&name), value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn beginning(text: &str, at: usize) -> Option<&[u8; BEGINNING]> {
    let rest = text.as_bytes().get(at..)?;
    rest.first_chunk()
}

fn same_bytes(one: &str, other: &str) -> usize {
    one.bytes()
        .zip(other.bytes())
        .take_while(|(one, other)| one == other)
        .count()
}

/// Keeps a text that is long enough not to match by chance.
fn keep(mut text: String, texts: &mut HashMap<[u8; BEGINNING], Vec<String>>) {
    text.truncate(boundary(&text, LONGEST_TEXT.min(text.len())));
    if let Some(beginning) = beginning(&text, 0) {
        let known = texts.entry(*beginning).or_default();
        if known.len() < MOST_ALIKE {
            known.push(text);
        }
    }
}

fn collect(
    name: &str,
    value: Value,
    texts: &mut HashMap<[u8; BEGINNING], Vec<String>>,
    short: &mut HashSet<String>,
) {
    match value {
        Value::String(text) if text.len() >= BEGINNING && !NAMES.contains(&name) => {
            let escaped =
                Value::from(&text[..boundary(&text, LONGEST_TEXT.min(text.len()))]).to_string();
            let escaped = &escaped[1..escaped.len() - 1];
            if !text.starts_with(escaped) {
                keep(escaped.to_owned(), texts);
            }
            keep(text, texts);
        }
        Value::String(text) if text.len() >= SHORTEST_QUOTED && !NAMES.contains(&name) => {
            short.insert(text);
        }
        Value::Array(items) => items
            .into_iter()
            .for_each(|item| collect(name, item, texts, short)),
        Value::Object(map) => map
            .into_iter()
            .for_each(|(name, value)| collect(&name, value, texts, short)),
        _ => {}
    }
}

/// Returns the start of the character that contains the byte `index`.
fn boundary(text: &str, index: usize) -> usize {
    (0..=index)
        .rev()
        .find(|index| text.is_char_boundary(*index))
        .unwrap_or(0)
}

/// Returns the place of the first text that begins like the name of an organization or a project.
fn first_prefix(text: &str) -> Option<usize> {
    let places = ACCOUNTS.iter().filter_map(|prefix| text.find(prefix));
    places.min()
}

/// Redacts the names of organizations and projects.
fn without_accounts(text: &str) -> String {
    let (mut clean, mut rest) = (String::new(), text);
    while let Some(at) = first_prefix(rest) {
        let (before, found) = rest.split_at(at);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let length = found.find(|c| !is_name(c)).unwrap_or(found.len());
        let starts = !before.ends_with(is_name);
        clean.push_str(before);
        clean.push_str(if starts && length >= SHORTEST_NAME {
            ACCOUNT
        } else {
            &found[..length]
        });
        rest = &found[length..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(error: &str) -> String {
        let job = r#"{"body":{"model":"a-model-with-a-name-that-is-long","size":"a pencil","messages":[
            {"role":"user","content":"Ring me up: my number is 555 0100\nand not any other, please."}]}}"#;
        let job = Job::parse(job.as_bytes()).expect("a job");
        let secret = Secret::new("sk-very-secret");
        let redaction = Redaction::new(&secret, &job, false);
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
                r#"{"message":"[{\"input\":\"Ring me up: my number is 555 0100\\nand not any other, please.\"}]"}"#,
                r#"{"message":"[{\"input\":\"[request]\"}]"}"#,
            ),
            (
                r#"{"error":{"code":403,"metadata":{"flagged_input":"Ring me up","reasons":["x"]}},"user_id":"u"}"#,
                r#"{"error":{"code":403,"metadata":{"reasons":["x"]}}}"#,
            ),
            (
                r#"{"error":"no a-model-with-a-name-that-is-long in the organisation"}"#,
                r#"{"error":"no a-model-with-a-name-that-is-long in the organisation"}"#,
            ),
            (
                r#"{"error":"'a pencil' is no size, `a pencil` is \"a pencil\", and a pencil isn't '1024x1024'"}"#,
                r#"{"error":"'[request]' is no size, `[request]` is \"[request]\", and a pencil isn't '1024x1024'"}"#,
            ),
            (
                r#"{"error":"reorg-anisation, org-"}"#,
                r#"{"error":"reorg-anisation, org-"}"#,
            ),
        ] {
            assert_eq!(clean(error), expected);
        }
    }

    #[test]
    fn many_texts_and_a_long_error_take_one_look() {
        let texts: Vec<_> = (0..20_000)
            .map(|index| format!("the text of this number: {index:09}, whole"))
            .collect();
        let job = serde_json::json!({ "body": { "input": texts } });
        let job = Job::parse(job.to_string().as_bytes()).expect("a job");
        let secret = Secret::new("sk");
        let clean = Redaction::new(&secret, &job, false).text(&texts.join(" | "));
        // All texts begin alike. Each is found, and cut where it differs from the kept ones.
        assert_eq!(clean.matches(REQUEST).count(), texts.len());
        assert!(!clean.contains("the text of this number"));
    }
}
