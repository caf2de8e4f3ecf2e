//! What to do about an outcome: the whole policy, in one place.

use std::time::Duration;

use forebay_schemas::{Class, OnAmbiguous};
use rand::Rng;

use crate::outcome::outcome::CallOutcome;
use forebay_providers::ErrorScope;

/// The first back-off's upper bound; each further one doubles it.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// No back-off of a job is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Half of the shortest that an account cools which was used too much more than before.
const SHORTEST_RAMP: Duration = Duration::from_secs(1);
/// The shortest that a limit cools, whatever the provider says: a hint of nothing asks for a hot loop.
const SHORTEST_LIMIT: Duration = Duration::from_millis(50);
/// How long a spent day's or month's allowance cools when the provider does not say.
const UNSAID_EXHAUSTION: Duration = Duration::from_secs(60 * 60);
/// The shortest that it cools: a day's allowance is not back in the seconds that some providers name.
const SHORTEST_EXHAUSTION: Duration = Duration::from_secs(60);
/// How long a model that the account may not use is left alone.
const NOT_ALLOWED: Duration = Duration::from_secs(60 * 60);
/// Tries at an answer of one target that cannot be read.
const MALFORMED_TRIES: u32 = 2;

/// What becomes of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobVerdict {
    /// It is answered, by success or failure.
    Finish,
    /// It waits for its next permit; `counted` says whether this was one of its attempts.
    Retry {
        /// Whether an attempt is used up.
        counted: bool,
        /// How long the job itself waits first.
        backoff: Duration,
    },
    /// It waits for a permit of another target, if there is one for it: this one can never serve it.
    TryOtherTarget {
        /// Whether an attempt is used up.
        counted: bool,
    },
}

const TRY_OTHER_TARGET: JobVerdict = JobVerdict::TryOtherTarget { counted: false };

/// What becomes of the account that was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountAction {
    /// Nothing.
    None,
    /// A limit refused: the key, if the refusal speaks of it, else account × model cools; longer each time
    /// where the provider does not say for how long.
    Refused(Option<Duration>),
    /// Account × model cools.
    CoolModel(Duration),
    /// The key is not used again.
    DisableKey,
    /// The account is not used again.
    DisableAccount,
}

impl std::fmt::Display for AccountAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AccountAction::None => f.write_str("none"),
            AccountAction::Refused(None) => f.write_str("cools"),
            AccountAction::Refused(Some(wait)) | AccountAction::CoolModel(wait) => {
                write!(
                    f,
                    "cools for {}",
                    humantime::format_duration(rounded(*wait))
                )
            }
            AccountAction::DisableKey => f.write_str("the key is disabled until a restart"),
            AccountAction::DisableAccount => f.write_str("the account is disabled until a restart"),
        }
    }
}

/// A wait for people: in whole seconds, or milliseconds where it is shorter; never less than it is.
fn rounded(wait: Duration) -> Duration {
    let unit = if wait < Duration::from_secs(1) {
        1_000_000
    } else {
        1_000_000_000
    };
    let units = wait.as_nanos().div_ceil(unit);
    Duration::from_nanos(u64::try_from(units * unit).unwrap_or(u64::MAX))
}

/// How often a job is tried.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts that count: those that a provider may have served and failed. A limit, a spent
    /// allowance, a bad key or a missing connection never counts.
    pub max_attempts: u32,
}

impl RetryPolicy {
    /// Decides about an outcome, given how many attempts counted before it, and how many of this target's answers to
    /// the job could not be read, this one included.
    pub(crate) fn decide(
        &self,
        outcome: &CallOutcome,
        counted_before: u32,
        malformed_here: u32,
        on_ambiguous: OnAmbiguous,
        rng: &mut impl Rng,
    ) -> (JobVerdict, AccountAction) {
        let Some(class) = outcome.class else {
            return (JobVerdict::Finish, AccountAction::None);
        };
        let waits = JobVerdict::Retry {
            counted: false,
            backoff: Duration::ZERO,
        };
        let tries = counted_before + 1;
        let is_final = outcome.is_final && matches!(class, Class::ServerError | Class::Overloaded);
        if is_final && on_ambiguous == OnAmbiguous::Retry {
            return (self.other_target_or_finish(tries), AccountAction::None);
        }
        let jittered = |exponent: u32, rng: &mut _| backoff(exponent, rng);
        match class {
            Class::RateLimited => (
                waits,
                AccountAction::Refused(outcome.retry_after.map(|wait| wait.max(SHORTEST_LIMIT))),
            ),
            Class::RampLimited => {
                let wait = outcome
                    .retry_after
                    .unwrap_or(SHORTEST_RAMP)
                    .max(SHORTEST_RAMP)
                    * 2;
                (waits, AccountAction::Refused(Some(wait)))
            }
            Class::QuotaExhausted => {
                let wait = outcome
                    .retry_after
                    .unwrap_or(UNSAID_EXHAUSTION)
                    .max(SHORTEST_EXHAUSTION);
                (waits, AccountAction::Refused(Some(wait)))
            }
            Class::ExceedsLimit => (TRY_OTHER_TARGET, AccountAction::None),
            Class::BillingStop => (waits, AccountAction::DisableAccount),
            Class::BadKey => (waits, AccountAction::DisableKey),
            Class::ModelNotAllowed if outcome.scope == ErrorScope::Request => {
                (TRY_OTHER_TARGET, AccountAction::None)
            }
            Class::ModelNotAllowed => (TRY_OTHER_TARGET, AccountAction::CoolModel(NOT_ALLOWED)),
            Class::Overloaded => {
                let backoff = jittered(counted_before, rng);
                let wait = outcome.retry_after.unwrap_or(backoff).max(backoff);
                (
                    self.retry_or_finish(tries, self.max_attempts, backoff),
                    AccountAction::CoolModel(wait),
                )
            }
            // Of these too it cannot be told whether the provider has done, and charged, its work.
            Class::NetAfterSend | Class::ServerError | Class::MalformedResponse
                if on_ambiguous == OnAmbiguous::Fail =>
            {
                (JobVerdict::Finish, AccountAction::None)
            }
            Class::ServerError | Class::NetAfterSend => {
                let backoff = jittered(counted_before, rng);
                (
                    self.retry_or_finish(tries, self.max_attempts, backoff),
                    AccountAction::None,
                )
            }
            Class::NetBeforeSend if outcome.was_not_made() => (waits, AccountAction::None),
            Class::NetBeforeSend => {
                let wait = jittered(2, rng).max(FIRST_BACKOFF / 4);
                (waits, AccountAction::CoolModel(wait))
            }
            Class::MalformedResponse if outcome.is_too_large() => {
                (JobVerdict::Finish, AccountAction::None)
            }
            Class::MalformedResponse if malformed_here >= MALFORMED_TRIES => {
                (self.other_target_or_finish(tries), AccountAction::None)
            }
            Class::MalformedResponse => {
                let backoff = jittered(counted_before, rng);
                (
                    self.retry_or_finish(tries, self.max_attempts, backoff),
                    AccountAction::None,
                )
            }
            // To a larger window, or where the pool says so to a laxer provider.
            Class::ContextTooLong | Class::ContentFiltered => {
                (self.other_target_or_finish(tries), AccountAction::None)
            }
            Class::BadRequest | Class::Rejected | Class::DeadlinePassed | Class::Cancelled => {
                (JobVerdict::Finish, AccountAction::None)
            }
        }
    }

    fn other_target_or_finish(&self, tries: u32) -> JobVerdict {
        if tries < self.max_attempts {
            JobVerdict::TryOtherTarget { counted: true }
        } else {
            JobVerdict::Finish
        }
    }

    fn retry_or_finish(&self, tries: u32, most: u32, backoff: Duration) -> JobVerdict {
        if tries < most {
            JobVerdict::Retry {
                counted: true,
                backoff,
            }
        } else {
            JobVerdict::Finish
        }
    }
}

/// How the provider failed, if it was not the job, the key or a limit: where half of the calls fail, its
/// circuit breaks. An answer larger than is taken is the job's; it has no status here.
pub(crate) fn failure(outcome: &CallOutcome) -> Option<Class> {
    outcome
        .class
        .filter(|_| !outcome.was_not_made())
        .filter(|class| match class {
            Class::ServerError | Class::Overloaded | Class::NetBeforeSend | Class::NetAfterSend => {
                true
            }
            Class::MalformedResponse => outcome.status_code.is_some(),
            _ => false,
        })
}

/// Full jitter: anything between nothing and a bound that doubles.
fn backoff(exponent: u32, rng: &mut impl Rng) -> Duration {
    let bound = FIRST_BACKOFF
        .saturating_mul(1 << exponent.min(10))
        .min(LONGEST_BACKOFF);
    bound.mul_f64(rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn decide(
        class: Class,
        counted: u32,
        on_ambiguous: OnAmbiguous,
    ) -> (JobVerdict, AccountAction) {
        let outcome = CallOutcome {
            class: Some(class),
            response: None,
            code: String::new(),
            message: String::new(),
            usage: None,
            cost: None,
            retry_after: Some(Duration::from_secs(9)),
            scope: ErrorScope::Model,
            is_final: false,
            runs_on: None,
            status_code: None,
        };
        let mut rng = SmallRng::seed_from_u64(1);
        RetryPolicy { max_attempts: 3 }.decide(&outcome, counted, 1, on_ambiguous, &mut rng)
    }

    #[test]
    fn limits_accounts_and_keys_never_use_up_attempts() {
        for class in [
            Class::RateLimited,
            Class::RampLimited,
            Class::QuotaExhausted,
            Class::BillingStop,
            Class::BadKey,
            Class::NetBeforeSend,
        ] {
            let (verdict, effect) = decide(class, 1_000, OnAmbiguous::Retry);
            assert_eq!(
                verdict,
                JobVerdict::Retry {
                    counted: false,
                    backoff: Duration::ZERO
                },
                "{class}"
            );
            assert_ne!(effect, AccountAction::None, "{class}");
        }
    }

    #[test]
    fn faults_of_the_server_are_tried_so_often_and_no_more() {
        for class in [Class::ServerError, Class::Overloaded, Class::NetAfterSend] {
            let again = decide(class, 1, OnAmbiguous::Retry).0;
            assert!(
                matches!(again, JobVerdict::Retry { counted: true, .. }),
                "{class}"
            );
            assert_eq!(
                decide(class, 2, OnAmbiguous::Retry).0,
                JobVerdict::Finish,
                "{class}"
            );
        }
    }

    #[test]
    fn an_unknown_fate_follows_the_job() {
        for class in [
            Class::NetAfterSend,
            Class::ServerError,
            Class::MalformedResponse,
        ] {
            assert_eq!(
                decide(class, 0, OnAmbiguous::Fail).0,
                JobVerdict::Finish,
                "{class}"
            );
        }
    }

    #[test]
    fn what_the_request_itself_caused_ends_the_job() {
        assert_eq!(
            decide(Class::BadRequest, 0, OnAmbiguous::Retry),
            (JobVerdict::Finish, AccountAction::None)
        );
        for class in [Class::ContextTooLong, Class::ContentFiltered] {
            let elsewhere = (
                JobVerdict::TryOtherTarget { counted: true },
                AccountAction::None,
            );
            assert_eq!(decide(class, 0, OnAmbiguous::Retry), elsewhere, "{class}");
            assert_eq!(
                decide(class, 2, OnAmbiguous::Retry),
                (JobVerdict::Finish, AccountAction::None),
                "{class}"
            );
        }
    }

    /// What is done about each class, as a first outcome without a hint: the whole policy at a glance.
    #[test]
    fn each_class_has_its_action() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (class, verdict, effect) in [
            (Class::RateLimited, "again", "cools"),
            (Class::RampLimited, "again", "cools for 2s"),
            (Class::QuotaExhausted, "again", "cools for 1h"),
            (Class::ExceedsLimit, "elsewhere", "none"),
            (
                Class::BillingStop,
                "again",
                "the account is disabled until a restart",
            ),
            (
                Class::BadKey,
                "again",
                "the key is disabled until a restart",
            ),
            (Class::ModelNotAllowed, "elsewhere", "cools for 1h"),
            (Class::Overloaded, "again, counted", "cools for a while"),
            (Class::ServerError, "again, counted", "none"),
            (Class::NetBeforeSend, "again", "cools for a while"),
            (Class::NetAfterSend, "again, counted", "none"),
            (Class::ContextTooLong, "elsewhere, counted", "none"),
            (Class::ContentFiltered, "elsewhere, counted", "none"),
            (Class::BadRequest, "finish", "none"),
            (Class::MalformedResponse, "again, counted", "none"),
            (Class::Rejected, "finish", "none"),
            (Class::DeadlinePassed, "finish", "none"),
            (Class::Cancelled, "finish", "none"),
        ] {
            let outcome = CallOutcome::local(class, "code", String::new());
            let policy = RetryPolicy { max_attempts: 3 };
            let (said, done) = policy.decide(&outcome, 0, 1, OnAmbiguous::Retry, &mut rng);
            let said = match said {
                JobVerdict::Finish => "finish",
                JobVerdict::Retry { counted: false, .. } => "again",
                JobVerdict::Retry { counted: true, .. } => "again, counted",
                JobVerdict::TryOtherTarget { counted: false } => "elsewhere",
                JobVerdict::TryOtherTarget { counted: true } => "elsewhere, counted",
            };
            assert_eq!(said, verdict, "{class}");
            match effect {
                "cools for a while" => {
                    assert!(
                        matches!(done, AccountAction::CoolModel(_)),
                        "{class}: {done}"
                    )
                }
                _ => assert_eq!(done.to_string(), effect, "{class}"),
            }
        }
    }

    #[test]
    fn what_its_provider_calls_final_or_cannot_be_read_twice_is_left_to_others() {
        let mut rng = SmallRng::seed_from_u64(1);
        let elsewhere = (
            JobVerdict::TryOtherTarget { counted: true },
            AccountAction::None,
        );
        let policy = RetryPolicy { max_attempts: 5 };
        let failed = CallOutcome::local(Class::ServerError, "code", String::new());
        let last = CallOutcome {
            is_final: true,
            ..failed
        };
        assert_eq!(
            policy.decide(&last, 0, 0, OnAmbiguous::Retry, &mut rng),
            elsewhere
        );
        let malformed = CallOutcome::local(Class::MalformedResponse, "code", String::new());
        assert_eq!(
            policy.decide(&malformed, 1, 2, OnAmbiguous::Retry, &mut rng),
            elsewhere
        );
    }

    #[test]
    fn a_wait_is_told_as_people_say_it() {
        for (nanos, expected) in [
            (508_410_724_162_546, "cools for 5days 21h 13m 31s"),
            (2_000_000_000, "cools for 2s"),
            (50_400_000, "cools for 51ms"),
            (0, "cools for 0s"),
        ] {
            assert_eq!(
                AccountAction::CoolModel(Duration::from_nanos(nanos)).to_string(),
                expected
            );
        }
    }

    #[test]
    fn a_hint_is_a_floor() {
        let (_, effect) = decide(Class::RateLimited, 0, OnAmbiguous::Retry);
        assert_eq!(effect, AccountAction::Refused(Some(Duration::from_secs(9))));
        let AccountAction::CoolModel(wait) = decide(Class::Overloaded, 0, OnAmbiguous::Retry).1
        else {
            panic!("an overloaded provider is left alone")
        };
        assert!(wait >= Duration::from_secs(9));
    }
}
