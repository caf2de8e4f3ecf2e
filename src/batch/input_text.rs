//! The text of an input file: decompressed, in UTF-8, and one job per line.
//!
//! gzip, zstd, UTF-16 and byte order marks are read as they are. A file in another form is named as such, with a command that
//! converts it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

/// The name of the standard streams on the command line.
pub const STANDARD_STREAM: &str = "-";

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const UTF_8_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Formats that are recognised by their first bytes and not read: the name, and the command that converts a file.
const FOREIGN_FORMATS: [(&[u8], &str, &str); 5] = [
    (b"BZh", "compressed with bzip2", "bunzip2 --stdout"),
    (
        b"\xfd7zXZ",
        "compressed with xz",
        "xz --decompress --stdout",
    ),
    (
        b"\x04\x22\x4d\x18",
        "compressed with lz4",
        "lz4 --decompress --stdout",
    ),
    (b"PK\x03\x04", "a ZIP archive", "unzip -p"),
    (b"PAR1", "a Parquet file", "parquet-tools cat --json"),
];

/// A command that makes a job of each row of a table in CSV.
const ROWS_TO_JOBS: &str = r#"python3 -c 'import csv, json, fileinput
for i, row in enumerate(csv.DictReader(fileinput.input()), 1):
    print(json.dumps({"custom_id": str(i), "body": {"model": "MODEL", "messages": [{"role": "user", "content": row["COLUMN"]}]}}))'"#;

/// Returns the name of an input for people.
pub fn display_name(path: &Path) -> String {
    match path.to_str() {
        Some(STANDARD_STREAM) => "standard input".to_owned(),
        _ => path.display().to_string(),
    }
}

/// Reads the text of the file at `path`, or of the standard input for `-`.
///
/// # Errors
/// Returns an error when the file cannot be read, or when it is in a form that is not read.
pub fn read_text(path: &Path) -> anyhow::Result<Bytes> {
    let name = display_name(path);
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some(STANDARD_STREAM) => std::io::stdin().lock().read_to_end(&mut bytes),
        _ => File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    read.with_context(|| name.clone())?;
    let text = decode(bytes).with_context(|| name.clone())?;
    recognise(&text, path)?;
    Ok(text)
}

/// Decompresses bytes and converts them to UTF-8 without a byte order mark.
fn decode(bytes: Vec<u8>) -> anyhow::Result<Bytes> {
    let bytes = if bytes.starts_with(GZIP) {
        let mut plain = Vec::new();
        let read = flate2::read::MultiGzDecoder::new(&*bytes).read_to_end(&mut plain);
        read.context("the gzip data cannot be read to its end")?;
        plain
    } else if bytes.starts_with(ZSTD) {
        zstd::decode_all(&*bytes).context("the zstd data cannot be read to its end")?
    } else {
        bytes
    };
    match &*bytes {
        [0xFF, 0xFE, rest @ ..] => of_utf_16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => of_utf_16(rest, u16::from_be_bytes),
        [b'{' | b'[', 0, ..] => of_utf_16(&bytes, u16::from_le_bytes),
        [0, b'{' | b'[', ..] => of_utf_16(&bytes, u16::from_be_bytes),
        _ => {
            let bytes = Bytes::from(bytes);
            Ok(bytes.slice_ref(without_bom(&bytes)))
        }
    }
}

fn of_utf_16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> anyhow::Result<Bytes> {
    let (pairs, rest) = bytes.as_chunks();
    let units: Vec<_> = pairs.iter().copied().map(unit).collect();
    let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
    let text = text.context("the text begins as UTF-16 and is not UTF-16 to its end")?;
    Ok(text.into())
}

/// Returns the text without a leading byte order mark.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(UTF_8_MARK).unwrap_or(text)
}

/// Refuses a text that is not in JSON Lines.
///
/// # Errors
/// Returns the form of the text, and a command that converts it.
fn recognise(bytes: &[u8], path: &Path) -> anyhow::Result<()> {
    let name = display_name(path);
    let convert = |command: &str| conversion(command, path);
    for (start, form, command) in FOREIGN_FORMATS {
        if bytes.starts_with(start) {
            bail!("{name} is {form}; {}", convert(command));
        }
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.trim_start(),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            bail!(
                "{name} is not in UTF-8: line {line} has other bytes; if it is in Latin-1, for example, {}",
                convert("iconv -f latin1 -t utf-8")
            );
        }
    };
    let first = text.lines().next().unwrap_or_default();
    let is_whole = serde_json::from_str::<IgnoredAny>(first).is_ok();
    match text.chars().next() {
        Some('[') if is_whole || begins_with_value(text) => {
            bail!(
                "{name} is a JSON array, not JSON Lines; {}",
                convert("jq -c '.[]'")
            )
        }
        Some('{') if !is_whole && begins_with_value(text) => {
            bail!(
                "{name} has jobs of several lines each, not one on each line; {}",
                convert("jq -c .")
            )
        }
        Some('<') => bail!("{name} is HTML or XML, not JSON Lines; an error page, perhaps"),
        Some('{' | '[') | None => Ok(()),
        Some(_) if is_table(text) => bail!(
            "{name} is a table (CSV), not JSON Lines; put your model and column into this, and {}",
            convert(ROWS_TO_JOBS)
        ),
        Some(_) => Ok(()),
    }
}

/// Returns how to convert a file with `command`, which reads a file that it names and prints.
fn conversion(command: &str, path: &Path) -> String {
    match path.to_str() {
        Some(STANDARD_STREAM) => format!("convert it first: … | {command} | forebay run -"),
        _ => {
            let converted = path.with_extension("lines.jsonl");
            format!(
                "convert it first: {command} {} > {}",
                path.display(),
                converted.display()
            )
        }
    }
}

/// Returns true if the text begins with a whole array or object, over however many lines.
fn begins_with_value(text: &str) -> bool {
    let mut values = Deserializer::from_str(text).into_iter::<Value>();
    matches!(values.next(), Some(Ok(Value::Array(_) | Value::Object(_))))
}

/// Returns true if the first two lines have the same number of commas, semicolons or tabs, at least one.
fn is_table(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let (Some(first), second) = (lines.next(), lines.next()) else {
        return false;
    };
    [',', ';', '\t'].into_iter().any(|separator| {
        let columns = first.matches(separator).count();
        columns > 0 && second.is_none_or(|line| line.matches(separator).count() >= columns)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LINES: &str = "{\"custom_id\":\"é\"}\n{\"custom_id\":\"2\"}\n";

    fn utf_16(unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        LINES.encode_utf16().flat_map(unit).collect()
    }

    #[test]
    fn compressed_texts_and_those_in_utf_16_are_read() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(LINES.as_bytes()).expect("compressed");
        let gzip = gzip.finish().expect("compressed");
        let two_parts = [&gzip[..], &gzip].concat();
        let marked = [UTF_8_MARK, LINES.as_bytes()].concat();
        for bytes in [
            LINES.as_bytes().to_vec(),
            gzip,
            zstd::encode_all(LINES.as_bytes(), 0).expect("compressed"),
            [&b"\xFF\xFE"[..], &utf_16(u16::to_le_bytes)].concat(),
            [&b"\xFE\xFF"[..], &utf_16(u16::to_be_bytes)].concat(),
            utf_16(u16::to_le_bytes),
            utf_16(u16::to_be_bytes),
            zstd::encode_all(&*marked, 0).expect("compressed"),
            marked,
        ] {
            let text = decode(bytes.clone()).expect("a text");
            assert_eq!(text, LINES.as_bytes(), "{bytes:?}");
            recognise(&text, Path::new("in.jsonl")).expect("JSON Lines");
        }
        assert_eq!(decode(two_parts).expect("a text").len(), LINES.len() * 2);
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let gzip = [GZIP, b"\x08\0\0\0\0\0\0\xff"].concat();
        for (bytes, words) in [
            (gzip, "gzip"),
            ([ZSTD, b"\0"].concat(), "zstd"),
            (b"\xFF\xFE{".to_vec(), "UTF-16"),
            (b"\xFF\xFE{\0\0\xD8".to_vec(), "UTF-16"),
        ] {
            let error = decode(bytes).expect_err("it is cut off").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn another_form_is_named_with_the_command_that_converts_it() {
        let pretty = "\n{\n  \"custom_id\": \"1\"\n}\n{\n}\n";
        for (text, words) in [
            (
                &b"[{\"custom_id\":\"1\"},\n{\"custom_id\":\"2\"}]"[..],
                "jq -c '.[]' in.txt",
            ),
            (b"[\n]\n", "jq -c '.[]' in.txt"),
            (b"[{\"custom_id\":\"1\"}]", "JSON array"),
            (pretty.as_bytes(), "jq -c . in.txt"),
            (b"id,prompt\n1,Hello\n", "csv.DictReader"),
            (b"id;prompt\n1;Hello, you\n", "CSV"),
            (b"id\tprompt\n", "CSV"),
            (b"<html>\n", "HTML"),
            (b"{\"a\":\"\xe9\"}\n", "line 1 has other bytes"),
            (b"{}\n{\"a\":\"\xe9\"}\n", "line 2 has other bytes"),
            (b"PK\x03\x04", "unzip -p in.txt"),
            (b"BZh9", "bunzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"PAR1", "Parquet"),
        ] {
            let error = recognise(text, Path::new("in.txt")).expect_err("another form");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("> in.txt"), "{error}");
        }
        for text in [
            "",
            "\n",
            "not json",
            "{\"a\"",
            "{\"a\":1\n{\"b\":2}\n",
            "[1",
            "{}\n[]\n",
        ] {
            assert!(
                recognise(text.as_bytes(), Path::new("in.txt")).is_ok(),
                "{text}"
            );
        }
    }
}
