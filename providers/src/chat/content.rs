//! What a message holds: text, images, sound, files.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::{Unsupported, UnsupportedKind};

/// What a message holds.
#[derive(Debug, Default)]
pub(crate) enum MessageContent {
    #[default]
    None,
    Text(String),
    Parts(Vec<ContentPart>),
}

/// A part of what a message holds.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ContentPart {
    Text { text: String },
    Refusal { refusal: String },
    ImageUrl { image_url: ImageUrl },
    InputAudio { input_audio: InputAudio },
    File { file: AttachedFile },
}

/// Written by hand so that an error names the part that is wrong.
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
    /// How closely it is looked at: a hint, which not every dialect has.
    pub(crate) detail: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "struct Audio")]
pub(crate) struct InputAudio {
    /// In base64.
    pub(crate) data: String,
    /// `wav` or `mp3`.
    pub(crate) format: String,
}

/// A document: its bytes as a data URL, or its name at the provider.
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
    /// For example `image/png`.
    pub(crate) kind: &'a str,
    /// In base64.
    pub(crate) data: &'a str,
    /// How closely an image is looked at.
    pub(crate) detail: Option<&'a str>,
}

impl<'a> MediaContent<'a> {
    /// Reads `data:image/png;base64,…`; `None` for any other address.
    pub(crate) fn of(url: &'a str) -> Option<Self> {
        let (kind, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
        // Parameters such as a character set say nothing that matters here.
        let kind = match kind.split(';').next()? {
            // Often written so, and no type.
            "image/jpg" => "image/jpeg",
            kind => kind,
        };
        Some(Self {
            kind,
            data,
            detail: None,
        })
    }

    /// Its text, if it is one.
    pub(crate) fn text(&self) -> Option<String> {
        let bytes = self
            .kind
            .starts_with("text/")
            .then(|| BASE64_STANDARD.decode(self.data))?;
        String::from_utf8(bytes.ok()?).ok()
    }

    /// As a data URL.
    pub(crate) fn url(&self) -> String {
        format!("data:{};base64,{}", self.kind, self.data)
    }

    /// `png` of `image/png`.
    pub(crate) fn format(&self) -> &'a str {
        self.kind
            .split_once('/')
            .map_or(self.kind, |(_, format)| format)
    }
}

impl AttachedFile {
    /// The document's bytes.
    pub(crate) fn media(&self, field: &str) -> Result<MediaContent<'_>, Unsupported> {
        let data = self.file_data.as_deref().ok_or_else(|| {
            let problem = "names a file that only OpenAI has: send its bytes as `file_data`";
            Unsupported::new(format!("{field}.file_id"), problem)
        })?;
        MediaContent::of(data).ok_or_else(|| {
            let problem = "is no data URL, write for example \"data:application/pdf;base64,…\"";
            Unsupported::invalid(format!("{field}.file_data"), problem)
        })
    }
}

impl MessageContent {
    /// The parts, each with its field.
    pub(crate) fn parts(&self, field: &str) -> Vec<(String, ContentPiece<'_>)> {
        match self {
            MessageContent::None => Vec::new(),
            MessageContent::Text(text) => vec![(field.to_owned(), ContentPiece::Text(text))],
            MessageContent::Parts(parts) => {
                let piece = |(index, part)| (format!("{field}[{index}]"), ContentPiece::of(part));
                parts.iter().enumerate().map(piece).collect()
            }
        }
    }

    /// Whether every image can be read or fetched.
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

    /// The texts, where nothing else may stand.
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

/// A part of what a message holds, ready to be said.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ContentPiece<'a> {
    Text(&'a str),
    /// An image whose bytes are here.
    Image(MediaContent<'a>),
    /// An image that is elsewhere.
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

    /// Whether it says nothing.
    pub(crate) fn is_blank(&self) -> bool {
        matches!(self, ContentPiece::Text(text) if text.trim().is_empty())
    }

    /// A refusal of this part.
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
