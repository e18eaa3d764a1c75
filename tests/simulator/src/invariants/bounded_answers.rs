//! Whatever arrives, a server answers with few datagrams, each of which fits the network unfragmented,
//! and sleeps again.

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// Most datagrams because of one input: the parts of one large outcome, acknowledgements, and what a
/// change of leader brings.
const SENT_MAX: usize = 100;
/// Most bytes of a message, without the envelope.
const BYTES_MAX: usize = 1_100;
/// Most times that timers are due at one instant.
const WAKES_MAX: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct BoundedAnswers;

impl Invariant for BoundedAnswers {
    fn name(&self) -> &'static str {
        "answers are bounded"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        for fact in facts {
            match fact {
                Fact::Took { server, sent, wakes } => {
                    if *sent > SENT_MAX {
                        return Err(format!("{server} sends {sent} datagrams because of one input"));
                    }
                    if *wakes > WAKES_MAX {
                        return Err(format!("{server} is due {wakes} times at one instant"));
                    }
                }
                Fact::Said { server, message, bytes, .. } if *bytes > BYTES_MAX => {
                    return Err(format!("{server} sends {bytes} bytes at once: {message:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
