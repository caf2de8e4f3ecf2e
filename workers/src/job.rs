//! A job on its way, and what holds it: its delivery, its identity, its targets, and those it shares a call with.

pub(crate) mod admitted_job;

pub(crate) mod delivery;
pub(crate) mod unacked;

pub(crate) mod in_flight;

pub(crate) mod candidates;

pub(crate) mod merge_key;
pub(crate) mod merge_size;

pub(crate) mod share;

pub(crate) mod inbox;
