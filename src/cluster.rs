//! The state that processes of one prefix share: the lease of the worker and the state of accounts.

pub mod account_state;
mod lease_claim;
mod lease_holder;
pub mod lease_renewal;
pub mod state_copies;
pub mod worker_lease;
