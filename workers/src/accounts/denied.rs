//! The reason why a call may not be made now.

use forebay_schemas::Class;
use tokio::time::Instant;

use super::meter::MeterWait;

/// The reason for which no call may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The call may be made at this time, if no other call takes the room first.
    Until(Instant),
    /// The call may be made after something is released: a call is sent or ends, or spending is written down.
    UntilRelease,
    /// The call can never be made: it alone is larger than a limit.
    TooLarge,
    /// The account may not use the model: the provider said so a short while ago.
    NotAllowed,
    /// The call may not be made until an operator acts. `None` if an operator disabled the account.
    Disabled(Option<Class>),
}

impl From<MeterWait> for Denied {
    fn from(wait: MeterWait) -> Self {
        match wait {
            MeterWait::Until(at) => Denied::Until(at),
            MeterWait::UntilRelease => Denied::UntilRelease,
            MeterWait::TooLarge => Denied::TooLarge,
        }
    }
}

impl Denied {
    /// Returns true if a job waits for the end of the denial. A call that is too large waits in vain, and one to a model that
    /// is not allowed may do so.
    pub(crate) fn is_temporary(self) -> bool {
        !matches!(self, Denied::TooLarge | Denied::NotAllowed)
    }
}
