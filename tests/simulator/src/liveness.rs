//! What must follow when the faults are over: one leader whom all follow, with all of them registered
//! as they are, and every outcome known to the content control manager.

use crate::world::World;

/// What is still missing, in words; `None` when the segment is as it should be.
#[must_use]
pub fn missing(world: &World) -> Option<String> {
    let Some((leader, epoch)) = world.agreed() else {
        let views: Vec<String> =
            world.running().map(|(server, running)| format!("{server} follows {:?}", running.leader())).collect();
        return Some(format!("no leader is agreed upon: {}", views.join("; ")));
    };
    let leading = world.servers.get(&leader).and_then(|server| server.running.as_ref())?;
    let members = leading.members();
    for (server, running) in world.running() {
        if !running.is_confirmed() {
            return Some(format!("{server} is not registered with {leader} in {epoch:#x}"));
        }
        if !members.contains(running.info()) {
            return Some(format!("{leader} does not know {server} as it is"));
        }
        if running.pending() > 0 {
            return Some(format!("{server} has {} outcomes that nobody acknowledged", running.pending()));
        }
    }
    let is_gone = |server| world.servers.get(server).is_some_and(|server| server.running.is_none());
    if let Some(member) = members.iter().find(|member| is_gone(&member.server)) {
        return Some(format!("{leader} lists {}, which is down", member.server));
    }
    for (server, state) in world.servers.iter().filter(|(_, state)| state.running.is_some()) {
        for (assignment, outcome) in &state.disk.journal {
            if world.manager.outcomes.get(&(*server, *assignment)) != Some(outcome) {
                return Some(format!("the manager does not know what became of {assignment} on {server}"));
            }
        }
    }
    None
}
