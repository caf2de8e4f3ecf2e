//! How many texts travel together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_providers::registry::MergeLimits;
use parking_lot::Mutex;

/// An answer of so many bytes is not asked for: there is place for a few of them.
const LARGEST_ANSWER: usize = 32 << 20;
/// What is taken of it by a text as long as no answer has told: some 2,000 numbers.
const LIKELY_WIDTH: usize = 24 << 10;

/// A call for the texts of some jobs, as far as their number should change by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SizedCall {
    /// Texts of all jobs.
    pub(crate) texts: usize,
    /// Whether they are a part of a request that was refused.
    pub(crate) is_part: bool,
    pub(crate) outcome: SizedOutcome,
}

/// What became of a call for the texts of some jobs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SizedOutcome {
    /// It was answered by so many bytes.
    Answered { bytes: usize },
    /// It was refused, perhaps for one text of several.
    MustSplit,
    /// It failed for what is no text's fault.
    Failed,
}

/// How many texts travel together at each target: fewer where some are refused, more where none is.
#[derive(Debug, Default)]
pub(crate) struct MergeSizes {
    parts: AtomicU64,
    of: Mutex<HashMap<usize, MergeSize>>,
}

#[derive(Debug, Clone, Copy)]
struct MergeSize {
    /// Texts of the next request that is none of a refused one's parts.
    most: usize,
    /// Bytes of an answer for each text, once one has told.
    width: Option<usize>,
}

impl MergeSizes {
    /// The number of one more part of a request that was refused.
    pub(crate) fn next_part(&self) -> u64 {
        self.parts.fetch_add(1, Ordering::Relaxed)
    }

    fn change(&self, target: usize, act: impl FnOnce(&mut MergeSize)) -> MergeSize {
        let mut of = self.of.lock();
        let size = of.entry(target).or_insert(MergeSize {
            most: usize::MAX,
            width: None,
        });
        act(size);
        *size
    }

    /// Texts that may travel together to `target`.
    pub(crate) fn most(&self, target: usize, joins: MergeLimits) -> usize {
        let MergeSize { most, width } = self.change(target, |_| {});
        most.min(joins.inputs)
            .min(LARGEST_ANSWER / width.unwrap_or(LIKELY_WIDTH))
            .max(1)
    }

    /// Learns from a call to `target`.
    pub(crate) fn learn(&self, target: usize, call: &SizedCall) {
        self.change(target, |size| {
            if let SizedOutcome::Answered { bytes } = call.outcome {
                size.width = size.width.max(Some((bytes / call.texts.max(1)).max(1)));
            }
            // With bad texts at random, where half of the requests are refused the fewest calls are made in all.
            match call.outcome {
                _ if call.is_part => {}
                SizedOutcome::Answered { .. } => {
                    size.most = size.most.max(call.texts.saturating_mul(2));
                }
                SizedOutcome::MustSplit => size.most = (call.texts / 2).max(1),
                SizedOutcome::Failed => {}
            }
        });
    }
}
