//! A fixed window of the provider's clock: its end, as far as answers state it.

use std::time::Duration;

use tokio::time::Instant;

/// A fixed window of the provider. Calls that are sent in it are back when it ends, however late they were sent.
///
/// An answer states the rest of the window as of some moment between the call and the answer. Each answer therefore
/// bounds the end from both sides, and several answers bound it more tightly.
#[derive(Debug, Default)]
pub(super) struct FixedWindow {
    /// The earliest and the latest time at which the window ends; `None` before an answer states it.
    end: Option<(Instant, Instant)>,
}

impl FixedWindow {
    /// Notes that the open window ends between `earliest` and `latest`. Returns false if that is nothing new.
    pub(super) fn ends(&mut self, earliest: Instant, latest: Instant) -> bool {
        let before = self.end;
        self.end = match before {
            // An answer that was under way for long is about an earlier window.
            Some(known) if latest < known.0 => Some(known),
            Some(known) if earliest <= known.1 => {
                Some((earliest.max(known.0), latest.min(known.1)))
            }
            _ => Some((earliest, latest)),
        };
        self.end != before
    }

    /// Returns the time at which all calls of the window are back at the latest; `None` if its end is not known.
    pub(super) fn latest(&self, margin: Duration) -> Option<Instant> {
        self.end.map(|(_, latest)| latest + margin)
    }

    /// Returns the time at which a call that was sent at `sent` is back; `None` if that is not known. It is not known
    /// for a call that may reach the next window, since it may be counted there.
    pub(super) fn back(&self, sent: Instant, margin: Duration) -> Option<Instant> {
        let (earliest, _) = self.end?;
        self.latest(margin).filter(|_| sent + margin < earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn answers_narrow_the_end_until_another_window_is_reported() {
        let start = Instant::now();
        let at = |seconds| start + seconds * SECOND;
        let mut window = FixedWindow::default();
        assert_eq!(window.back(at(0), SECOND), None);
        window.ends(at(50), at(60));
        window.ends(at(55), at(70));
        window.ends(at(40), at(58));
        assert_eq!(window.back(at(53), SECOND), Some(at(59)));
        assert_eq!(
            window.back(at(54), SECOND),
            None,
            "it may arrive in the next one"
        );
        window.ends(at(10), at(54));
        assert_eq!(
            window.back(at(53), SECOND),
            Some(at(59)),
            "that was another one"
        );
        window.ends(at(115), at(116));
        assert_eq!(window.back(at(70), SECOND), Some(at(117)));
    }
}
