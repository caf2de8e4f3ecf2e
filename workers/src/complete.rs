//! From an end to an acked delivery: stored, published, buried if it failed, copied, acked.

#[expect(
    clippy::module_inception,
    reason = "the step that the folder is named after"
)]
pub(crate) mod complete;

pub(crate) mod persist;

pub(crate) mod publish;

pub(crate) mod dead_letter;
pub(crate) mod release;

pub(crate) mod postpone;
