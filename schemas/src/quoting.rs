//! The parts of a job that an error may quote: names, and they are cut. Of any other value an error says its type alone.

use std::fmt::Display;

/// Maximum length of a quoted name in bytes.
pub const MAX_QUOTED: usize = 64;

/// Returns a name of a job, cut at [`MAX_QUOTED`] bytes.
pub fn cut_name(name: &str) -> String {
    if name.len() <= MAX_QUOTED {
        return name.to_owned();
    }
    format!("{}…", &name[..name.floor_char_boundary(MAX_QUOTED)])
}

/// Returns an error of serde without the value that it quotes. The name of an unknown field stays.
pub fn without_values(error: &impl Display) -> String {
    let message = error.to_string();
    let Some((what, rest)) = message.split_once(['"', '`']) else {
        return message;
    };
    let is_value = ["invalid type: ", "invalid value: ", "unknown variant "]
        .iter()
        .any(|start| what.starts_with(start));
    let is_field = what == "unknown field ";
    if !is_value && !is_field {
        return message;
    }
    // The quoted text may hold any words. What follows it holds none of the job.
    let ends = ["\", expected ", "`, expected ", "`, there are "];
    let end = ends.iter().filter_map(|end| rest.rfind(end)).max();
    let Some(end) = end else {
        return what.trim_end().to_owned();
    };
    let (value, rest) = (&rest[..end], &rest[end + 1..]);
    match is_field {
        true => format!("{what}`{}`{rest}", cut_name(value)),
        false => format!("{}{rest}", what.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        One,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {
        #[serde(rename = "word")]
        _word: Word,
    }

    fn error<T: DeserializeOwned + std::fmt::Debug>(json: &str) -> String {
        without_values(&serde_json::from_str::<T>(json).expect_err("a mistake"))
    }

    #[test]
    fn an_error_says_the_type_of_a_value_and_not_the_value() {
        let said = [
            error::<BTreeMap<String, String>>(r#""Jane \", expected Roe""#),
            error::<String>("71.5"),
            error::<String>("71"),
            error::<u8>("7100"),
            error::<Word>(r#""Jane `, expected Roe""#),
            error::<Named>(r#"{"word":"Jane Roe"}"#),
        ];
        for said in said {
            assert!(!said.contains("Jane") && !said.contains("71"), "{said}");
            assert!(said.contains("expected "), "{said}");
        }
    }

    #[test]
    fn the_name_of_an_unknown_field_is_cut() {
        let said = error::<Named>(r#"{"wurd":"one"}"#);
        assert!(
            said.starts_with("unknown field `wurd`, expected `word`"),
            "{said}"
        );
        let long = format!(r#"{{"{}":1}}"#, "é".repeat(100));
        assert!(error::<Named>(&long).contains(&format!("`{}…`", "é".repeat(32))));
    }
}
