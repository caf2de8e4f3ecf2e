//! The forms in which a text can repeat a key: whole or in part, in any case, encoded, reversed, or with characters between.
//!
//! # Why
//!
//! A provider, or a gateway before it, may repeat the key that it received in an error or in the id of a request. That text is stored and shown. Gateways cut, encode and mask what they repeat, so the key as it is written is only
//! one of the forms.
//!
//! # How
//!
//! The part of the key that follows its known prefix is cut into every piece of eight bytes. Each piece is kept as it is,
//! reversed, and as hexadecimal digits. So are the pieces of the part's base64 text in the three alignments. A text is read in
//! lower case, with its percent, JSON, hexadecimal and HTML escapes decoded. Everything that is no letter and no digit is left
//! out. Where a piece is found, the bytes of the original text that it covers are redacted.
//!
//! # Invariants
//!
//! - Only hashes of the pieces are kept, with a secret of this process, so the memory holds no second copy of the key.
//! - A key of fewer than 20 characters has no forms: its pieces are words by chance.
//! - A piece of lower-case letters alone is a word, and is not searched. Keys are random letters of both cases and digits.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;

/// The fewest characters of a key whose parts are searched.
const SHORTEST_KEY: usize = 20;
/// Bytes of a key's piece.
const PIECE: usize = 8;
/// The fewest letters and digits of a piece: a shorter one is a word.
const SHORTEST_PIECE: usize = 6;
/// Number of the first letters of a piece by which most places of a text are left out.
const START_LETTERS: usize = 4;
/// Number of the hashes of such letters, a power of two.
const STARTS: usize = 1 << 16;
/// An odd number whose product mixes the bits of a hash.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
/// Characters of the base64 text that any eight bytes determine.
const BASE64_PIECE: usize = 9;
/// The longest escape, in bytes.
const LONGEST_ESCAPE: usize = 8;
/// The prefixes that tell whose keys they are, the longest of each kind first. They are no secret.
const PREFIXES: [&str; 14] = [
    "sk-ant-api03-",
    "sk-ant-",
    "sk-proj-",
    "sk-svcacct-",
    "sk-admin-",
    "sk-or-v1-",
    "sk-",
    "gsk_",
    "xai-",
    "pplx-",
    "hf_",
    "r8_",
    "AIzaSy",
    "AKIA",
];

/// The forms of one key.
#[derive(Debug)]
pub(crate) struct KeyForms {
    hasher: RandomState,
    /// Differs from process to process, as the hasher does.
    seed: u64,
    /// Hashes of the pieces, by their length in letters and digits.
    pieces: HashMap<usize, HashSet<u64>>,
    /// True at the hash of the first letters of each piece. Most places of a text are left out by it.
    starts: Vec<bool>,
}

/// A letter or digit of a text, in lower case, and the bytes of the text that stand for it.
struct PlainLetter {
    letter: u8,
    bytes: Range<usize>,
}

impl KeyForms {
    /// Returns the forms of a key; `None` if it is too short to have any.
    pub(crate) fn of(key: &str) -> Option<Self> {
        if key.len() < SHORTEST_KEY {
            return None;
        }
        let prefix = PREFIXES.iter().find(|prefix| key.starts_with(*prefix));
        let part = &key.as_bytes()[prefix.map_or(0, |prefix| prefix.len())..];
        let hasher = RandomState::new();
        let mut forms = Self {
            seed: hasher.hash_one(PIECE),
            hasher,
            pieces: HashMap::new(),
            starts: vec![false; STARTS],
        };
        let reversed: Vec<_> = part.iter().rev().copied().collect();
        let pieces = part.windows(PIECE).chain(reversed.windows(PIECE));
        for piece in pieces.filter(|piece| !is_word(piece)) {
            forms.add(&letters_of(piece));
        }
        for piece in part.windows(PIECE) {
            let digits: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            forms.add(digits.as_bytes());
        }
        for alignment in 0..3 {
            let aligned = [&[0; 2][..alignment], part].concat();
            let text = BASE64_STANDARD_NO_PAD.encode(&aligned);
            // The first and the last character also depend on bytes outside of the key.
            let whole = (alignment * 8).div_ceil(6)..aligned.len() * 8 / 6;
            for piece in text.as_bytes()[whole].windows(BASE64_PIECE) {
                forms.add(&letters_of(piece));
            }
        }
        Some(forms)
    }

    fn add(&mut self, letters: &[u8]) {
        if letters.len() >= SHORTEST_PIECE {
            let start = self.start_of(letters);
            self.starts[start] = true;
            let hash = self.hasher.hash_one(letters);
            self.pieces.entry(letters.len()).or_default().insert(hash);
        }
    }

    /// The place of the first letters of a piece, or of a place in a text, in `starts`.
    fn start_of(&self, letters: &[u8]) -> usize {
        let first = letters.iter().take(START_LETTERS);
        let number = first.fold(self.seed, |number, letter| {
            number.rotate_left(5).wrapping_mul(MULTIPLIER) ^ u64::from(*letter)
        });
        usize::try_from(number.wrapping_mul(MULTIPLIER) >> 48).unwrap_or_default()
    }

    /// Returns the ranges of bytes of a text that repeat a part of the key, in order.
    pub(crate) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let plain = plain_letters(text.as_bytes());
        let letters: Vec<_> = plain.iter().map(|plain| plain.letter).collect();
        let mut found = BTreeSet::new();
        let starts = letters.windows(SHORTEST_PIECE).enumerate();
        let starts = starts.filter(|(_, first)| self.starts[self.start_of(first)]);
        for (at, _) in starts {
            for (length, hashes) in &self.pieces {
                let Some(piece) = letters.get(at..at + length) else {
                    continue;
                };
                if hashes.contains(&self.hasher.hash_one(piece)) {
                    found.insert((plain[at].bytes.start, plain[at + length - 1].bytes.end));
                }
            }
        }
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (start, end) in found {
            match ranges.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => ranges.push(start..end),
            }
        }
        ranges
    }
}

/// Returns true if a piece may be a part of a word by chance: it has neither a digit nor an upper-case letter.
fn is_word(piece: &[u8]) -> bool {
    let mut bytes = piece.iter();
    !bytes.any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

/// The letters and digits of a piece, in lower case.
fn letters_of(piece: &[u8]) -> Vec<u8> {
    let letters = piece.iter().filter(|byte| byte.is_ascii_alphanumeric());
    letters.map(u8::to_ascii_lowercase).collect()
}

/// Reads a text: its escapes are decoded, and everything that is no letter and no digit is left out.
fn plain_letters(text: &[u8]) -> Vec<PlainLetter> {
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let (byte, length) = decode(&text[at..]);
        if byte.is_ascii_alphanumeric() {
            plain.push(PlainLetter {
                letter: byte.to_ascii_lowercase(),
                bytes: at..at + length,
            });
        }
        at += length;
    }
    plain
}

/// Returns the byte that a text begins with, its escape decoded, and the length of that in the text.
fn decode(text: &[u8]) -> (u8, usize) {
    let escaped = match text {
        [b'%', rest @ ..] => number(rest, 2, 16).map(|byte| (byte, 3)),
        [b'\\', b'u', rest @ ..] => number(rest, 4, 16).map(|byte| (byte, 6)),
        [b'\\', b'x', rest @ ..] => number(rest, 2, 16).map(|byte| (byte, 4)),
        // White space between the characters of a key.
        [b'\\', b'n' | b'r' | b't' | b'b' | b'f', ..] => Some((b' ', 2)),
        [b'&', b'#', b'x' | b'X', rest @ ..] => reference(rest, 16, 3),
        [b'&', b'#', rest @ ..] => reference(rest, 10, 2),
        _ => None,
    };
    escaped.unwrap_or((text[0], 1))
}

/// Returns the byte that so many digits stand for.
fn number(text: &[u8], digits: usize, radix: u32) -> Option<u8> {
    let text = std::str::from_utf8(text.get(..digits)?).ok()?;
    u8::try_from(u32::from_str_radix(text, radix).ok()?).ok()
}

/// Returns the byte of an HTML reference, whose digits end with a semicolon, and its length with its `head`.
fn reference(text: &[u8], radix: u32, head: usize) -> Option<(u8, usize)> {
    let end = text
        .iter()
        .take(LONGEST_ESCAPE)
        .position(|byte| *byte == b';')?;
    let byte = number(text, end, radix)?;
    Some((byte, head + end + 1))
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
    use proptest::prelude::*;

    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::redact::redact_answer;
    use crate::secret::Secret;

    /// A way to write a part of a key.
    type Form = fn(&str) -> String;

    const FORMS: [(&str, Form); 14] = [
        ("as it is", |part| part.to_owned()),
        ("upper case", |part| part.to_ascii_uppercase()),
        ("lower case", |part| part.to_ascii_lowercase()),
        ("reversed", |part| part.chars().rev().collect()),
        ("spaced", |part| {
            part.chars().map(|c| format!("{c} ")).collect()
        }),
        ("zero width", |part| {
            part.chars().map(|c| format!("{c}\u{200b}")).collect()
        }),
        ("lines", |part| {
            part.chars().map(|c| format!("{c}\\n")).collect()
        }),
        ("percent", |part| {
            part.bytes().map(|b| format!("%{b:02X}")).collect()
        }),
        ("json", |part| {
            part.bytes().map(|b| format!("\\u{b:04x}")).collect()
        }),
        ("html", |part| {
            part.bytes().map(|b| format!("&#{b};")).collect()
        }),
        ("html, hex", |part| {
            part.bytes().map(|b| format!("&#x{b:x};")).collect()
        }),
        ("hex", |part| {
            part.bytes().map(|b| format!("{b:02x}")).collect()
        }),
        ("base64", |part| {
            BASE64_STANDARD.encode(format!("Bearer {part}"))
        }),
        ("base64 for URLs", |part| BASE64_URL_SAFE.encode(part)),
    ];

    proptest! {
        #[test]
        fn no_form_of_a_part_of_a_key_is_left(
            prefix in prop::sample::select(vec!["sk-", "sk-proj-", "gsk_", "AIzaSy", ""]),
            part in "([A-Za-z]{3}[0-9]){6,12}",
            from in 0..16usize,
            length in PIECE..=24,
            around in "[a-z ]{0,12}",
        ) {
            let secret = Secret::new(format!("{prefix}{part}"));
            let repeated = &part[from..(from + length).min(part.len())];
            for (name, form) in FORMS {
                let written = form(repeated);
                let text = format!("{around}: {written} :{around}");
                let clean = secret.redact(&text);
                prop_assert!(clean.contains("[redacted]"), "{name}: {text} became {clean}");
                let forms = KeyForms::of(secret.expose()).expect("forms");
                prop_assert!(forms.find(&clean).is_empty(), "{name}: {text} became {clean}");
                // A provider may put it into any string of a good answer as well.
                let answer = json!({ "model": text, "choices": [{ "message": { "content": around, "name": text } }], text: 1 });
                let answer = to_raw_value(&answer).expect("JSON");
                let clean = redact_answer(&secret, &answer).expect("it repeats the key");
                prop_assert!(forms.find(clean.get()).is_empty(), "{name}: {answer} became {clean}");
            }
        }

        #[test]
        fn a_text_without_the_key_stays_as_it_is(text in "[ -~]{0,200}", part in "[A-Za-z0-9]{24,48}") {
            let forms = KeyForms::of(&format!("sk-{part}")).expect("forms");
            prop_assert!(forms.find(&text).is_empty());
        }
    }

    #[test]
    fn a_placeholder_is_cut_out_of_no_word() {
        for (key, text) in [
            ("none", "nonexistent model"),
            ("sk", "ask the risky desk"),
            ("EMPTY", "the EMPTYING of it"),
            ("none", "none of the tools exists"),
        ] {
            assert_eq!(Secret::new(key).redact(text), text);
        }
        assert_eq!(
            Secret::new("my-secret").redact("key my-secret is wrong"),
            "key [redacted] is wrong"
        );
    }
}
