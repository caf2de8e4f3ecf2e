//! The figures of a limit in the words of a refusal: `Limit 10000, Used 9500, Requested 800`.
//!
//! OpenAI and Groq write them; others write none.

use std::time::Duration;

use crate::cost::LimitDimension;
use crate::decoded::RateLimitHeaders;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The figures of the limit that refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedUse {
    /// The quantity that is limited.
    pub dimension: LimitDimension,
    /// The whole limit, in units of `dimension`.
    pub limit: u64,
    /// The part that was used before the call; `None` if the refusal does not say.
    pub used: Option<u64>,
    /// The amount that the call counts for.
    pub requested: u64,
    /// The period of the limit; `None` if the refusal does not name it.
    pub per: Option<Duration>,
}

impl StatedUse {
    /// Returns the same as headers state it; `None` if the period is not named.
    pub fn as_headers(&self) -> Option<RateLimitHeaders> {
        let used = self.used.unwrap_or_default();
        Some(RateLimitHeaders {
            dimension: self.dimension,
            limit: self.limit,
            remaining: self.limit.saturating_sub(used),
            whole_in: None,
            resolution: Duration::ZERO,
            per: Some(self.per?),
        })
    }

    /// Reads the figures from the message of a refusal; `None` if it has none.
    pub(crate) fn in_message(message: &str) -> Option<Self> {
        let lower = message.to_lowercase();
        let figure = |name: &str| number_after(&lower, name);
        let (limit, requested) = (figure("limit ")?, figure("requested ")?);
        let has = |words: [&str; 3]| words.iter().any(|word| lower.contains(word));
        let per = match () {
            () if has(["per min", "(tpm)", "(rpm)"]) => Some(MINUTE),
            () if has(["per day", "(tpd)", "(rpd)"]) => Some(DAY),
            () => None,
        };
        let dimension = match lower.contains("token") {
            true => LimitDimension::Tokens,
            false => LimitDimension::Requests,
        };
        Some(Self {
            dimension,
            limit,
            used: figure("used "),
            requested,
            per,
        })
    }
}

/// Returns the number that follows the last `name` which is followed by one. Digits may be grouped by commas.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let found = text.rmatch_indices(name);
    let mut numbers = found.filter_map(|(at, _)| number_at(&text[at + name.len()..]));
    numbers.next()
}

fn number_at(text: &str) -> Option<u64> {
    let is_part = |c: char| c.is_ascii_digit() || c == ',';
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    text[..end].replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_with_their_dimension_and_period() {
        let of_tokens = "Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, \
                         Used 29,500, Requested 1234. Please try again in 1.4s.";
        let of_requests =
            "Rate limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1.";
        let too_large = "Request too large for model `m` on tokens per minute (TPM): Limit 8000, Requested 10013, \
                         please reduce your message size";
        let read = |text| StatedUse::in_message(text).expect("figures");
        assert_eq!(
            read(of_tokens),
            StatedUse {
                dimension: LimitDimension::Tokens,
                limit: 30_000,
                used: Some(29_500),
                requested: 1_234,
                per: Some(MINUTE),
            }
        );
        let day = read(of_requests);
        assert_eq!(
            (day.dimension, day.per),
            (LimitDimension::Requests, Some(DAY))
        );
        assert_eq!(
            (read(too_large).used, read(too_large).requested),
            (None, 10_013)
        );
    }

    #[test]
    fn other_words_have_no_figures() {
        for text in [
            "",
            "Rate limit reached for requests",
            "the limit requested is unknown",
            "Limit: 30 requested by you",
            "Limit 99999999999999999999999, Requested 1",
        ] {
            assert_eq!(StatedUse::in_message(text), None, "{text}");
        }
    }
}
