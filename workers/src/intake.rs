//! From a delivery to a job that can be called, or to its end: fetched, read, looked up, routed.

pub(crate) mod consumer;

pub(crate) mod admit;

pub(crate) mod payload;
pub(crate) mod read;

pub(crate) mod lookup;

pub(crate) mod candidates;
pub(crate) mod route;
