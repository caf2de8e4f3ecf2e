//! Bytes inside JSON.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as base64.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let number = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = (number >> (18 - 6 * place)) as usize & 63;
            text.push(if place > chunk.len() { '=' } else { char::from(ALPHABET[index]) });
        }
    }
    text
}

/// How many bytes a text stands for, if it is base64.
pub(super) fn size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let valid = digits.bytes().all(|byte| ALPHABET.contains(&byte));
    (valid && padding <= 2 && text.len().is_multiple_of(4)).then(|| text.len() / 4 * 3 - padding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_encoded_and_counted() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(size(text), Some(bytes.len()));
        }
        assert_eq!(size("Zg="), None);
        assert_eq!(size("Z*=="), None);
    }
}
