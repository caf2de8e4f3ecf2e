//! The content of a message: text, images, sound and files.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::unsupported::{Unsupported, UnsupportedKind};

/// The content of a message.
#[derive(Debug, Default)]
pub(crate) enum MessageContent {
    #[default]
    None,
    Text(String),
    Parts(Vec<ContentPart>),
}

/// A part of a message's content.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ContentPart {
    Text { text: String },
    Refusal { refusal: String },
    ImageUrl { image_url: ImageUrl },
    InputAudio { input_audio: InputAudio },
    File { file: AttachedFile },
}

/// Written by hand, so that an error names the wrong part.
impl<'de> Deserialize<'de> for MessageContent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Held;
        impl<'de> Visitor<'de> for Held {
            type Value = MessageContent;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_unit<E>(self) -> Result<MessageContent, E> {
                Ok(MessageContent::None)
            }

            fn visit_str<E>(self, text: &str) -> Result<MessageContent, E> {
                Ok(MessageContent::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<MessageContent, E> {
                Ok(MessageContent::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut parts: A,
            ) -> Result<MessageContent, A::Error> {
                let mut all = Vec::new();
                while let Some(part) = parts.next_element()? {
                    all.push(part);
                }
                Ok(MessageContent::Parts(all))
            }
        }
        from.deserialize_any(Held)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageUrl {
    pub(crate) url: String,
    /// The precision with which the image is read: a hint, which some dialects lack.
    pub(crate) detail: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "struct Audio")]
pub(crate) struct InputAudio {
    /// The bytes in base64.
    pub(crate) data: String,
    /// `wav` or `mp3`.
    pub(crate) format: String,
}

/// A document: its bytes as a data URL, or its id at the provider.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "struct File")]
pub(crate) struct AttachedFile {
    pub(crate) file_data: Option<String>,
    pub(crate) file_id: Option<String>,
    pub(crate) filename: Option<String>,
}

/// Bytes in base64, and their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MediaContent<'a> {
    /// The media type, for example `image/png`.
    pub(crate) kind: &'a str,
    /// The bytes in base64.
    pub(crate) data: &'a str,
    /// The precision with which an image is read.
    pub(crate) detail: Option<&'a str>,
}

impl<'a> MediaContent<'a> {
    /// Reads `data:image/png;base64,…`; `None` for any other address.
    pub(crate) fn of(url: &'a str) -> Option<Self> {
        let (kind, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
        // Parameters such as a character set do not matter here.
        let kind = match kind.split(';').next()? {
            // A frequent misspelling of the type.
            "image/jpg" => "image/jpeg",
            kind => kind,
        };
        Some(Self {
            kind,
            data,
            detail: None,
        })
    }

    /// Returns the decoded text; `None` if the type is not a text.
    pub(crate) fn text(&self) -> Option<String> {
        let bytes = self
            .kind
            .starts_with("text/")
            .then(|| BASE64_STANDARD.decode(self.data))?;
        String::from_utf8(bytes.ok()?).ok()
    }

    /// Returns the data URL.
    pub(crate) fn url(&self) -> String {
        format!("data:{};base64,{}", self.kind, self.data)
    }

    /// Returns the subtype: `png` of `image/png`.
    pub(crate) fn format(&self) -> &'a str {
        self.kind
            .split_once('/')
            .map_or(self.kind, |(_, format)| format)
    }
}

impl AttachedFile {
    /// Returns the document's bytes.
    pub(crate) fn media(&self, field: &str) -> Result<MediaContent<'_>, Unsupported> {
        let Some(data) = &self.file_data else {
            let problem = "names a file that only OpenAI has: send its bytes as `file_data`";
            return Err(Unsupported::new(format!("{field}.file_id"), problem));
        };
        let Some(media) = MediaContent::of(data) else {
            let problem = "is no data URL, write for example \"data:application/pdf;base64,…\"";
            return Err(Unsupported::invalid(format!("{field}.file_data"), problem));
        };
        Ok(media)
    }
}

impl MessageContent {
    /// Returns the parts, each with the path of its field.
    pub(crate) fn parts(&self, field: &str) -> Vec<(String, ContentPiece<'_>)> {
        match self {
            MessageContent::None => Vec::new(),
            MessageContent::Text(text) => vec![(field.to_owned(), ContentPiece::Text(text))],
            MessageContent::Parts(parts) => {
                let piece = |(index, part)| (format!("{field}[{index}]"), ContentPiece::of(part));
                let parts = parts.iter().enumerate();
                parts.map(piece).collect()
            }
        }
    }

    /// Checks that every image can be read or fetched.
    pub(super) fn check(&self, field: &str) -> Result<(), Unsupported> {
        for (field, piece) in self.parts(field) {
            if matches!(piece, ContentPiece::ImageAt(image) if image.url.starts_with("data:")) {
                let problem =
                    "is a data URL without base64, write for example \"data:image/png;base64,…\"";
                return Err(Unsupported {
                    obstacle: UnsupportedKind::InvalidValue,
                    ..piece.unsupported(&field, problem)
                });
            }
        }
        Ok(())
    }

    /// Returns the texts; any other part is refused.
    pub(crate) fn texts(&self, field: &str) -> Result<Vec<&str>, Unsupported> {
        let mut texts = Vec::new();
        for (field, piece) in self.parts(field) {
            match piece {
                ContentPiece::Text(text) => texts.push(text),
                other => return Err(other.unsupported(&field, "only text can stand here")),
            }
        }
        Ok(texts)
    }
}

/// Returns true for a text without a word.
pub(crate) fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// A part of a message's content, ready to be encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ContentPiece<'a> {
    Text(&'a str),
    /// An image as bytes.
    Image(MediaContent<'a>),
    /// An image at an address.
    ImageAt(&'a ImageUrl),
    Audio(&'a InputAudio),
    File(&'a AttachedFile),
}

impl<'a> ContentPiece<'a> {
    fn of(part: &'a ContentPart) -> Self {
        match part {
            ContentPart::Text { text } | ContentPart::Refusal { refusal: text } => {
                ContentPiece::Text(text)
            }
            ContentPart::ImageUrl { image_url } => match MediaContent::of(&image_url.url) {
                Some(media) => ContentPiece::Image(MediaContent {
                    detail: image_url.detail.as_deref(),
                    ..media
                }),
                None => ContentPiece::ImageAt(image_url),
            },
            ContentPart::InputAudio { input_audio } => ContentPiece::Audio(input_audio),
            ContentPart::File { file } => ContentPiece::File(file),
        }
    }

    /// Returns true for a blank text.
    pub(crate) fn is_blank(&self) -> bool {
        matches!(self, ContentPiece::Text(text) if is_blank(text))
    }

    /// Returns the refusal of this part.
    pub(crate) fn unsupported(&self, field: &str, problem: &str) -> Unsupported {
        let what = match self {
            ContentPiece::Text(_) => "text",
            ContentPiece::Image(_) => "image_url",
            ContentPiece::ImageAt(_) => "image_url.url",
            ContentPiece::Audio(_) => "input_audio",
            ContentPiece::File(_) => "file",
        };
        Unsupported::new(format!("{field}.{what}"), problem)
    }
}
