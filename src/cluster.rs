//! The state that processes of one prefix share: the lease of the worker and the state of accounts.

pub mod account_state;
pub mod worker_lease;
