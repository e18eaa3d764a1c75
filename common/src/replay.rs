//! What was heard of one sender, so that nothing is heard twice. Pure.

/// How far behind the newest counter something may arrive.
///
/// 1,024: what a segment reorders stays far below it, and a bit for each is 128 bytes a sender.
pub const REORDER_WINDOW: u64 = 1024;

/// What was heard of one sender. It is numbered by its starts and, within one, by a counter from 1.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    boot: u64,
    highest: u64,
    /// A ring: bit `n % REORDER_WINDOW` says that counter `n` was heard, of the window below `highest`.
    heard: [u64; WORDS],
}

const WORDS: usize = (REORDER_WINDOW / 64) as usize;

impl Default for Window {
    fn default() -> Self {
        Self { boot: 0, highest: 0, heard: [0; WORDS] }
    }
}

impl Window {
    /// Takes a counter, if it was not heard before, is not of an earlier start, and not too old to tell.
    #[must_use]
    pub fn take(&mut self, boot: u64, counter: u64) -> bool {
        if boot < self.boot {
            return false;
        }
        if boot > self.boot {
            *self = Self { boot, ..Self::default() };
        }
        if counter > self.highest {
            self.advance(counter);
        } else if self.highest - counter >= REORDER_WINDOW || self.has(counter) {
            return false;
        }
        let (word, bit) = place(counter);
        self.heard[word] |= bit;
        true
    }

    /// Moves the window up to end with this counter; what enters it was not heard.
    fn advance(&mut self, counter: u64) {
        if counter - self.highest >= REORDER_WINDOW {
            self.heard = [0; WORDS];
        } else {
            for new in self.highest + 1..=counter {
                let (word, bit) = place(new);
                self.heard[word] &= !bit;
            }
        }
        self.highest = counter;
    }

    fn has(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        self.heard[word] & bit != 0
    }
}

fn place(counter: u64) -> (usize, u64) {
    let at = counter % REORDER_WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_the_window_order_does_not_matter_and_beyond_it_nothing_is_taken() {
        let mut window = Window::default();
        assert!(window.take(5, 5000));
        assert!(window.take(5, 5000 - REORDER_WINDOW + 1));
        assert!(!window.take(5, 5000 - REORDER_WINDOW + 1), "a second time");
        assert!(!window.take(5, 5000 - REORDER_WINDOW));
        assert!(window.take(6, 1), "a later start counts anew");
        assert!(!window.take(5, 5001), "and ends the earlier one");
    }

    #[test]
    fn each_counter_is_taken_once_however_the_window_moves() {
        let mut window = Window::default();
        let mut taken = std::collections::BTreeSet::<u64>::new();
        // Steps ahead of every length, short of the window and beyond it, each with a look back.
        for step in [1_u64, 63, 64, 65, 700, 1023, 1024, 1025, 5000, 3, 900, 200] {
            let newest = taken.last().copied().unwrap_or(0) + step;
            for counter in [newest, newest.saturating_sub(REORDER_WINDOW - 1), newest - 1, newest] {
                let is_new = !taken.contains(&counter);
                assert_eq!(window.take(1, counter), is_new && taken.insert(counter), "{counter} after {newest}");
            }
        }
    }
}
