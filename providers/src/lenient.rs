//! Answers that a strict reader of JSON refuses, and whose content can be read all the same.
//!
//! # Why
//!
//! Providers cut texts in the middle of a pair of surrogates, and write keys twice. Some answers begin with a byte order mark,
//! or have a byte that is no UTF-8. The answer is paid for, and its content is there.
//!
//! # How
//!
//! Answers are read strictly first. What cannot be read so is brought into a strict form, and read again. Half a pair becomes
//! U+FFFD, and of a key that comes twice the last value counts, as in other readers of JSON.
//!
//! # Invariants
//!
//! - A text that is valid JSON with each key once is not changed in what it says.

use std::borrow::Cow;

use serde_json::Value;

/// The byte order mark of UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Returns the text of a body, without a byte order mark.
pub(crate) fn text(body: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(body) {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_start_matches(BYTE_ORDER_MARK)),
        Cow::Owned(text) => Cow::Owned(text.trim_start_matches(BYTE_ORDER_MARK).to_owned()),
    }
}

/// Reads a body; `None` if it is no JSON for a lenient reader either.
pub(crate) fn value(body: &[u8]) -> Option<Value> {
    let strict = serde_json::from_slice(body).ok();
    strict.or_else(|| serde_json::from_str(&without_half_pairs(&text(body))).ok())
}

/// Replaces each escaped half of a pair of surrogates that is not followed, or preceded, by the other half.
fn without_half_pairs(json: &str) -> String {
    let mut clean = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        clean.push_str(before);
        let (kept, length) = match (surrogate(escape), escape.get(6..).and_then(surrogate)) {
            (Some(Half::High), Some(Half::Low)) => (&escape[..12], 12),
            (Some(_), _) => ("\\ufffd", 6),
            // The next character is escaped, be it a backslash.
            (None, _) => {
                let length = escape.chars().take(2).map(char::len_utf8).sum();
                (&escape[..length], length)
            }
        };
        clean.push_str(kept);
        rest = &escape[length..];
    }
    clean.push_str(rest);
    clean
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// Returns which half of a pair a text begins with, such as `\ud83d`; `None` for none.
fn surrogate(text: &str) -> Option<Half> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xd800..=0xdbff => Some(Half::High),
        0xdc00..=0xdfff => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_other_readers_read_is_read() {
        let mut marked = "\u{feff}".as_bytes().to_vec();
        marked.extend(br#"{"a":1}"#);
        for (body, expected) in [
            (
                br#"{"a":"cut \ud83d"}"#.to_vec(),
                json!({ "a": "cut \u{fffd}" }),
            ),
            (
                br#"{"a":"\ude00 cut \ud83dx"}"#.to_vec(),
                json!({ "a": "\u{fffd} cut \u{fffd}x" }),
            ),
            (
                br#"{"a":"\ud83d\ude00 \\ud83d"}"#.to_vec(),
                json!({ "a": "😀 \\ud83d" }),
            ),
            (br#"{"a":1,"a":2}"#.to_vec(), json!({ "a": 2 })),
            (b"{\"a\":\"\xff\"}".to_vec(), json!({ "a": "\u{fffd}" })),
            (marked, json!({ "a": 1 })),
        ] {
            assert_eq!(value(&body), Some(expected));
        }
        assert_eq!(value(b"{\"a\":"), None);
        assert_eq!(value(br#"{"a":"\u12"}"#), None);
    }

    proptest! {
        #[test]
        fn valid_texts_say_the_same(text in any::<String>(), pretty in any::<bool>()) {
            let valid = json!({ "a": text, "b": [text] });
            let json = if pretty { format!("{valid:#}") } else { valid.to_string() };
            prop_assert_eq!(without_half_pairs(&json), json.clone());
            prop_assert_eq!(value(json.as_bytes()), Some(valid));
        }
    }
}
