//! What several processes of one prefix share: which of them works, and what is known of accounts.

pub mod account_state;
pub mod worker_lease;
