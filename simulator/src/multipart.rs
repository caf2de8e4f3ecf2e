//! Forms: multipart forms, which may hold files, and URL-encoded forms.

use std::borrow::Cow;

/// One part of a form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FormPart<'a> {
    pub(super) name: String,
    /// The file name; `None` for a part that is no file.
    pub(super) file: Option<String>,
    pub(super) bytes: Cow<'a, [u8]>,
}

impl FormPart<'_> {
    /// Returns true if the part is a file that is not empty.
    pub(super) fn holds_file(&self) -> bool {
        self.file.is_some() && !self.bytes.is_empty()
    }
}

/// Parses the parts of a form; `None` if `content_type` and `body` are no form.
pub(super) fn parts<'a>(content_type: &str, body: &'a [u8]) -> Option<Vec<FormPart<'a>>> {
    if content_type.starts_with("application/x-www-form-urlencoded") {
        let part = |(name, value): (Cow<'_, str>, Cow<'_, str>)| FormPart {
            name: name.into_owned(),
            file: None,
            bytes: value.into_owned().into_bytes().into(),
        };
        return Some(form_urlencoded::parse(body).map(part).collect());
    }
    let parameters = content_type.strip_prefix("multipart/form-data")?;
    let boundary = parameters.split("boundary=").nth(1)?;
    let boundary = boundary.split(';').next()?;
    let boundary = boundary.trim().trim_matches('"');
    let first = format!("--{boundary}");
    let between = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(first.as_bytes())?;
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n")?;
        let (head, tail) = split(rest, b"\r\n\r\n")?;
        let (bytes, tail) = split(tail, between.as_bytes())?;
        let head = std::str::from_utf8(head).ok()?;
        parts.push(FormPart {
            name: field(head, "name")?,
            file: field(head, "filename"),
            bytes: bytes.into(),
        });
        rest = tail;
    }
    Some(parts)
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let index = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..index], &bytes[index + at.len()..]))
}

/// Returns a value of the `content-disposition` header, which may be in quotation marks.
fn field(head: &str, name: &str) -> Option<String> {
    let is_disposition = |line: &&str| {
        let line = line.to_ascii_lowercase();
        line.starts_with("content-disposition:")
    };
    let line = head.lines().find(is_disposition)?;
    let value = line.split(';').find_map(|item| {
        let value = item.trim().strip_prefix(name)?;
        value.strip_prefix('=')
    })?;
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n\
            --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\nContent-Type: audio/mpeg\r\n\r\n\xff\r\n\x00\r\n--b--\r\n";
        let parts = parts("multipart/form-data; boundary=b", body).expect("a form");
        assert_eq!(
            (parts[0].name.as_str(), &*parts[0].bytes),
            ("model", &b"m"[..])
        );
        assert_eq!(
            (parts[1].file.as_deref(), &*parts[1].bytes),
            (Some("a.mp3"), &b"\xff\r\n\x00"[..])
        );
        let parts =
            super::parts("application/x-www-form-urlencoded", b"a=b+c&d=%2F").expect("a form");
        let read: Vec<_> = parts
            .iter()
            .map(|part| (part.name.as_str(), &*part.bytes))
            .collect();
        assert_eq!(read, [("a", &b"b c"[..]), ("d", &b"/"[..])]);
        assert_eq!(super::parts("application/json", b"{}"), None);
        assert_eq!(
            super::parts("multipart/form-data; boundary=b", b"--b\r\nnothing"),
            None
        );
    }
}
