//! How many texts a merged call has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_providers::registry::MergeLimits;
use parking_lot::Mutex;

/// The largest answer of a merged call, in bytes: the memory holds a few of them.
const MAX_MERGED_ANSWER: usize = 32 << 20;
/// The assumed size of one embedding until the first answer is seen, in bytes (about 2,000 numbers).
const ASSUMED_EMBEDDING: usize = 24 << 10;

/// A call from which the number of texts of later calls is learned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SizedCall {
    /// Texts of all jobs.
    pub(crate) texts: usize,
    /// True if they are a part of a call that was split.
    pub(crate) is_part: bool,
    pub(crate) outcome: SizedOutcome,
}

/// The outcome of such a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SizedOutcome {
    /// It was answered.
    Answered { bytes: usize },
    /// It failed, perhaps because of one text of several.
    MustSplit,
    /// It failed, and no text caused that.
    Failed,
}

/// The learned number of texts of a call, by target: halved by a split call, doubled by an answered one.
#[derive(Debug, Default)]
pub(crate) struct MergeSizes {
    parts: AtomicU64,
    by_target: Mutex<HashMap<usize, MergeSize>>,
}

#[derive(Debug, Clone, Copy)]
struct MergeSize {
    /// Texts of the next call that is no part of a split one.
    most: usize,
    /// The largest seen size of one embedding, in bytes.
    embedding: Option<usize>,
}

impl MergeSizes {
    /// A new number for a part of a split call.
    pub(crate) fn next_part(&self) -> u64 {
        self.parts.fetch_add(1, Ordering::Relaxed)
    }

    fn change(&self, target: usize, act: impl FnOnce(&mut MergeSize)) -> MergeSize {
        let mut sizes = self.by_target.lock();
        let size = sizes.entry(target).or_insert(MergeSize {
            most: usize::MAX,
            embedding: None,
        });
        act(size);
        *size
    }

    /// Texts that a call to `target` may have.
    pub(crate) fn most(&self, target: usize, limits: MergeLimits) -> usize {
        let MergeSize { most, embedding } = self.change(target, |_| {});
        most.min(limits.inputs)
            .min(MAX_MERGED_ANSWER / embedding.unwrap_or(ASSUMED_EMBEDDING))
            .max(1)
    }

    /// Learns from a call to `target`.
    pub(crate) fn learn(&self, target: usize, call: &SizedCall) {
        let learn = |size: &mut MergeSize| {
            if let SizedOutcome::Answered { bytes } = call.outcome {
                size.embedding = size.embedding.max(Some((bytes / call.texts.max(1)).max(1)));
            }
            // If bad texts are spread at random, the fewest calls are made in all when half of the merged calls are split.
            match call.outcome {
                _ if call.is_part => {}
                SizedOutcome::Answered { .. } => {
                    size.most = size.most.max(call.texts.saturating_mul(2));
                }
                SizedOutcome::MustSplit => size.most = (call.texts / 2).max(1),
                SizedOutcome::Failed => {}
            }
        };
        self.change(target, learn);
    }
}
