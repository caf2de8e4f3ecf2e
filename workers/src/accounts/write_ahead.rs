//! What of a long limit is written down, and so may be spent whatever becomes of the process.

/// How far spending is covered by what is written down.
#[derive(Debug, Default)]
pub(super) struct WriteAhead {
    /// Spent since the process began.
    spent: u64,
    /// Written down; nothing is spent beyond.
    written: u64,
    /// What the last writing down covers once it is confirmed.
    offered: u64,
    /// What a call needs that had to wait, or will soon.
    wanted: u64,
}

impl WriteAhead {
    /// What was offered last is written down.
    pub(super) fn confirm(&mut self) {
        self.written = self.written.max(self.offered);
        self.wanted = 0;
    }

    /// Whether so much more may be spent; if not, it is wanted.
    pub(super) fn admits(&mut self, share: u64) -> bool {
        let admits = self.spent + share <= self.written;
        if !admits {
            self.wanted = self.wanted.max(share);
        }
        admits
    }

    /// So much more is spent; what covers it is written down, a `block` at a time, before it is needed.
    pub(super) fn spend(&mut self, share: u64, block: u64) {
        self.spent += share;
        if self.written.saturating_sub(self.spent) <= block / 2 {
            self.wanted = self.wanted.max(1);
        }
    }

    /// What is to be written down beyond what is spent, if anything: what a call waits for, or else what is
    /// left of what was written before.
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
