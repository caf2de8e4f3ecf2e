//! `docs/providers.md`: what every provider has, made of the table and of the fixtures' results.

use std::fmt::Write as _;
use std::path::Path;

use forebay_providers::registry::{self, Dialect, KeyPlacement, Provider};

use crate::targets::Target;
use crate::{errors, files, headers, requests, silence, targets};

/// The fields of a chat that OpenAI documents, but for those that choose the model or the transport.
const FIELDS: [&str; 34] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

const HEAD: &str = "\
# Providers

Written by `UPDATE_GOLDEN=1 cargo test -p forebay-providers --test providers` from the table of providers and from the
fixtures in `providers/tests/providers`; do not edit it by hand. `make sdk-types` holds the same fixtures against the
types of the vendors' own SDKs. No provider was called for it.

## What each one has

*Chats* is how many of the 50 chats in `chats.jsonl` can be said; the others are refused by the name of a field, and a
job goes to another target. *Errors* counts the classes that the provider's own fixtures have, and after a plus those
of its rows that no source confirms.

";

const LEFT_OUT: &str = "\
## What is left out

A test looks for every text and number of the 50 chats in what is said. Beside the fields above, these were not found:
none of them is what is asked, and none is an answer. Everything else is said, or refused by name.

";

const OTHERWISE: &str = "
What a provider signed or hid of its thoughts stands in `messages[].reasoning_details[]` as `{\"format\", \"data\"}`, with
`\"after\": N` where N characters of the text stood before it, and in `extra_content` of a call where Google puts it. Send the message back as it is, and the provider has it again; all
others leave it out.

## What is said otherwise

| part | how |
|---|---|
| a `system` message among others | stays where it is in OpenAI's dialect, Responses, Mistral, Cohere and Ollama; at Anthropic, Gemini and Bedrock all instructions stand first |
| blank texts | left out at Anthropic, Gemini and Bedrock, which refuse them |
| `refusal` of an earlier answer | the assistant's text everywhere but in OpenAI's dialect |
| ids of calls | hashed where a provider takes only some characters and lengths: Anthropic, Mistral, Bedrock; Ollama has names instead |
| names of files | other characters than letters, digits, blanks, hyphens and brackets become hyphens at Bedrock |
| text files | at Anthropic as text, whatever its kind |
| `tool_choice: none` | at Bedrock and Ollama no tools are sent |
| `tool_choice` of one function | at Cohere the other tools are not sent |
| `tools[].function.strict` | kept in OpenAI's dialect, Responses, Anthropic, Mistral and Bedrock; at Cohere of all tools if of one; nothing at Gemini and Ollama |
| `response_format.json_schema.strict` | a schema is always kept to at Anthropic, Gemini, Cohere, Bedrock and Ollama |
| `reasoning_effort` | its word at Responses, Mistral and Anthropic's newer version; low, medium or high at Ollama and at Bedrock's other models; a budget of tokens at Anthropic's older version, Gemini, Cohere and Bedrock's Claude |
| no longest answer | 4,096 tokens and the budget of thoughts at Anthropic, and at Bedrock's Claude if it thinks; else the provider's own |
| `store` | chats said as Responses are never stored |

Images that a model draws in a chat stand in `images` of the message, as at OpenRouter. Of answers, what OpenAI's shape has no place for is left out: citations, log probabilities, safety ratings, durations,
and kinds of content that appear later. A reason to end that is not known counts as `stop`; the provider's word for it
stands in `native_finish_reason`.

Mistral, Cohere and Ollama have no sign of a refusal on the wire: what their models say instead of an answer is text, and
the job succeeds. Everywhere else a refusal fails the job as `content_filtered`, with the provider's answer.

Where a provider does not say what embeddings used, as Gemini does not, `usage` of the answer is null, and so is the
completion's.

A moderation has OpenAI's shape from Mistral, too: `flagged` says whether any category is true. The categories keep
Mistral's names (`hate_and_discrimination`, `selfharm`, `pii` and so on), since most are wider or narrower than any of
OpenAI's: whoever reads categories by name reads those of the provider that answered.

Headers that are not read: OpenAI's of projects, Anthropic's of all tokens together and of its priority tier, Fireworks'
of prompts without the cache, Together's older ones, OpenRouter's of limits (they come with refusals alone, and when
they end is read).
";

fn auth(provider: &Provider) -> String {
    let way = match &provider.auth {
        KeyPlacement::Bearer => "`Authorization: Bearer`".to_owned(),
        KeyPlacement::Header(name) => format!("`{name}`"),
        KeyPlacement::AwsSigv4 => "AWS signature 4".to_owned(),
    };
    if provider.keyless {
        format!("{way}, or none")
    } else {
        way
    }
}

fn expressible(target: &Target) -> usize {
    let endpoint = target.endpoint();
    let said =
        |asked: &requests::Asked| requests::said(&endpoint, &asked.job(), &target.model).is_ok();
    requests::chats().iter().filter(|asked| said(asked)).count()
}

fn abilities(text: &mut String) {
    let errors = errors::covered();
    let tellers = headers::tellers();
    text.push_str("| provider | dialect | kinds of work | chats | errors | limit headers | key | `base_url` |\n|---|---|---|---|---|---|---|---|\n");
    for provider in registry::providers() {
        let kinds: Vec<_> = provider.kinds().iter().map(ToString::to_string).collect();
        let covered = match errors.get(&provider.name) {
            Some((classes, 0)) => classes.len().to_string(),
            Some((classes, recalled)) => format!("{} +{recalled}", classes.len()),
            None => "–".to_owned(),
        };
        let told = if tellers.contains(&provider.name) {
            "yes"
        } else {
            "–"
        };
        let chats = expressible(&Target::plain(provider));
        let (name, kinds, auth) = (&provider.name, kinds.join(", "), auth(provider));
        let dialect = provider.dialect;
        let base_url = provider
            .base_url
            .as_ref()
            .map(|url| format!("`{url}` unless you give one"));
        let example = || {
            format!(
                "yours, such as `{}`",
                provider.example_url.as_deref().unwrap_or_default()
            )
        };
        let base_url = base_url.unwrap_or_else(example);
        writeln!(
            text,
            "| {name} | {dialect} | {kinds} | {chats} of 50 | {covered} | {told} | {auth} | {base_url} |"
        )
        .expect("written");
    }
    text.push_str(
        "\nAs the fixtures configure them:\n\n| target | model | chats |\n|---|---|---|\n",
    );
    for target in targets::targets() {
        let chats = expressible(&target);
        writeln!(
            text,
            "| {} | {} | {chats} of 50 |",
            target.name, target.model
        )
        .expect("written");
    }
}

fn classes(text: &mut String) {
    text.push_str("\n## Errors that fixtures have\n\n| provider | classes |\n|---|---|\n");
    for (provider, (classes, _)) in errors::covered() {
        let classes: Vec<_> = classes
            .into_iter()
            .map(|class| format!("`{class}`"))
            .collect();
        writeln!(text, "| {provider} | {} |", classes.join(", ")).expect("written");
    }
}

fn list(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<_> = names
        .into_iter()
        .map(|name| format!("`{}`", name.as_ref()))
        .collect();
    if names.is_empty() {
        "–".to_owned()
    } else {
        names.join(", ")
    }
}

fn fields(text: &mut String) {
    text.push_str(
        "\n## Fields of a chat, by dialect\n\nWhat asks for what is so anyway (`n: 1`, `logprobs: false`, an empty \
         list, null) is never refused.\n\n| dialect | said | left out | refused |\n|---|---|---|---|\n",
    );
    let mut seen = Vec::new();
    for provider in registry::providers() {
        let fields = provider.chat_fields();
        let Some(mapped) = fields.mapped.filter(|_| !seen.contains(&provider.dialect)) else {
            continue;
        };
        seen.push(provider.dialect);
        let known = |name: &&&str| !mapped.contains(name) && !fields.dropped.contains(name);
        let refused = FIELDS.iter().filter(known);
        let (said, dropped) = (list(&mapped), list(&fields.dropped));
        let dialect = provider.dialect;
        writeln!(
            text,
            "| {dialect} | {said} | {dropped} | {}, and what is not known |",
            list(refused)
        )
        .expect("written");
    }
    text.push_str(
        "\nIn OpenAI's own dialect a request goes as it is, but for:\n\n| provider | refused | left out | of messages | \
         by another name |\n|---|---|---|---|---|\n",
    );
    for provider in registry::providers()
        .iter()
        .filter(|provider| provider.dialect == Dialect::Openai)
    {
        let fields = provider.chat_fields();
        let names = fields.renamed.iter().chain(&fields.roles);
        let other = list(names.map(|(one, other)| format!("{one} → {other}")));
        let (refused, dropped) = (list(&fields.refused), list(&fields.dropped));
        let of_messages = list(&fields.dropped_of_messages);
        writeln!(
            text,
            "| {} | {refused} | {dropped} | {of_messages} | {other} |",
            provider.name
        )
        .expect("written");
    }
    text.push('\n');
}

/// Proven paths, but for the thoughts, of which each dialect has its own.
fn left_out(text: &mut String) {
    text.push_str("| part | left out at |\n|---|---|\n");
    for (path, targets) in silence::left_out() {
        if !path.starts_with("messages[].reasoning_details") {
            writeln!(text, "| `{path}` | {} |", targets.join(", ")).expect("written");
        }
    }
}

#[test]
fn the_document_of_providers_is_up_to_date() {
    let mut text = HEAD.to_owned();
    abilities(&mut text);
    classes(&mut text);
    fields(&mut text);
    text.push_str(LEFT_OUT);
    left_out(&mut text);
    text.push_str(OTHERWISE);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/providers.md");
    let stale: Vec<_> = files::agree(&path, &text).err().into_iter().collect();
    files::none_of(&stale);
}
