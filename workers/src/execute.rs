//! One permitted call, from its request to what is done about its outcome.

#[expect(
    clippy::module_inception,
    reason = "the step that the folder is named after"
)]
pub(crate) mod execute;

pub(crate) mod attempt;
pub(crate) mod merged_answer;
pub(crate) mod merged_call;
