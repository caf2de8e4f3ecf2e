//! A credential that is not printed by accident.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::key_forms::KeyForms;

/// The length from which a credential is a secret. Local servers take any text, so that shorter ones are placeholders such as
/// `none`, and are words of errors too.
const SHORTEST_SECRET: usize = 8;
/// The replacement of a credential.
const REDACTED: &str = "[redacted]";

/// A provider's credential. `Debug` prints nothing of it; there is no `Display` and no `Serialize`.
/// Its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret {
    text: Zeroizing<String>,
    forms: Arc<Option<KeyForms>>,
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Secret {}

impl Secret {
    /// Wraps a credential.
    pub fn new(text: impl Into<String>) -> Self {
        let text = Zeroizing::new(text.into());
        let forms = Arc::new(KeyForms::of(&text));
        Self { text, forms }
    }

    /// Returns the credential itself, for the authorisation of a request alone.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Redacts the credential in a text of another program. That may repeat it whole, in part or
    /// encoded, or with stars in its middle, as OpenAI and DeepSeek do.
    pub fn redact(&self, text: &str) -> String {
        if self.text.len() < SHORTEST_SECRET {
            return text.to_owned();
        }
        let text = self.without_whole(text);
        let text = self.without_forms(&text);
        let mut rest = text.as_str();
        let mut clean = String::with_capacity(rest.len());
        while let Some(start) = rest.find("**") {
            let (before, stars) = rest.split_at(start);
            let after = stars.trim_start_matches('*');
            let (head, tail) = (self.head_at_end_of(before), self.tail_at_start_of(after));
            clean.push_str(&before[..before.len() - head]);
            let masked = head + tail > 0;
            clean.push_str(if masked {
                REDACTED
            } else {
                &stars[..stars.len() - after.len()]
            });
            rest = &after[tail..];
        }
        clean + rest
    }

    /// Redacts the whole credential where it is no part of a longer word.
    fn without_whole(&self, text: &str) -> String {
        let (mut clean, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = rest.find(self.text.as_str()) {
            let (before, found) = rest.split_at(at);
            let behind = &found[self.text.len()..];
            let is_part = before.ends_with(char::is_alphanumeric)
                || behind.starts_with(char::is_alphanumeric);
            clean.push_str(before);
            clean.push_str(if is_part { &self.text } else { REDACTED });
            rest = behind;
        }
        clean + rest
    }

    /// Returns true if a text repeats a part of a long credential in some form.
    pub(crate) fn is_repeated_in(&self, text: &str) -> bool {
        let forms = self.forms.as_ref().as_ref();
        forms.is_some_and(|forms| !forms.find(text).is_empty())
    }

    /// Redacts the forms of a long credential.
    fn without_forms(&self, text: &str) -> String {
        let Some(forms) = &*self.forms else {
            return text.to_owned();
        };
        let (mut clean, mut from) = (String::with_capacity(text.len()), 0);
        for found in forms.find(text) {
            clean.push_str(&text[from..found.start]);
            clean.push_str(REDACTED);
            from = found.end;
        }
        clean + &text[from..]
    }

    /// Returns the number of bytes at the end of `text` that are the credential's first.
    fn head_at_end_of(&self, text: &str) -> usize {
        let lengths = (1..self.text.len()).rev();
        let mut heads = lengths.filter_map(|length| self.text.get(..length));
        let head = heads.find(|head| text.ends_with(head));
        head.map_or(0, str::len)
    }

    /// Returns the number of bytes at the start of `text` that are the credential's last.
    fn tail_at_start_of(&self, text: &str) -> usize {
        let mut tails = (1..self.text.len()).filter_map(|start| self.text.get(start..));
        let tail = tails.find(|tail| text.starts_with(tail));
        tail.map_or(0, str::len)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("sk-very-secret");
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert_eq!(
            secret.redact("key sk-very-secret is wrong"),
            "key [redacted] is wrong"
        );
        for (text, clean) in [
            (
                "Incorrect API key provided: sk-ver*****cret. You can",
                "Incorrect API key provided: [redacted]. You can",
            ),
            (
                "your api key: ****cret is invalid",
                "your api key: [redacted] is invalid",
            ),
            (
                "key sk-very-secret or sk-v**t",
                "key [redacted] or [redacted]",
            ),
            ("**bold** and a * b", "**bold** and a * b"),
            ("", ""),
        ] {
            assert_eq!(secret.redact(text), clean);
        }
    }
}
