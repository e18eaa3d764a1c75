//! What was heard of one sender, so that nothing is heard twice. Pure.

/// How far behind the newest counter a datagram may arrive.
pub const REORDER_WINDOW: u64 = 64;

/// The datagrams of one sender that were heard. They are numbered by its starts and, within one, by a
/// counter from 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    boot: u64,
    highest: u64,
    /// Bit n: counter `highest - n` was heard.
    heard: u64,
}

impl Window {
    /// Takes a datagram, if it was not heard before, is not of an earlier start, and not too old to
    /// tell.
    #[must_use]
    pub fn take(&mut self, boot: u64, counter: u64) -> bool {
        if boot < self.boot {
            return false;
        }
        if boot > self.boot {
            *self = Self { boot, highest: 0, heard: 0 };
        }
        if counter > self.highest {
            let ahead = counter - self.highest;
            self.heard = if ahead >= REORDER_WINDOW { 0 } else { self.heard << ahead };
            self.heard |= 1;
            self.highest = counter;
            return true;
        }
        let behind = self.highest - counter;
        if behind >= REORDER_WINDOW || self.heard & (1 << behind) != 0 {
            return false;
        }
        self.heard |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_the_window_order_does_not_matter_and_beyond_it_nothing_is_taken() {
        let mut window = Window::default();
        assert!(window.take(5, 100));
        assert!(window.take(5, 100 - REORDER_WINDOW + 1));
        assert!(!window.take(5, 100 - REORDER_WINDOW + 1), "a second time");
        assert!(!window.take(5, 100 - REORDER_WINDOW));
        assert!(window.take(6, 1), "a later start counts anew");
        assert!(!window.take(5, 101), "and ends the earlier one");
    }
}
