//! Which job is called next, and where: the only loop, the fair queue, the selection of targets, and the jobs that wait for
//! another job's call or answer.

pub(crate) mod dispatcher;

pub(crate) mod fair_queue;
pub(crate) mod select;

pub(crate) mod call_fill;
pub(crate) mod coalescer;
pub(crate) mod merger;
