//! A credential that cannot be printed by accident.

/// A provider's credential. `Debug` shows nothing of it; there is no `Display` and no `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The credential itself; for an adapter's `authorise` alone.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without the credential, for errors of others that may repeat it.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "[redacted]") }
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
        assert_eq!(secret.redact("key sk-very-secret is wrong"), "key [redacted] is wrong");
    }
}
