//! The part of a long limit that is written down as spent. It may be spent even if the process is killed.

use std::sync::Arc;

use tokio::sync::Notify;

/// The amounts of a limit that are spent and that are written down as spent.
#[derive(Debug)]
pub(super) struct WriteAhead {
    /// The amount that is spent since the process began.
    spent: u64,
    /// The amount that is written down. Nothing is spent beyond it.
    written: u64,
    /// The amount that is written down once the last offer is confirmed.
    offered: u64,
    /// The amount that a call needs which has to wait, or will soon; 0 if there is none.
    wanted: u64,
    /// Notified when something is wanted.
    requests: Arc<Notify>,
}

impl WriteAhead {
    pub(super) fn new(requests: Arc<Notify>) -> Self {
        Self {
            spent: 0,
            written: 0,
            offered: 0,
            wanted: 0,
            requests,
        }
    }

    /// Notes that the last offer is written down.
    pub(super) fn confirm(&mut self) {
        self.written = u64::max(self.written, self.offered);
        self.wanted = 0;
    }

    /// Returns true if `share` more may be spent. If not, it is wanted.
    pub(super) fn admits(&mut self, share: u64) -> bool {
        let admits = self.spent + share <= self.written;
        if !admits {
            self.want(share);
        }
        admits
    }

    /// Notes that `share` more is spent. Once no more than half a `block` is left, the next one is wanted, before it is
    /// needed.
    pub(super) fn spend(&mut self, share: u64, block: u64) {
        self.spent += share;
        if self.written.saturating_sub(self.spent) <= block / 2 {
            self.want(1);
        }
    }

    fn want(&mut self, share: u64) {
        if self.wanted == 0 {
            self.requests.notify_one();
        }
        self.wanted = self.wanted.max(share);
    }

    /// Returns the amount to write down beyond what is spent. With `ahead` that is at least a `block` if something is
    /// wanted, and else the unspent rest of what is written down. Without `ahead` it is 0.
    pub(super) fn offer(&mut self, ahead: bool, block: u64) -> u64 {
        let more = match ahead {
            false => 0,
            true if self.wanted > 0 => block.max(self.wanted),
            true => self.written.saturating_sub(self.spent),
        };
        self.offered = self.spent + more;
        more
    }
}
