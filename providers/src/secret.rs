//! A credential that is not printed by accident.

use zeroize::Zeroizing;

/// The replacement of a credential.
const REDACTED: &str = "[redacted]";

/// A provider's credential. `Debug` prints nothing of it; there is no `Display` and no `Serialize`.
/// Its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a credential.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Returns the credential itself, for the authorisation of a request alone.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Redacts the credential in the error text of another program. That may repeat it whole, or
    /// with stars in its middle, as OpenAI and DeepSeek do.
    pub fn redact(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let text = text.replace(self.0.as_str(), REDACTED);
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

    /// Returns the number of bytes at the end of `text` that are the credential's first.
    fn head_at_end_of(&self, text: &str) -> usize {
        let lengths = (1..self.0.len()).rev();
        let mut heads = lengths.filter_map(|length| self.0.get(..length));
        let head = heads.find(|head| text.ends_with(head));
        head.map_or(0, str::len)
    }

    /// Returns the number of bytes at the start of `text` that are the credential's last.
    fn tail_at_start_of(&self, text: &str) -> usize {
        let mut tails = (1..self.0.len()).filter_map(|start| self.0.get(start..));
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
