//! What must hold after every step, whatever the faults: one invariant in each file.
//!
//! An invariant sees what happened in the step and the world after it, and may remember. A violation
//! is data; the run that found it says how to see it again.

#![expect(clippy::wildcard_enum_match_arm, reason = "an invariant looks at the facts that it is about")]

mod acknowledged_in_office;
mod asks_the_smaller_half;
mod bounded_answers;
mod confirmed_means_held;
mod durable_before_used;
mod epochs_never_fall;
mod followed_while_leading;
mod heard_before_acknowledged;
mod heard_once;
mod members_speak_for_themselves;
mod one_leader_of_an_epoch;
mod only_leaders_are_followed;
mod reports_are_their_servers_own;
mod reports_never_go_back;
mod votes_again_for_who_claims;

use crate::facts::Fact;
use crate::world::World;

/// Something that must hold.
pub trait Invariant {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Looks at what happened in a step, and at the world after it.
    ///
    /// # Errors
    /// What does not hold, in words.
    fn check(&mut self, facts: &[Fact], world: &World) -> Result<(), String>;
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<one_leader_of_an_epoch::OneLeaderOfAnEpoch>::default(),
        Box::<durable_before_used::DurableBeforeUsed>::default(),
        Box::<epochs_never_fall::EpochsNeverFall>::default(),
        Box::<only_leaders_are_followed::OnlyLeadersAreFollowed>::default(),
        Box::<followed_while_leading::FollowedWhileLeading>::default(),
        Box::<members_speak_for_themselves::MembersSpeakForThemselves>::default(),
        Box::<confirmed_means_held::ConfirmedMeansHeld>::default(),
        Box::<reports_are_their_servers_own::ReportsAreTheirServersOwn>::default(),
        Box::<reports_never_go_back::ReportsNeverGoBack>::default(),
        Box::<heard_before_acknowledged::HeardBeforeAcknowledged>::default(),
        Box::<votes_again_for_who_claims::VotesAgainForWhoClaims>::default(),
        Box::<heard_once::HeardOnce>::default(),
        Box::new(acknowledged_in_office::AcknowledgedInOffice),
        Box::new(asks_the_smaller_half::AsksTheSmallerHalf),
        Box::new(bounded_answers::BoundedAnswers),
    ]
}
