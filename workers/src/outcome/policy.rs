//! The retry policy: what an outcome means for the job and for the account, in one place.

use std::time::Duration;

use forebay_schemas::{Class, OnAmbiguous};
use rand::Rng;

use crate::accounts::RefusalJudgement;
use crate::outcome::outcome::CallOutcome;
use crate::outcome::patience::Patience;
use forebay_providers::ErrorScope;

/// The upper bound of the first back-off. Each further one doubles it.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest back-off of a job.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Half of the shortest cooldown after a provider refused a too steep rise in use.
const SHORTEST_RAMP: Duration = Duration::from_secs(1);
/// The shortest cooldown after a limit refused, whatever the provider's hint: a hint of zero would make a hot loop.
const SHORTEST_LIMIT: Duration = Duration::from_millis(50);
/// The cooldown after an allowance of a day or a month is spent, if the provider gives no hint.
const EXHAUSTION_WITHOUT_HINT: Duration = Duration::from_secs(60 * 60);
/// Its shortest cooldown: an allowance of a day is not back within the seconds that some providers give as a hint.
const SHORTEST_EXHAUSTION: Duration = Duration::from_secs(60);
/// The cooldown of a model that the account may not use. Jobs that can go nowhere else fail meanwhile.
const NOT_ALLOWED: Duration = Duration::from_secs(60);
/// Calls to one target for a job whose answers cannot be read.
const MAX_MALFORMED: u32 = 2;

/// The decision about the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobVerdict {
    /// It ends, by success or failure.
    Finish,
    /// It waits for its next permit.
    Retry {
        /// True if the attempt counts against the maximum.
        counted: bool,
        /// How long the job backs off from the target.
        backoff: Duration,
    },
    /// It waits for a permit of another target, if it has one: this one cannot serve it.
    TryOtherTarget {
        /// True if the attempt counts against the maximum.
        counted: bool,
    },
}

impl JobVerdict {
    /// Returns true if the attempt counts against the maximum.
    pub(crate) fn counts(self) -> bool {
        match self {
            JobVerdict::Finish => false,
            JobVerdict::Retry { counted, .. } | JobVerdict::TryOtherTarget { counted } => counted,
        }
    }
}

const TRY_OTHER_TARGET: JobVerdict = JobVerdict::TryOtherTarget { counted: false };

/// The decision about the account that was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountAction {
    /// Nothing.
    None,
    /// A limit refused the call. The key cools if the refusal is about the key, else the model at the account. Without a
    /// wait, it cools longer each time.
    Refused(Option<Duration>),
    /// The model at the account cools.
    CoolModel(Duration),
    /// The key is disabled until an operator enables it.
    DisableKey,
    /// The account is disabled until an operator enables it.
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

/// A wait for people, rounded up: to whole seconds, or to milliseconds if it is less than one.
fn rounded(wait: Duration) -> Duration {
    let unit = if wait < Duration::from_secs(1) {
        1_000_000
    } else {
        1_000_000_000
    };
    let units = wait.as_nanos().div_ceil(unit);
    Duration::from_nanos(u64::try_from(units * unit).unwrap_or(u64::MAX))
}

/// How often a job is called.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The most attempts that count: those that a provider may have served and failed. A refusal by a limit, a spent
    /// allowance, a bad key or a missing connection never counts.
    pub max_attempts: u32,
    /// How long a job of a pool that does not say so outlasts an outage.
    pub patience: Patience,
}

/// A job's calls until now, and what it asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobHistory {
    /// Attempts that counted before this one.
    pub(crate) counted: u32,
    /// Earlier calls to this target that failed.
    pub(crate) failures_here: u32,
    /// Answers of this target that could not be read in no outage, this one included.
    pub(crate) malformed_here: u32,
    /// The job's choice where the provider may have done its work.
    pub(crate) on_ambiguous: OnAmbiguous,
    /// The time for which it has been in the outage that failed this call; `None` if that is no outage.
    pub(crate) in_outage: Option<Duration>,
    /// How long it outlasts an outage.
    pub(crate) patience: Duration,
}

impl JobHistory {
    /// Returns true if the provider or the network has failed for longer than the job outlasts.
    pub(crate) fn is_out_of_patience(&self) -> bool {
        self.in_outage.is_some_and(|lasted| lasted >= self.patience)
    }
}

impl RetryPolicy {
    /// Decides about an outcome.
    pub(crate) fn decide(
        &self,
        outcome: &CallOutcome,
        job: &JobHistory,
        rng: &mut impl Rng,
    ) -> (JobVerdict, AccountAction) {
        let Some(class) = outcome.class else {
            return (JobVerdict::Finish, AccountAction::None);
        };
        let waits = JobVerdict::Retry {
            counted: false,
            backoff: Duration::ZERO,
        };
        match outcome.refusal {
            Some(RefusalJudgement::OfAccount(wait)) => {
                return (waits, AccountAction::CoolModel(wait));
            }
            Some(RefusalJudgement::Unknown) => {
                let verdict = JobVerdict::Retry {
                    counted: false,
                    backoff: FIRST_BACKOFF,
                };
                return (verdict, AccountAction::None);
            }
            Some(RefusalJudgement::OfJob) | None => {}
        }
        let is_final = outcome.is_final && matches!(class, Class::ServerError | Class::Overloaded);
        if is_final && job.on_ambiguous == OnAmbiguous::Retry {
            return (self.other_target_or_finish(job), AccountAction::None);
        }
        let jittered = |rng: &mut _| backoff(job.counted.max(job.failures_here), rng);
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
                    .unwrap_or(EXHAUSTION_WITHOUT_HINT)
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
                let backoff = jittered(rng);
                let wait = outcome.retry_after.unwrap_or(backoff).max(backoff);
                (
                    self.retry_or_finish(job, wait),
                    AccountAction::CoolModel(wait),
                )
            }
            // The provider may have done its work, and charged for it.
            Class::NetAfterSend | Class::ServerError | Class::MalformedResponse
                if job.on_ambiguous == OnAmbiguous::Fail =>
            {
                (JobVerdict::Finish, AccountAction::None)
            }
            Class::NetBeforeSend if outcome.was_not_made() => (waits, AccountAction::None),
            Class::NetBeforeSend => {
                let wait = backoff(2, rng).max(FIRST_BACKOFF / 4);
                let verdict = match job.is_out_of_patience() {
                    true => TRY_OTHER_TARGET,
                    false => waits,
                };
                (verdict, AccountAction::CoolModel(wait))
            }
            Class::MalformedResponse if outcome.is_too_large() => {
                (JobVerdict::Finish, AccountAction::None)
            }
            Class::MalformedResponse
                if job.in_outage.is_none() && job.malformed_here >= MAX_MALFORMED =>
            {
                (self.other_target_or_finish(job), AccountAction::None)
            }
            Class::ServerError | Class::NetAfterSend | Class::MalformedResponse => (
                self.retry_or_finish(job, jittered(rng)),
                AccountAction::None,
            ),
            // A larger context window may take it or, if the pool allows that, a laxer provider.
            Class::ContextTooLong | Class::ContentFiltered => {
                (self.other_target_or_finish(job), AccountAction::None)
            }
            Class::BadRequest | Class::Rejected | Class::DeadlinePassed | Class::Cancelled => {
                (JobVerdict::Finish, AccountAction::None)
            }
        }
    }

    fn other_target_or_finish(&self, job: &JobHistory) -> JobVerdict {
        if job.counted + 1 < self.max_attempts {
            JobVerdict::TryOtherTarget { counted: true }
        } else {
            JobVerdict::Finish
        }
    }

    /// Retries after a failure of the provider. In an outage that counts against the job's patience, not its attempts.
    fn retry_or_finish(&self, job: &JobHistory, backoff: Duration) -> JobVerdict {
        let is_outage = job.in_outage.is_some();
        if is_outage && job.is_out_of_patience() {
            TRY_OTHER_TARGET
        } else if is_outage || job.counted + 1 < self.max_attempts {
            JobVerdict::Retry {
                counted: !is_outage,
                backoff,
            }
        } else {
            JobVerdict::Finish
        }
    }
}

/// Returns the class of a failure that counts for the circuit breaker: one of the provider, not of the job, the key or a
/// limit. An answer that is too large is the job's failure; it has no status code here.
pub(crate) fn breaker_failure(outcome: &CallOutcome) -> Option<Class> {
    let class = outcome.class.filter(|_| !outcome.was_not_made())?;
    let is_too_large = class == Class::MalformedResponse && outcome.status_code.is_none();
    (class.is_of_provider() && !is_too_large).then_some(class)
}

/// A back-off with full jitter: between zero and a bound that doubles.
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

    const FIRST_CALL: JobHistory = JobHistory {
        counted: 0,
        failures_here: 0,
        malformed_here: 1,
        on_ambiguous: OnAmbiguous::Retry,
        in_outage: None,
        patience: Duration::from_secs(600),
    };

    fn of_attempts(max_attempts: u32) -> RetryPolicy {
        RetryPolicy {
            max_attempts,
            patience: Patience::default(),
        }
    }

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
            refusal: None,
            is_unexplained: false,
            cause: None,
            runs_on: None,
            status_code: None,
        };
        let mut rng = SmallRng::seed_from_u64(1);
        let job = JobHistory {
            counted,
            on_ambiguous,
            ..FIRST_CALL
        };
        of_attempts(3).decide(&outcome, &job, &mut rng)
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
    fn failures_of_the_server_are_tried_up_to_the_maximum() {
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
    fn an_unknown_outcome_follows_the_jobs_on_ambiguous() {
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

    /// The decision about each class, as a first outcome without a hint: the whole policy at a glance.
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
            (Class::ModelNotAllowed, "elsewhere", "cools for 1m"),
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
            let (said, done) = of_attempts(3).decide(&outcome, &FIRST_CALL, &mut rng);
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
        let policy = of_attempts(5);
        let failed = CallOutcome::local(Class::ServerError, "code", String::new());
        let last = CallOutcome {
            is_final: true,
            ..failed
        };
        assert_eq!(policy.decide(&last, &FIRST_CALL, &mut rng), elsewhere);
        let second = JobHistory {
            counted: 1,
            malformed_here: 2,
            ..FIRST_CALL
        };
        let malformed = CallOutcome::local(Class::MalformedResponse, "code", String::new());
        assert_eq!(policy.decide(&malformed, &second, &mut rng), elsewhere);
    }

    #[test]
    fn an_outage_uses_up_patience_and_no_attempts() {
        let mut rng = SmallRng::seed_from_u64(1);
        for class in [
            Class::ServerError,
            Class::Overloaded,
            Class::NetBeforeSend,
            Class::NetAfterSend,
            Class::MalformedResponse,
        ] {
            let outcome = CallOutcome::local(class, "code", String::new());
            let mut decide = |seconds, on_ambiguous| {
                let job = JobHistory {
                    counted: 2,
                    malformed_here: 9,
                    on_ambiguous,
                    in_outage: Some(Duration::from_secs(seconds)),
                    ..FIRST_CALL
                };
                of_attempts(3).decide(&outcome, &job, &mut rng).0
            };
            let waits = decide(599, OnAmbiguous::Retry);
            let is_patient = matches!(waits, JobVerdict::Retry { counted: false, .. });
            assert!(is_patient, "{class}: {waits:?}");
            let ended = decide(600, OnAmbiguous::Retry);
            assert_eq!(ended, TRY_OTHER_TARGET, "{class}");
            if !matches!(class, Class::Overloaded | Class::NetBeforeSend) {
                assert_eq!(
                    decide(1, OnAmbiguous::Fail),
                    JobVerdict::Finish,
                    "{class}: a call that may be paid is not repeated"
                );
            }
        }
    }

    #[test]
    fn a_wait_is_shown_in_units_for_people() {
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
