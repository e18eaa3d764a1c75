//! Who asks for reports asks all whose report is missing and nobody else, names whichever half is
//! smaller, and asks each by itself unless more than half are missing (002, claims 66 to 68).

use protocol::registration::Destination;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug)]
pub(super) struct AsksTheSmallerHalf;

impl Invariant for AsksTheSmallerHalf {
    fn name(&self) -> &'static str {
        "the smaller half is named"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        for fact in facts {
            let Fact::Asks { expected, reported, missing, said } = fact else { continue };
            let listed: usize = said.iter().map(|(_, ask)| ask.listed.len()).sum();
            if listed > reported.len().min(missing.len()) {
                return Err(format!("{listed} of {expected} are named, {} are missing", missing.len()));
            }
            let to_all = said.iter().any(|(to, _)| *to == Destination::Segment);
            if to_all != (missing.len() * 2 > *expected) {
                return Err(format!("{} of {expected} are missing, to all: {to_all}", missing.len()));
            }
            let asked = |server| {
                said.iter().any(|(to, ask)| {
                    (*to == Destination::Segment || *to == Destination::Server(server)) && ask.asks(server)
                })
            };
            if let Some(server) = missing.iter().find(|server| !asked(**server)) {
                return Err(format!("{server} has not reported and is not asked"));
            }
            if let Some(server) = reported.iter().find(|server| asked(**server)) {
                return Err(format!("{server} has reported and is asked"));
            }
        }
        Ok(())
    }
}
