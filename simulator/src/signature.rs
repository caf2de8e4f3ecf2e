//! Signatures of reasoning texts. A client has to return a signed text unchanged.

use super::answer::digest;

/// Returns the signature of `text`. Only the simulated provider can verify it.
pub(super) fn sign(text: &str) -> String {
    format!("sealed{}", digest(format!("thought:{text}").as_bytes()))
}

/// Returns true if a returned signature belongs to `text`.
pub(super) fn is_valid(text: &str, signature: &str) -> bool {
    sign(text) == signature
}
