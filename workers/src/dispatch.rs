//! Which job is called next, and where: the only loop, the fair queue, and who waits for whom.

pub(crate) mod dispatcher;

pub(crate) mod fair_queue;
pub(crate) mod select;

pub(crate) mod call_fill;
pub(crate) mod coalescer;
pub(crate) mod merger;
