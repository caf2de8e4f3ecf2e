//! The seals on thoughts: what a provider signs has to come back as it was.

use super::answer::digest;

/// The seal on `text`. Nothing but the simulated provider can tell what is in it.
pub(super) fn sign(text: &str) -> String {
    format!("sealed{}", digest(format!("thought:{text}").as_bytes()))
}

/// Whether a seal that came back belongs to `text`.
pub(super) fn is_valid(text: &str, signature: &str) -> bool {
    sign(text) == signature
}
