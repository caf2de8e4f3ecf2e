//! A delivery that is held, its place in a stage, and who wants to know what comes of it.

use tokio::sync::mpsc;

use crate::held::Hold;

/// A place in a flow's stage; giving it up lets the flow fetch one more.
#[derive(Debug)]
pub(crate) struct Slot(pub(crate) mpsc::UnboundedSender<usize>);

impl Drop for Slot {
    fn drop(&mut self) {
        // A flow that has ended wants no more.
        let _ = self.0.send(1);
    }
}

/// A delivery, and who wants a copy of what comes of it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) hold: Hold,
    pub(crate) replies: Vec<String>,
    pub(crate) slot: Option<Slot>,
}
