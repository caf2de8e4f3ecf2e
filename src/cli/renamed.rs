//! The words of 0.1 on the command line: each is refused with the word of today.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What is refused as which kind of error, and what to say.
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

/// What to say where a command line is refused for a word of 0.1.
pub(super) fn message(error: &clap::Error) -> Option<&'static str> {
    let is_it = |(kind, context, old, _): &&(ErrorKind, ContextKind, &str, &str)| {
        error.kind() == *kind
            && matches!(error.get(*context), Some(ContextValue::String(word)) if word == old)
    };
    RENAMED.iter().find(is_it).map(|(.., message)| *message)
}
