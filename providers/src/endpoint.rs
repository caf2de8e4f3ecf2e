//! The destination of an account's calls: the address, the placement of the key, and the provider's
//! way of counting.

use bytes::Bytes;
use forebay_schemas::{Job, Usage};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;

use crate::cost::{CallCost, CountedTogether};
use crate::decoded::RateLimitHeaders;
use crate::error::ErrorBody;
use crate::message::{Reply, Request};
use crate::redact::Redaction;
use crate::registry::{KeyPlacement, Provider, TokenRules};
use crate::secret::Secret;
use crate::stated_use::StatedUse;
use crate::{admission, sigv4};

/// The destination of an account's calls: a provider at an address.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The provider.
    pub provider: &'static Provider,
    /// The base address, without a final slash.
    pub base_url: String,
    /// The version of the provider's API; `None` where none is sent.
    pub api_version: Option<String>,
}

impl Endpoint {
    /// Creates an endpoint at `base_url` with the provider's default version.
    pub fn new(provider: &'static Provider, base_url: &str) -> Self {
        let base_url = base_url.trim_end_matches('/').to_owned();
        Self {
            provider,
            base_url,
            api_version: provider.api_version.clone(),
        }
    }

    /// Returns the version of the provider's API, or an empty text where none is sent.
    pub(crate) fn version(&self) -> &str {
        self.api_version.as_deref().unwrap_or_default()
    }

    /// Returns what is wrong with the version, or with its absence; `None` if nothing is.
    pub fn wrong_version(&self) -> Option<String> {
        let Provider {
            name,
            api_versions,
            dated_address,
            example_url,
            ..
        } = self.provider;
        let is_at = |end: &String| self.base_url.ends_with(end.as_str());
        let undated = dated_address.as_ref().map(is_at);
        let version = self.version();
        let shape: String = version.chars().map(as_digit).collect();
        match (undated, &self.api_version) {
            (None, Some(_)) if api_versions.is_empty() => Some(format!(
                "{name} has no versions to choose from, leave it out"
            )),
            (None, Some(version)) if !api_versions.contains(version) => Some(format!(
                "`{version}` is not known, use one of {}",
                api_versions.join(", ")
            )),
            (Some(true), Some(_)) => {
                Some("is for the older address alone, leave it out".to_owned())
            }
            (Some(false), None) => Some(format!(
                "is missing: this address needs one, for example \"2024-10-21\"; the newer address, {}, needs none",
                example_url.as_deref().unwrap_or_default()
            )),
            (Some(false), Some(version))
                if !matches!(shape.as_str(), "0000-00-00" | "0000-00-00-preview") =>
            {
                Some(format!(
                    "`{version}` is no version, write for example \"2024-10-21\""
                ))
            }
            _ => None,
        }
    }

    /// Adds the credential to a request that is sent at `now`. An empty credential adds nothing.
    ///
    /// # Errors
    /// Fails when the credential cannot be sent in a header, or cannot sign the request.
    pub fn authorise(
        &self,
        request: &mut Request,
        secret: &Secret,
        now: Timestamp,
    ) -> Result<(), String> {
        let key = secret.expose();
        if key.is_empty() {
            return Ok(());
        }
        let (name, value) = match &self.provider.auth {
            KeyPlacement::Bearer => (AUTHORIZATION, format!("Bearer {key}")),
            KeyPlacement::Header(name) => {
                let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
                (name, key.to_owned())
            }
            KeyPlacement::AwsSigv4 => return sigv4::sign(request, key, now),
        };
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| "the key holds characters that cannot stand in a header".to_owned())?;
        value.set_sensitive(true);
        request.headers.insert(name, value);
        Ok(())
    }

    /// Returns why no call can be made with this credential; `None` if calls can be made.
    pub fn wrong_key(&self, secret: &Secret) -> Option<String> {
        let (url, account) = (self.base_url.clone(), String::new());
        let (method, headers) = (Method::POST, HeaderMap::new());
        let mut request = Request {
            method,
            url,
            headers,
            body: Bytes::new(),
            account,
        };
        self.authorise(&mut request, secret, Timestamp::UNIX_EPOCH)
            .err()
    }

    /// Returns the cost that the provider counts for a call to `model` when it admits the call.
    pub fn admission_cost(&self, job: &Job, model: &str) -> CallCost {
        let TokenRules {
            together,
            always_sets_maximum,
            ..
        } = self.provider.tokens;
        admission::cost(job, model, together, always_sets_maximum)
    }

    /// Returns true if a job limits the length of its answer.
    pub fn states_maximum(job: &Job) -> bool {
        admission::states_maximum(job)
    }

    /// Returns the cost of a job elsewhere, as this provider counts it.
    pub fn counted(&self, job: &Job, cost: CallCost) -> CallCost {
        let TokenRules {
            together,
            always_sets_maximum,
            ..
        } = self.provider.tokens;
        let together = admission::counted_together(job, together, always_sets_maximum);
        CallCost { together, ..cost }
    }

    /// Returns the cost of a completed call from its usage.
    pub fn spent(&self, usage: Usage, model: &str) -> CallCost {
        let together = match self.provider.tokens.together {
            CountedTogether::Input => CountedTogether::Input,
            CountedTogether::Sum | CountedTogether::Larger => CountedTogether::Sum,
        };
        let weight = self.provider.burndown(model);
        let output_tokens = usage.output_tokens.saturating_mul(weight);
        let free = if self.provider.tokens.cached_is_free {
            usage.cached_input_tokens
        } else {
            0
        };
        let input_tokens = usage.input_tokens.saturating_sub(free);
        CallCost {
            requests: 1,
            input_tokens,
            output_tokens,
            together,
        }
    }

    /// Returns true if the provider gives back what was reserved and not used.
    pub fn settles(&self) -> bool {
        self.provider.tokens.settles
    }

    /// Reads the figures of the limit that refused a call of `job`; `None` if the reply states none of its own. What repeats
    /// the request is none: a team's prompt could lower the limits of all.
    pub fn stated_use(&self, job: &Job, secret: &Secret, reply: &Reply) -> Option<StatedUse> {
        let is_refusal = reply.status == 429 || reply.status == 413;
        let error = is_refusal.then(|| ErrorBody::read(reply))?;
        let message = error.message.as_deref()?;
        let stated = StatedUse::in_message(message)?;
        let own_words = Redaction::new(secret, job, false).text(message);
        StatedUse::in_message(&own_words).filter(|own| *own == stated)
    }

    /// Reads the state of limits from the headers of a reply.
    pub fn observe(&self, headers: &HeaderMap, now: Timestamp) -> Vec<RateLimitHeaders> {
        let limits = self.provider.limit_headers().iter();
        let read = limits.filter_map(|limit| limit.read(headers, now));
        read.collect()
    }
}

/// Replaces a digit by 0, so that only the form of a text remains.
fn as_digit(char: char) -> char {
    if char.is_ascii_digit() { '0' } else { char }
}
