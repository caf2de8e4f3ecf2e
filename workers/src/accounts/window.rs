//! The window of a provider's clock: where it ends, as far as answers tell.

use std::time::Duration;

use tokio::time::Instant;

/// A fixed window of the provider's. What is sent in it is back when it ends, however late it was sent.
///
/// An answer tells the rest of the window as of some moment between the call and the answer. So each says
/// of the end that it is not before one time and not after another, and together they say it more exactly.
#[derive(Debug, Default)]
pub(super) struct Window {
    end: Option<(Instant, Instant)>,
}

impl Window {
    /// The window that is open ends at `earliest` or later, and at `latest` or sooner. False if that is nothing
    /// new.
    pub(super) fn ends(&mut self, earliest: Instant, latest: Instant) -> bool {
        let before = self.end;
        self.end = match before {
            // An answer that was long under way speaks of a window before.
            Some(known) if latest < known.0 => Some(known),
            Some(known) if earliest <= known.1 => {
                Some((earliest.max(known.0), latest.min(known.1)))
            }
            _ => Some((earliest, latest)),
        };
        self.end != before
    }

    /// When all that was sent in it is back at the latest.
    pub(super) fn latest(&self, guard: Duration) -> Option<Instant> {
        self.end.map(|(_, latest)| latest + guard)
    }

    /// When what was sent at `sent` is back, if that is known: calls that may reach the next window are not
    /// spoken of, since they may be counted there.
    pub(super) fn back(&self, sent: Instant, guard: Duration) -> Option<Instant> {
        let (earliest, _) = self.end?;
        self.latest(guard).filter(|_| sent + guard < earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn answers_narrow_the_end_until_another_window_is_told() {
        let start = Instant::now();
        let at = |seconds| start + seconds * SECOND;
        let mut window = Window::default();
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
