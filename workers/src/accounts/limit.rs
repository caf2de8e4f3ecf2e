//! The limits of an account, as configured.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use forebay_providers::cost::LimitDimension;

/// Limits over longer periods do not count as spent at a start: that would cost a day where little was spent. They are
/// persisted instead.
pub(super) const LONGEST_SPENT_AT_START: Duration = Duration::from_secs(60);

/// The way in which a provider counts a period, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Calls are evenly spaced, which every algorithm permits. The default for periods up to a minute.
    Smooth,
    /// Calls are counted over the trailing period, and spent as they come. The default for longer periods.
    Counted,
    /// As [`Algorithm::Counted`], until answers state when the provider's fixed window ends.
    Fixed,
    /// A bucket of the limit's size that refills evenly.
    Bucket,
}

/// One limit of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The quantity that is limited.
    pub amount: Amount,
    /// The models that share this limit; `None` means that each model has its own.
    pub models: Option<Vec<String>>,
}

/// The quantity that is limited, and its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amount {
    /// A number of calls or tokens per period.
    PerPeriod {
        /// The dimension that is counted.
        dimension: LimitDimension,
        /// The number per period, at least one.
        limit: u64,
        /// The length of the period.
        per: Duration,
        /// The way in which the provider counts.
        algorithm: Algorithm,
        /// The time zone, if the period is a calendar day.
        day_in: Option<TimeZone>,
    },
    /// A number of calls at once.
    Concurrent(u64),
}

impl Amount {
    /// Returns true if the other amount differs from this one in the number alone.
    pub(super) fn counts_like(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Amount::PerPeriod {
                    dimension,
                    limit: _,
                    per,
                    algorithm,
                    day_in: _,
                },
                Amount::PerPeriod {
                    dimension: other_dimension,
                    limit: _,
                    per: other_per,
                    algorithm: other_algorithm,
                    day_in: _,
                },
            ) => (dimension, per, algorithm) == (other_dimension, other_per, other_algorithm),
            _ => false,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::PerPeriod {
                dimension,
                limit,
                day_in: Some(zone),
                ..
            } => {
                let zone = zone.iana_name().unwrap_or("UTC");
                write!(f, "{limit} {dimension} per day in {zone}")
            }
            Amount::PerPeriod {
                dimension,
                limit,
                per,
                ..
            } => write!(f, "{limit} {dimension} per {per:?}"),
            Amount::Concurrent(limit) => write!(f, "{limit} calls at once"),
        }
    }
}

impl Limit {
    /// Returns true if this limit covers `model`.
    pub fn covers(&self, model: &str) -> bool {
        let models = self.models.as_ref();
        models.is_none_or(|models| models.iter().any(|name| name == model))
    }

    /// Returns true if several models share this limit.
    pub(super) fn is_shared(&self) -> bool {
        self.models.is_some()
    }

    /// Returns a name of the limit by its dimension, its period and its models, but not by its number. The spent part
    /// of a limit thus stays spent when the configuration changes the number.
    pub(super) fn key(&self) -> String {
        let models = self.models.iter().flatten();
        let shared = models.fold(String::new(), |names, name| format!("{names} {name}"));
        match &self.amount {
            Amount::PerPeriod {
                dimension,
                day_in: Some(_),
                ..
            } => format!("{dimension} per day{shared}"),
            Amount::PerPeriod { dimension, per, .. } => format!("{dimension} per {per:?}{shared}"),
            Amount::Concurrent(_) => format!("at once{shared}"),
        }
    }

    /// Returns this limit as spent for a whole period from `now` on, under its key; `None` if its spent parts are not saved.
    pub(super) fn wholly_spent(&self, now: Timestamp) -> Option<(String, Vec<(Timestamp, u64)>)> {
        let Amount::PerPeriod { limit, per, .. } = self.amount else {
            return None;
        };
        if per <= LONGEST_SPENT_AT_START {
            return None;
        }
        let returns_at = now.checked_add(per).unwrap_or(Timestamp::MAX);
        Some((self.key(), vec![(returns_at, limit)]))
    }

    /// Returns the period of this limit; `None` if it is on calls at once.
    pub(super) fn period(&self) -> Option<Duration> {
        self.amount.period()
    }

    /// Returns true if this limit counts tokens.
    pub fn counts_tokens(&self) -> bool {
        match self.amount {
            Amount::PerPeriod { dimension, .. } => dimension != LimitDimension::Requests,
            Amount::Concurrent(_) => false,
        }
    }

    /// Returns true if this limit is on calls at once.
    pub fn is_on_calls_at_once(&self) -> bool {
        matches!(self.amount, Amount::Concurrent(_))
    }

    /// Returns true if this limit is for a period of up to a minute.
    pub fn is_short(&self) -> bool {
        self.amount.is_short()
    }

    /// Returns the calls per second that this limit allows in the long run; `None` if it does not count calls.
    pub fn requests_per_second(&self) -> Option<f64> {
        self.amount.requests_per_second()
    }
}

impl Amount {
    /// Returns the period; `None` if it is a number of calls at once.
    pub(super) fn period(&self) -> Option<Duration> {
        match self {
            Amount::PerPeriod { per, .. } => Some(*per),
            Amount::Concurrent(_) => None,
        }
    }

    pub(super) fn is_short(&self) -> bool {
        matches!(self, Amount::PerPeriod { per, .. } if *per <= Duration::from_secs(60))
    }

    pub(super) fn requests_per_second(&self) -> Option<f64> {
        match *self {
            Amount::PerPeriod {
                dimension: LimitDimension::Requests,
                limit,
                per,
                ..
            } => {
                #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
                let limit = limit as f64;
                Some(limit / per.as_secs_f64())
            }
            _ => None,
        }
    }
}
