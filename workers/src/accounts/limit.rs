//! What an account allows, as configured, and what a call takes of it.

use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;

use forebay_providers::cost::LimitDimension;

/// How the provider counts a period, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Evenly spaced, which every algorithm permits. The default for periods up to a minute.
    Smooth,
    /// Counted over the trailing period and spent as calls come. The default for longer periods.
    Counted,
    /// The same, until answers tell when the provider's fixed window ends.
    Fixed,
    /// A bucket of the limit's size that refills evenly.
    Bucket,
}

/// One limit of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// What is limited.
    pub amount: Amount,
    /// The models that share this limit; `None` means that each model has its own.
    pub models: Option<Vec<String>>,
}

/// What is limited, and to how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amount {
    /// So much per period.
    PerPeriod {
        /// What is counted.
        dimension: LimitDimension,
        /// How many, at least one.
        limit: u64,
        /// Per how long.
        per: Duration,
        /// How the provider counts.
        algorithm: Algorithm,
        /// Where the period is a calendar day, whose.
        day_in: Option<TimeZone>,
    },
    /// So many calls at once.
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
    /// Whether this limit bears on `model`.
    pub fn covers(&self, model: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.iter().any(|name| name == model))
    }

    /// What is counted over which period, and for whom, however many that are: what is spent of it stays
    /// spent when the configuration says another number.
    pub(super) fn key(&self) -> String {
        let shared = self
            .models
            .iter()
            .flatten()
            .fold(String::new(), |names, name| format!("{names} {name}"));
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

    /// Whether this limit counts tokens.
    pub fn counts_tokens(&self) -> bool {
        match self.amount {
            Amount::PerPeriod { dimension, .. } => dimension != LimitDimension::Requests,
            Amount::Concurrent(_) => false,
        }
    }

    /// Whether this limit is on calls at once.
    pub fn is_on_calls_at_once(&self) -> bool {
        matches!(self.amount, Amount::Concurrent(_))
    }

    /// Whether this limit is for a period up to a minute.
    pub fn is_short(&self) -> bool {
        self.amount.is_short()
    }

    /// Calls a second that this limit allows in the long run; `None` if it does not speak of calls.
    pub fn requests_per_second(&self) -> Option<f64> {
        self.amount.requests_per_second()
    }
}

impl Amount {
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
