//! A job between delivery and completion: its delivery, its identity, its candidates, and the jobs it shares a call or an
//! answer with.

pub(crate) mod admitted_job;

pub(crate) mod delivery;
pub(crate) mod unacked;

pub(crate) mod in_flight;

pub(crate) mod candidates;

pub(crate) mod merge_key;
pub(crate) mod merge_size;

pub(crate) mod share;

pub(crate) mod inbox;
