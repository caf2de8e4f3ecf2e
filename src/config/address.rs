//! The address of an account, `base_url`, and the mistakes that people make with it.

use forebay_providers::registry::Provider;

/// The ends of the addresses of single kinds of calls, which are taken for `base_url` at times.
const ENDS_OF_ENDPOINTS: [&str; 11] = [
    "/chat/completions",
    "/completions",
    "/responses",
    "/embeddings",
    "/moderations",
    "/rerank",
    "/images/generations",
    "/audio/speech",
    "/audio/transcriptions",
    "/v1/messages",
    "/api/chat",
];

/// Returns why an account cannot be called at this address, or `None` if it can. The text repeats
/// nothing that may be secret.
pub(super) fn wrong_address(base_url: &str, provider: &Provider) -> Option<String> {
    if base_url.contains(['@', '?', '#']) {
        return Some(
            "must have no user, password, query or fragment: keys belong into `keys`".to_owned(),
        );
    }
    let end = |end: &&&str| base_url.trim_end_matches('/').ends_with(**end);
    if let Some(end) = ENDS_OF_ENDPOINTS.iter().find(end) {
        let right = base_url.trim_end_matches('/').strip_suffix(end);
        let right = right.unwrap_or(base_url);
        return Some(format!(
            "`{base_url}` is the address of one kind of call; write `{right}`, to which Forebay adds `{end}` and others"
        ));
    }
    let is_valid = base_url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    let example = provider
        .example_url
        .as_deref()
        .or(provider.base_url.as_deref());
    let example = example
        .filter(|example| *example != base_url)
        .unwrap_or("https://HOST/v1");
    (!is_valid).then(|| format!("`{base_url}` is no address, write for example \"{example}\""))
}

#[cfg(test)]
mod tests {
    use forebay_providers::registry::providers;

    use super::*;

    #[test]
    fn the_address_of_one_kind_of_call_is_refused_with_the_right_one() {
        let provider = &providers()[0];
        for (base_url, right) in [
            ("https://h/v1/chat/completions", "https://h/v1"),
            ("https://h/v1/embeddings/", "https://h/v1"),
            ("https://h/v1/messages", "https://h"),
            ("http://h:11434/api/chat", "http://h:11434"),
        ] {
            let problem = wrong_address(base_url, provider).expect("refused");
            assert!(problem.contains(&format!("write `{right}`")), "{problem}");
        }
        for base_url in [
            "https://h/v1",
            "https://h",
            "https://h/models",
            "https://h/openai/v1/",
        ] {
            assert_eq!(wrong_address(base_url, provider), None, "{base_url}");
        }
    }
}
