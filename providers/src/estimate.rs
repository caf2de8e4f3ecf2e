//! An estimate of the tokens of a request, without a tokenizer.
//!
//! Three bytes per token is on the safe side in every natural language and in code. Digits and
//! base64 have fewer bytes per token. The data of images and sounds is not text and has a flat
//! price. The usage that providers report corrects the remaining error: see
//! `accounts/token_correction.rs` in `workers`.

use serde_json::Value;

/// The bytes per token of text, on the safe side.
const TEXT: usize = 3;
/// The tenths of a byte per token of digits and of base64.
const DENSE_TENTHS: usize = 15;
/// The length in bytes from which an ASCII run without a space is not words, but dense as base64.
const RUN: usize = 40;
/// The tokens of one image or sound.
pub(super) const MEDIA: usize = 1_000;
/// The tokens of a message beside its text.
const MESSAGE: usize = 4;

/// Estimates the tokens of a part of a request's body.
pub(super) fn tokens(value: &Value) -> usize {
    match value {
        Value::String(text) => text_tokens(text),
        Value::Array(items) => items.iter().map(tokens).sum(),
        Value::Object(map) => {
            let of_message = if map.contains_key("role") { MESSAGE } else { 0 };
            let of_fields = map.iter().map(|(name, value)| field_tokens(name, value));
            of_message + of_fields.sum::<usize>()
        }
        Value::Number(_) | Value::Bool(_) | Value::Null => 1,
    }
}

fn field_tokens(name: &str, value: &Value) -> usize {
    match name {
        // Unlike the data of images, that of sound has no mark that distinguishes it from text.
        "input_audio" => MEDIA,
        _ => name.len().div_ceil(8) + tokens(value),
    }
}

fn text_tokens(text: &str) -> usize {
    if text.starts_with("data:") {
        return MEDIA;
    }
    let mut tokens = 0;
    for word in text.split_inclusive(char::is_whitespace) {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let opaque = word.len() >= RUN && word.is_ascii();
        if digits * 2 > word.len() || opaque {
            tokens += word.len() * 10;
        } else {
            tokens += word.len() * 10 * DENSE_TENTHS / (TEXT * 10);
        }
    }
    tokens.div_ceil(DENSE_TENTHS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the bytes per estimated token.
    fn density(text: &str) -> f64 {
        text.len() as f64 / text_tokens(text) as f64
    }

    #[test]
    fn text_digits_and_base64_have_their_densities() {
        let prose = "The forebay is the pool of water held just above the turbines. ".repeat(20);
        let digits = "3141592653 5897932384 6264338327 ".repeat(20);
        let base64 =
            "QmFzZTY0IGlzIG5vdCBwcm9zZSBhdCBhbGwsIGFuZCBpdCBzaG91bGQgbm90IGJlIGNvdW50ZWQgYXMgc3VjaA=="
                .repeat(4);
        assert!((density(&prose) - 3.0).abs() < 0.05, "{}", density(&prose));
        assert!((density(&digits) - 1.5).abs() < 0.2, "{}", density(&digits));
        assert!((density(&base64) - 1.5).abs() < 0.1, "{}", density(&base64));
        assert_eq!(
            text_tokens(&format!("data:image/png;base64,{base64}")),
            MEDIA
        );
        assert_eq!(text_tokens(""), 0);
    }

    #[test]
    fn a_message_costs_more_than_its_text() {
        let message: Value =
            serde_json::from_str(r#"{"role":"user","content":"Hello"}"#).expect("JSON");
        assert!((6..12).contains(&tokens(&message)), "{}", tokens(&message));
    }

    #[test]
    fn sound_is_not_counted_as_text() {
        let data = "UklGRg".repeat(100_000);
        let part = serde_json::json!({ "type": "input_audio", "input_audio": { "data": data, "format": "wav" } });
        assert!(
            (MEDIA..MEDIA + 20).contains(&tokens(&part)),
            "{}",
            tokens(&part)
        );
    }
}
