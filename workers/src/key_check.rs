//! Checks that a provider accepts a key: by its list of models or, if it has none, by the smallest call.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::{Class, Job};
use serde::de::IgnoredAny;
use tokio::time::timeout;

use crate::accounts::{self, AccountKey};
use crate::clock::{Clock, SystemClock};
use crate::fence::CallFence;
use crate::outcome::outcome::CallOutcome;
use crate::upstream::{self, Upstream};
use forebay_providers::{Endpoint, RateLimitHeaders, WorkKind, models};
use forebay_providers::{Reply, Request};

/// Time that a provider has to answer. A list of models comes at once, a call may take longer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// The result of checking a key.
#[derive(Debug)]
pub struct KeyCheck {
    /// The reason for which the key is not accepted; `None` if it is.
    pub problem: Option<KeyProblem>,
    /// The models of the account; `None` if the provider does not list them.
    pub models: Option<Vec<String>>,
    /// The rate-limit headers of the answer.
    pub limits: Vec<RateLimitHeaders>,
}

/// The reason for which a key is not accepted.
#[derive(Debug)]
pub struct KeyProblem {
    /// The class of the failure.
    pub class: Class,
    /// The provider's message, without the key.
    pub message: String,
}

/// Requests the list of models from the provider of `account` with `key`. If the provider has no such list, requests
/// the smallest answer of `model`. Returns `None` if neither can be requested.
pub async fn probe(
    upstream: &impl Upstream,
    account: &accounts::Config,
    key: &AccountKey,
    model: Option<&str>,
    clock: &dyn Clock,
) -> Option<KeyCheck> {
    let job = smallest_job(account)?;
    let endpoint = &account.endpoint;
    let (mut request, model) = match (endpoint.list_models(), model) {
        (Some(list), _) => (list, None),
        (None, model) => (endpoint.encode(&job, model?).ok()?, model),
    };
    request.account.clone_from(&account.name);
    if let Err(problem) = endpoint.authorise(&mut request, &key.secret(), clock.now()) {
        let outcome = CallOutcome::local(Class::BadKey, "unusable_key", problem);
        return Some(check_call(&outcome, Vec::new()));
    }
    let reply = match send(upstream, request).await {
        Ok(reply) => reply,
        Err(error) => return Some(check_call(&CallOutcome::of_error(&error), Vec::new())),
    };
    let now = clock.now();
    let limits = endpoint.observe(&reply.headers, now);
    if model.is_none() && (200..300).contains(&reply.status) {
        return Some(check_list(endpoint, &reply, limits));
    }
    let decoded = endpoint.decode(&job, model.unwrap_or_default(), &reply, now);
    let outcome = CallOutcome::of_reply(decoded, reply.status, (&key.secret(), None), &job);
    Some(check_call(&outcome, limits))
}

/// Checks a key by the outcome of a call with it.
fn check_call(outcome: &CallOutcome, limits: Vec<RateLimitHeaders>) -> KeyCheck {
    let problem = outcome.class.map(|class| KeyProblem {
        class,
        message: outcome.message.clone(),
    });
    KeyCheck {
        problem,
        models: None,
        limits,
    }
}

/// Checks a key by the list of models that was requested with it.
fn check_list(endpoint: &Endpoint, reply: &Reply, limits: Vec<RateLimitHeaders>) -> KeyCheck {
    let is_json = serde_json::from_slice::<IgnoredAny>(&reply.body).is_ok();
    let models = models(reply);
    // A provider whose keys are tried at another address answers there with no list.
    let tries_keys = endpoint.provider.tries_keys_at().is_some();
    let is_expected = models.is_some() || tries_keys;
    let is_accepted = is_json && is_expected;
    let problem = (!is_accepted).then(|| KeyProblem {
        class: Class::MalformedResponse,
        message: "what is answered is no list of models: is `base_url` right?".to_owned(),
    });
    KeyCheck {
        problem,
        models,
        limits,
    }
}

async fn send(upstream: &impl Upstream, request: Request) -> Result<Reply, upstream::Error> {
    let late = |_| Err(upstream::Error::TimedOut(CHECK_TIMEOUT));
    let fence = CallFence::unlimited(Arc::new(SystemClock));
    let received = timeout(CHECK_TIMEOUT, upstream.send(request, fence, |_| {}));
    Ok(received.await.unwrap_or_else(late)?.reply)
}

/// Returns a job that costs as little as any that the provider takes.
fn smallest_job(account: &accounts::Config) -> Option<Job> {
    let provider = &account.endpoint.provider;
    let kind = provider.kinds().first()?;
    let body = match kind {
        WorkKind::Embeddings => r#"{"input":"."}"#.to_owned(),
        _ => r#"{"messages":[{"role":"user","content":"."}],"max_tokens":1}"#.to_owned(),
    };
    let url = kind.url();
    Job::parse(format!(r#"{{"id":"check","url":"{url}","body":{body}}}"#).as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use forebay_providers::registry::provider;

    #[test]
    fn what_is_no_list_of_models_accepts_no_key() {
        let said = |name: &str, body: &'static str| {
            let provider = provider(name).expect("a known provider");
            let endpoint = Endpoint::new(provider, "http://h/v1");
            let body = Bytes::from_static(body.as_bytes());
            let reply = Reply {
                status: 200,
                headers: HeaderMap::new(),
                body,
            };
            let KeyCheck {
                problem, models, ..
            } = check_list(&endpoint, &reply, Vec::new());
            (
                problem.map(|problem| problem.class),
                models.map(|models| models.len()),
            )
        };
        assert_eq!(
            said("openai", r#"{"data":[{"id":"a"},{"id":"b"}]}"#),
            (None, Some(2))
        );
        let wrong = (Some(Class::MalformedResponse), None);
        assert_eq!(said("openai", "<html>please log in</html>"), wrong);
        assert_eq!(said("openai", r#"{"ok":true}"#), wrong);
        assert_eq!(
            said("openrouter", r#"{"data":{"label":"mine"}}"#),
            (None, None),
            "of a key, not of models"
        );
        assert_eq!(said("openrouter", "<html>"), wrong);
    }
}
