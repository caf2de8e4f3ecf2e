//! The configuration of an account: its vendor, its keys and its limits.

use std::str::FromStr;
use std::time::Duration;

use super::fixture::{self, AccountFixture};
use super::vendor::Vendor;
use super::window::WindowAlgorithm;

/// The information about limits that an account's answers report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LimitHeaders {
    /// The tightest limit in every answer, and the wait after a refusal.
    #[default]
    Limits,
    /// The wait after a refusal.
    Waits,
    /// No information.
    None,
}

/// An amount and the period in which it is allowed.
pub type PeriodLimit = (u64, Duration);

/// The configuration of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The name of the account.
    pub name: String,
    /// The keys of the account; an account of Ollama may have none.
    pub keys: Vec<String>,
    /// The vendor whose API the account speaks.
    pub provider: Vendor,
    /// The limits on calls.
    pub limits: Vec<PeriodLimit>,
    /// The limits on tokens, in the vendor's own count.
    pub tokens: Vec<PeriodLimit>,
    /// The limits on tokens of prompts alone.
    pub input_tokens: Vec<PeriodLimit>,
    /// The limits on tokens of answers alone.
    pub output_tokens: Vec<PeriodLimit>,
    /// The way in which periods are counted.
    pub algorithm: WindowAlgorithm,
    /// The way in which periods of tokens are counted; `None` for the same way as calls.
    pub tokens_algorithm: Option<WindowAlgorithm>,
    /// The most calls in flight; `None` for no limit.
    pub concurrent: Option<u64>,
    /// The information about limits in the account's answers.
    pub headers: LimitHeaders,
    /// The factor by which all periods are shorter than configured, for tests that cannot wait; 0 counts as 1.
    pub scale: u32,
}

impl Config {
    /// Returns an account with the limits of a fixture, without name and keys.
    fn of(fixture: &AccountFixture) -> Result<Self, String> {
        let limits = |texts: &[&str]| -> Result<Vec<_>, _> {
            let limits = texts.iter().map(|text| limit(text));
            limits.collect()
        };
        Ok(Self {
            provider: fixture.provider,
            limits: limits(fixture.calls)?,
            tokens: limits(fixture.tokens)?,
            input_tokens: limits(fixture.input)?,
            output_tokens: limits(fixture.output)?,
            algorithm: fixture.algorithm,
            tokens_algorithm: fixture.tokens_algorithm,
            concurrent: fixture.concurrent,
            headers: LimitHeaders::Limits,
            ..Self::default()
        })
    }

    /// Returns the calls a second that the tightest limit allows; `None` without a limit on calls.
    pub fn requests_per_second(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
        let rates = self
            .limits
            .iter()
            .map(|(limit, per)| *limit as f64 / self.scaled(*per).as_secs_f64());
        rates.reduce(f64::min)
    }

    /// Returns the real length of a configured period.
    pub(super) fn scaled(&self, per: Duration) -> Duration {
        per / self.scale.max(1)
    }

    /// Returns true if the tokens of a call have to be counted before its admission.
    pub(super) fn counts_tokens(&self) -> bool {
        let limits = [&self.tokens, &self.input_tokens, &self.output_tokens];
        limits.iter().any(|limits| !limits.is_empty())
    }

    fn set(&mut self, field: &str, value: &str) -> Result<(), String> {
        match field {
            "name" => value.clone_into(&mut self.name),
            "key" => self.keys.push(value.to_owned()),
            "provider" => self.provider = value.parse()?,
            "limit" => self.limits.push(limit(value)?),
            "tokens" => self.tokens.push(limit(value)?),
            "input_tokens" => self.input_tokens.push(limit(value)?),
            "output_tokens" => self.output_tokens.push(limit(value)?),
            "algorithm" => self.algorithm = algorithm(value)?,
            "tokens_algorithm" => self.tokens_algorithm = Some(algorithm(value)?),
            "concurrent" => self.concurrent = Some(number(value)?),
            "scale" => self.scale = number(value)?,
            "headers" => self.headers = headers(value)?,
            _ => {
                return Err(format!(
                    "`{field}` is not one of name, key, provider, fixture, limit, tokens, input_tokens, \
                     output_tokens, algorithm, tokens_algorithm, concurrent, headers, scale"
                ));
            }
        }
        Ok(())
    }
}

impl FromStr for Config {
    type Err = String;

    /// Parses `name=one,key=sk-one,limit=600/1m,tokens=200000/1m,algorithm=sliding,concurrent=8,headers=waits`. A
    /// field replaces the value that a fixture sets under the same name.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = Vec::new();
        for part in text.split(',') {
            fields.push(
                part.split_once('=')
                    .ok_or_else(|| format!("`{part}` is no FIELD=VALUE"))?,
            );
        }
        let fixture = fields.iter().find(|(field, _)| *field == "fixture");
        let mut config = match fixture {
            Some((_, name)) => Config::of(fixture::named(name)?)?,
            None => Config::default(),
        };
        fields.retain(|(field, _)| *field != "fixture");
        for (field, of_fixture) in [
            ("limit", &mut config.limits),
            ("tokens", &mut config.tokens),
            ("input_tokens", &mut config.input_tokens),
            ("output_tokens", &mut config.output_tokens),
        ] {
            if fields.iter().any(|(name, _)| *name == field) {
                of_fixture.clear();
            }
        }
        for (field, value) in fields {
            config.set(field, value)?;
        }
        let lacks_key = config.keys.is_empty() && config.provider != Vendor::Ollama;
        if config.name.is_empty() || lacks_key {
            return Err("needs name=NAME and at least one key=KEY".to_owned());
        }
        Ok(config)
    }
}

fn number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

fn algorithm(text: &str) -> Result<WindowAlgorithm, String> {
    match text {
        "sliding" => Ok(WindowAlgorithm::Sliding),
        "fixed" => Ok(WindowAlgorithm::Fixed),
        "bucket" => Ok(WindowAlgorithm::Bucket),
        _ => Err(format!("`{text}` is not sliding, fixed or bucket")),
    }
}

fn headers(text: &str) -> Result<LimitHeaders, String> {
    match text {
        "limits" => Ok(LimitHeaders::Limits),
        "waits" => Ok(LimitHeaders::Waits),
        "none" => Ok(LimitHeaders::None),
        _ => Err(format!("`{text}` is not limits, waits or none")),
    }
}

fn limit(text: &str) -> Result<PeriodLimit, String> {
    let wrong = || format!("`{text}` is no limit, write for example 600/1m");
    let (calls, per) = text.split_once('/').ok_or_else(wrong)?;
    let calls = calls
        .parse()
        .ok()
        .filter(|calls| *calls > 0)
        .ok_or_else(wrong)?;
    let per = humantime::parse_duration(per)
        .ok()
        .filter(|per| !per.is_zero())
        .ok_or_else(wrong)?;
    Ok((calls, per))
}

/// Returns the reason why these accounts cannot be served together, if there is one.
pub fn conflict(accounts: &[Config]) -> Option<String> {
    let keyless: Vec<_> = accounts
        .iter()
        .filter(|account| account.keys.is_empty())
        .collect();
    if let [_, second, ..] = keyless[..] {
        return Some(format!(
            "account {}: only one account can do without a key",
            second.name
        ));
    }
    let mut known: Vec<&str> = Vec::new();
    for account in accounts {
        for key in &account.keys {
            if known.contains(&key.as_str()) {
                return Some(format!(
                    "account {}: one of its keys is given twice",
                    account.name
                ));
            }
            known.push(key);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_cannot_be_meant_says_why() {
        for (text, expected) in [
            ("name=a", "key=KEY"),
            ("name=a,key=k,limit=600", "600/1m"),
            ("name=a,key=k,limit=0/1m", "0/1m"),
            ("name=a,key=k,colour=blue", "colour"),
            ("name=a,key=k,provider=oracle", "deepseek"),
            ("name=a,key=k,fixture=oracle", "openai-t1"),
            ("name", "FIELD=VALUE"),
        ] {
            let error = text.parse::<Config>().expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_field_is_stronger_than_a_fixture() {
        let config: Config = "name=a,key=k,limit=9/1m,fixture=anthropic-legacy-t1,scale=60"
            .parse()
            .expect("a config");
        assert_eq!(config.provider, Vendor::Anthropic);
        assert_eq!(config.limits, [(9, Duration::from_secs(60))]);
        assert_eq!(config.output_tokens, [(8_000, Duration::from_secs(60))]);
        assert_eq!(config.requests_per_second(), Some(9.0));
    }

    #[test]
    fn a_key_opens_one_account() {
        let accounts = |texts: &[&str]| -> Vec<Config> {
            texts
                .iter()
                .map(|text| text.parse().expect("a config"))
                .collect()
        };
        assert_eq!(
            conflict(&accounts(&["name=a,key=k", "name=b,provider=ollama"])),
            None
        );
        assert!(conflict(&accounts(&["name=a,key=k", "name=b,key=k,provider=groq"])).is_some());
        assert!(
            conflict(&accounts(&[
                "name=a,provider=ollama",
                "name=b,provider=ollama"
            ]))
            .is_some()
        );
    }
}
