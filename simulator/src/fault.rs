//! Injected faults, and how often each occurs.

use std::str::FromStr;

use serde::Serialize;

use super::failure;

/// A fault that is injected into one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InjectedFault {
    /// The vendor's failure `server_error`, a 500.
    Error,
    /// The vendor's failure `overloaded`: a 503 at most vendors.
    Overloaded,
    /// A connection that ends after the headers.
    Reset,
    /// A connection that ends in the middle of the answer.
    Truncated,
    /// An answer with its own status and headers, whose body is HTML instead of JSON.
    Malformed,
    /// A call without any answer.
    Hang,
    /// An answer whose body never ends.
    Endless,
    /// The failure of this name in the table of the account's vendor.
    #[serde(untagged)]
    Case(&'static str),
}

/// The share of calls of each fault, from 0 to 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FaultPlan(Vec<(InjectedFault, f64)>);

impl FaultPlan {
    /// Returns the fault that a random number between 0 and 1 selects, if it selects one.
    pub(super) fn choose(&self, number: f64) -> Option<InjectedFault> {
        let mut sum = 0.0;
        self.0.iter().find_map(|(fault, share)| {
            sum += share;
            (number < sum).then_some(*fault)
        })
    }
}

impl FromStr for FaultPlan {
    type Err = String;

    /// Parses `error=0.01,reset=0.001,billing_stop=0.001`.
    fn from_str(text: &str) -> Result<Self, String> {
        let faults: Result<_, _> = text.split(',').map(read).collect();
        faults.map(Self)
    }
}

/// Parses one `FAULT=SHARE`.
fn read(part: &str) -> Result<(InjectedFault, f64), String> {
    let (name, share) = part
        .split_once('=')
        .ok_or_else(|| format!("`{part}` is no FAULT=SHARE"))?;
    let fault = named(name)?;
    let share = share.parse().ok();
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    match share {
        Some(share) => Ok((fault, share)),
        None => Err(format!("`{part}`: a share is a number from 0 to 1")),
    }
}

fn named(name: &str) -> Result<InjectedFault, String> {
    match name {
        "error" => Ok(InjectedFault::Error),
        "overloaded" => Ok(InjectedFault::Overloaded),
        "reset" => Ok(InjectedFault::Reset),
        "truncated" => Ok(InjectedFault::Truncated),
        "malformed" => Ok(InjectedFault::Malformed),
        "hang" => Ok(InjectedFault::Hang),
        "endless" => Ok(InjectedFault::Endless),
        "exceeds_key_limit" => Err(format!("`{name}` is now `exceeds_limit`")),
        _ => match failure::case(name) {
            Some(case) => Ok(InjectedFault::Case(case)),
            None => Err(format!(
                "`{name}` is not one of error, overloaded, reset, truncated, malformed, hang, endless, nor \
                 a failure of a provider"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let faults: FaultPlan = "error=0.1,reset=0.2".parse().expect("faults");
        assert_eq!(faults.choose(0.05), Some(InjectedFault::Error));
        assert_eq!(faults.choose(0.15), Some(InjectedFault::Reset));
        assert_eq!(faults.choose(0.35), None);
        let case: FaultPlan = "billing_stop=0.5".parse().expect("a failure's name");
        assert_eq!(case.choose(0.1), Some(InjectedFault::Case("billing_stop")));
        assert_eq!(
            serde_json::to_string(&InjectedFault::Case("billing_stop")).expect("JSON"),
            "\"billing_stop\""
        );
        assert_eq!(
            serde_json::to_string(&InjectedFault::Error).expect("JSON"),
            "\"error\""
        );
        assert!("error=2".parse::<FaultPlan>().is_err());
        assert!("storm=0.1".parse::<FaultPlan>().is_err());
    }
}
