//! Doc comments are plain English: short sentences, the subject first, and no words that only this project would use so.

use crate::sources::{Source, sources};

/// The most words of a sentence.
const MAX_WORDS: usize = 25;

/// Words with which no doc comment begins: a clause is no subject.
const CLAUSE_OPENERS: [&str; 4] = ["What", "Whether", "Who", "Whoever"];

/// Words for components, reports and repetition that have a plain one.
const PRIVATE_WORDS: [&str; 8] = [
    "anew", "mend", "mended", "nobody", "somebody", "told", "unsaid", "whoever",
];

/// One doc comment: its first line's number and its text.
struct Doc {
    line: usize,
    text: String,
}

/// The doc comments of a file before its tests, without their examples.
fn docs(source: &Source) -> Vec<Doc> {
    let mut docs: Vec<Doc> = Vec::new();
    let (mut goes_on, mut in_example) = (false, false);
    for (index, line) in source.before_tests().lines().enumerate() {
        let trimmed = line.trim_start();
        let text = trimmed.strip_prefix("///");
        let Some(text) = text.or_else(|| trimmed.strip_prefix("//!")) else {
            goes_on = false;
            continue;
        };
        let text = text.trim();
        if text.starts_with("```") {
            in_example = !in_example;
            continue;
        }
        if in_example {
            continue;
        }
        if !goes_on {
            let line = index + 1;
            docs.push(Doc {
                line,
                text: String::new(),
            });
        }
        goes_on = true;
        if let Some(doc) = docs.last_mut() {
            // A heading, an item of a list and a row of a table end the sentence before them.
            let begins = text.is_empty()
                || text.starts_with(['#', '-', '*', '|', '1', '2', '3', '4', '5', '6']);
            doc.text.push_str(if begins { ".\n" } else { " " });
            doc.text
                .push_str(text.trim_start_matches(['#', '-', '*', '|', ' ']));
        }
    }
    docs
}

fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let ends = [". ", ".\n", ": ", ":\n", "; ", "? ", "! "];
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = ends.iter().filter_map(|end| text.find(end)).min();
        let (sentence, after) = match end {
            Some(at) => (&text[..at], Some(&text[at + 2..])),
            None => (text, None),
        };
        rest = after;
        Some(sentence)
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| letter.is_whitespace() || "()[],;:.\"".contains(letter))
        .filter(|word| word.chars().any(char::is_alphanumeric))
}

/// Every doc comment for which `problem` finds something, by its place.
fn problems(problem: impl Fn(&Doc) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut read = 0;
    for source in sources() {
        let path = source.path.display().to_string();
        for doc in docs(&source) {
            read += 1;
            if let Some(problem) = problem(&doc) {
                found.push(format!("{path}:{}: {problem}", doc.line));
            }
        }
    }
    assert!(read > 2_000, "all were read: {read}");
    found
}

#[test]
fn a_sentence_is_short() {
    let long = problems(|doc| {
        let longest = sentences(&doc.text).max_by_key(|sentence| words(sentence).count())?;
        (words(longest).count() > MAX_WORDS).then(|| longest.trim().to_owned())
    });
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn a_doc_comment_begins_with_its_subject() {
    let headless = problems(|doc| {
        let first = words(&doc.text).next()?;
        CLAUSE_OPENERS.contains(&first).then(|| doc.text.clone())
    });
    assert!(headless.is_empty(), "{headless:#?}");
}

#[test]
fn a_doc_comment_uses_plain_words() {
    let private = problems(|doc| {
        let word = words(&doc.text).find(|word| PRIVATE_WORDS.contains(word))?;
        Some(format!("`{word}`: {}", doc.text))
    });
    assert!(private.is_empty(), "{private:#?}");
}
