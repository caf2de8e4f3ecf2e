//! Whole runs in memory, under a paused clock, from seeds.
//!
//! Each schedule draws arrivals, latencies, limits and faults from its seed and runs the real engine
//! on the in-memory queue and provider. What is asserted of every run is in `invariants`; a schedule
//! that fails is kept as a test of its own. Of NATS's own failures only those of
//! publishes are simulated; the disk is real. Not a failure: a call that is made again because its fate was unknown.

mod fallback;
mod invariants;
mod outages;
mod patience;
mod poison;
mod schedule;
mod schedules;
mod shares;
mod waits;
