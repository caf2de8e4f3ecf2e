//! Budgets and boundaries: what keeps the code base easy to walk through, as tests.

mod budgets;
mod chains;
mod circles;
mod documents;
mod names;
mod prose;
mod rooms;
mod sources;
