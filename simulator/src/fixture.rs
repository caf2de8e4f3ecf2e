//! Named accounts with the limits of real accounts at vendors.

use super::vendor::Vendor;
use super::window::WindowAlgorithm;

/// The limits of a named account. `calls`, `tokens`, `input` (tokens of prompts) and `output` (tokens of answers)
/// hold limits as `AMOUNT/PERIOD`.
pub(super) struct AccountFixture {
    pub(super) name: &'static str,
    pub(super) provider: Vendor,
    pub(super) calls: &'static [&'static str],
    pub(super) tokens: &'static [&'static str],
    pub(super) input: &'static [&'static str],
    pub(super) output: &'static [&'static str],
    pub(super) algorithm: WindowAlgorithm,
    pub(super) tokens_algorithm: Option<WindowAlgorithm>,
    pub(super) concurrent: Option<u64>,
}

const UNLIMITED: AccountFixture = AccountFixture {
    name: "",
    provider: Vendor::OpenAi,
    calls: &[],
    tokens: &[],
    input: &[],
    output: &[],
    algorithm: WindowAlgorithm::Fixed,
    tokens_algorithm: None,
    concurrent: None,
};

static FIXTURES: [AccountFixture; 8] = [
    AccountFixture {
        name: "openai-t1",
        calls: &["500/1m"],
        tokens: &["200000/1m"],
        ..UNLIMITED
    },
    AccountFixture {
        name: "anthropic-legacy-t1",
        provider: Vendor::Anthropic,
        calls: &["50/1m"],
        input: &["30000/1m"],
        output: &["8000/1m"],
        algorithm: WindowAlgorithm::Bucket,
        ..UNLIMITED
    },
    AccountFixture {
        name: "gemini-free",
        provider: Vendor::Gemini,
        calls: &["5/1m", "20/1day"],
        tokens: &["250000/1m"],
        ..UNLIMITED
    },
    AccountFixture {
        name: "groq-free",
        provider: Vendor::Groq,
        calls: &["30/1m", "1000/1day"],
        tokens: &["8000/1m", "200000/1day"],
        algorithm: WindowAlgorithm::Sliding,
        ..UNLIMITED
    },
    // Azure checks calls over parts of the minute. It counts tokens with a counter that is reset every minute.
    AccountFixture {
        name: "azure-600",
        provider: Vendor::Azure,
        calls: &["10/1s", "100/10s", "600/1m"],
        tokens: &["100000/1m"],
        algorithm: WindowAlgorithm::Sliding,
        tokens_algorithm: Some(WindowAlgorithm::Fixed),
        ..UNLIMITED
    },
    AccountFixture {
        name: "deepseek",
        provider: Vendor::DeepSeek,
        concurrent: Some(500),
        ..UNLIMITED
    },
    AccountFixture {
        name: "bedrock",
        provider: Vendor::Bedrock,
        tokens: &["100000/1m"],
        ..UNLIMITED
    },
    AccountFixture {
        name: "mistral-rps",
        provider: Vendor::Mistral,
        calls: &["1/1s"],
        ..UNLIMITED
    },
];

/// Returns the fixture of this name.
pub(super) fn named(name: &str) -> Result<&'static AccountFixture, String> {
    let fixture = FIXTURES.iter().find(|fixture| fixture.name == name);
    fixture.ok_or_else(|| {
        let names = FIXTURES.each_ref().map(|fixture| fixture.name);
        format!("`{name}` is not one of {}", names.join(", "))
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a moment to count from")]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::admission::{Admission, LimitedAccount, RefusalReason};
    use super::super::cost::TokenCount;
    use super::*;

    fn account(text: &str) -> Arc<LimitedAccount> {
        LimitedAccount::new(format!("name=a,key=k,{text}").parse().expect("a config"))
    }

    fn admitted(
        account: &Arc<LimitedAccount>,
        now: Instant,
        tokens: u64,
        calls: usize,
    ) -> Vec<Admission> {
        let cost = TokenCount {
            tokens,
            input: tokens,
            output: 0,
        };
        let all = (0..calls).map(|_| account.admit(cost, now));
        all.filter(|admission| admission.refused.is_none())
            .collect()
    }

    #[test]
    fn every_fixture_can_be_read() {
        for fixture in &FIXTURES {
            assert_eq!(
                named(fixture.name).map(|config| config.provider),
                Ok(fixture.provider)
            );
        }
    }

    #[test]
    fn azure_counts_calls_by_the_second_and_sets_tokens_back_by_the_minute() {
        let azure = account("fixture=azure-600,scale=60");
        let (start, second) = (Instant::now(), Duration::from_secs(1) / 60);
        assert_eq!(admitted(&azure, start, 0, 12).len(), 10);
        let refused = azure.admit(TokenCount::default(), start);
        assert_eq!(
            (
                refused.refused,
                refused.refusing_limit.map(|rest| rest.limit)
            ),
            (Some(RefusalReason::Calls(second)), Some(10))
        );
        let azure = account("fixture=azure-600");
        assert_eq!(admitted(&azure, start, 50_000, 3).len(), 2);
        assert_eq!(
            admitted(&azure, start + Duration::from_secs(59), 50_000, 1).len(),
            0
        );
        assert_eq!(
            admitted(&azure, start + Duration::from_secs(60), 50_000, 1).len(),
            1
        );
    }

    #[test]
    fn geminis_day_is_spent_after_four_minutes() {
        let gemini = account("fixture=gemini-free");
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        for round in 0..4 {
            assert_eq!(
                admitted(&gemini, start + minute * round, 1, 5).len(),
                5,
                "{round}"
            );
        }
        let refused = gemini.admit(TokenCount::default(), start + minute * 4);
        assert_eq!(refused.refusing_limit.map(|rest| rest.limit), Some(20));
    }

    #[test]
    fn deepseek_counts_what_is_under_way() {
        let deepseek = account("fixture=deepseek");
        let now = Instant::now();
        let under_way = admitted(&deepseek, now, 0, 501);
        assert_eq!(under_way.len(), 500);
        drop(under_way);
        assert_eq!(admitted(&deepseek, now, 0, 1).len(), 1);
    }
}
