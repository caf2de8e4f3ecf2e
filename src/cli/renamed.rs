//! The command line words of 0.1. Each is refused with a message that names the current word.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The kind of the error, its context, the word of 0.1, and the message.
const RENAMED: [(ErrorKind, ContextKind, &str, &str); 3] = [
    (
        ErrorKind::InvalidSubcommand,
        ContextKind::InvalidSubcommand,
        "keys",
        "`forebay keys` is now `forebay accounts`",
    ),
    (
        ErrorKind::InvalidValue,
        ContextKind::InvalidValue,
        "quota",
        "`quota` is now `account`: for example `forebay pause account NAME`",
    ),
    (
        ErrorKind::UnknownArgument,
        ContextKind::InvalidArg,
        "--beside",
        "`--beside ACCOUNT` is gone: `forebay nats-permissions TEAM` prints a NATS account of the team's own without it",
    ),
];

/// Returns the message if a command line was refused for a word of 0.1.
pub(super) fn message(error: &clap::Error) -> Option<&'static str> {
    let is_renamed = |(kind, context, old, _): &&(ErrorKind, ContextKind, &str, &str)| {
        error.kind() == *kind
            && matches!(error.get(*context), Some(ContextValue::String(word)) if word == old)
    };
    RENAMED
        .iter()
        .find(is_renamed)
        .map(|(.., message)| *message)
}
