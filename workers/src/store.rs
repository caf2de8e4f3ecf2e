//! The stores on disk: results, and the journal of calls.

pub mod results;

pub mod journal;
