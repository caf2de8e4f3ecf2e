//! What a message holds: text, images, sound, files.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::{Obstacle, Unsupported};

/// What a message holds.
#[derive(Debug, Default)]
pub(crate) enum Content {
    #[default]
    None,
    Text(String),
    Parts(Vec<Part>),
}

/// A part of what a message holds.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Part {
    Text { text: String },
    Refusal { refusal: String },
    ImageUrl { image_url: ImageUrl },
    InputAudio { input_audio: Audio },
    File { file: File },
}

/// Written by hand so that an error names the part that is wrong.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Held;
        impl<'de> Visitor<'de> for Held {
            type Value = Content;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of parts")
            }

            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::None)
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                let mut all = Vec::new();
                while let Some(part) = parts.next_element()? {
                    all.push(part);
                }
                Ok(Content::Parts(all))
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
pub(crate) struct Audio {
    /// In base64.
    pub(crate) data: String,
    /// `wav` or `mp3`.
    pub(crate) format: String,
}

/// A document: its bytes as a data URL, or its name at the provider.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) file_data: Option<String>,
    pub(crate) file_id: Option<String>,
    pub(crate) filename: Option<String>,
}

/// Bytes in base64, and their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Media<'a> {
    /// For example `image/png`.
    pub(crate) kind: &'a str,
    /// In base64.
    pub(crate) data: &'a str,
    /// How closely an image is looked at.
    pub(crate) detail: Option<&'a str>,
}

impl<'a> Media<'a> {
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

impl File {
    /// The document's bytes.
    pub(crate) fn media(&self, field: &str) -> Result<Media<'_>, Unsupported> {
        let data = self.file_data.as_deref().ok_or_else(|| {
            let problem = "names a file that only OpenAI has: send its bytes as `file_data`";
            Unsupported::new(format!("{field}.file_id"), problem)
        })?;
        Media::of(data).ok_or_else(|| {
            let problem = "is no data URL, write for example \"data:application/pdf;base64,…\"";
            Unsupported::invalid(format!("{field}.file_data"), problem)
        })
    }
}

impl Content {
    /// The parts, each with its field.
    pub(crate) fn parts(&self, field: &str) -> Vec<(String, Piece<'_>)> {
        match self {
            Content::None => Vec::new(),
            Content::Text(text) => vec![(field.to_owned(), Piece::Text(text))],
            Content::Parts(parts) => {
                let piece = |(index, part)| (format!("{field}[{index}]"), Piece::of(part));
                parts.iter().enumerate().map(piece).collect()
            }
        }
    }

    /// Whether every image can be read or fetched.
    pub(super) fn check(&self, field: &str) -> Result<(), Unsupported> {
        for (field, piece) in self.parts(field) {
            if matches!(piece, Piece::ImageAt(image) if image.url.starts_with("data:")) {
                let problem =
                    "is a data URL without base64, write for example \"data:image/png;base64,…\"";
                return Err(Unsupported {
                    obstacle: Obstacle::InvalidValue,
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
                Piece::Text(text) => texts.push(text),
                other => return Err(other.unsupported(&field, "only text can stand here")),
            }
        }
        Ok(texts)
    }
}

/// A part of what a message holds, ready to be said.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    /// An image whose bytes are here.
    Image(Media<'a>),
    /// An image that is elsewhere.
    ImageAt(&'a ImageUrl),
    Audio(&'a Audio),
    File(&'a File),
}

impl<'a> Piece<'a> {
    fn of(part: &'a Part) -> Self {
        match part {
            Part::Text { text } | Part::Refusal { refusal: text } => Piece::Text(text),
            Part::ImageUrl { image_url } => match Media::of(&image_url.url) {
                Some(media) => Piece::Image(Media {
                    detail: image_url.detail.as_deref(),
                    ..media
                }),
                None => Piece::ImageAt(image_url),
            },
            Part::InputAudio { input_audio } => Piece::Audio(input_audio),
            Part::File { file } => Piece::File(file),
        }
    }

    /// Whether it says nothing.
    pub(crate) fn is_blank(&self) -> bool {
        matches!(self, Piece::Text(text) if text.trim().is_empty())
    }

    /// A refusal of this part.
    pub(crate) fn unsupported(&self, field: &str, problem: &str) -> Unsupported {
        let what = match self {
            Piece::Text(_) => "text",
            Piece::Image(_) => "image_url",
            Piece::ImageAt(_) => "image_url.url",
            Piece::Audio(_) => "input_audio",
            Piece::File(_) => "file",
        };
        Unsupported::new(format!("{field}.{what}"), problem)
    }
}
