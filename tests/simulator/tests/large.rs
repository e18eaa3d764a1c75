//! A segment of the largest size that is designed for.

use std::time::Duration;

use common::credential::Roles;
use common::ids::ServerId;
use common::time::Timestamp;
use pressrun_simulator::liveness;
use pressrun_simulator::network::Weather;
use pressrun_simulator::server::id;
use pressrun_simulator::world::World;
use protocol::election::Standing;
use protocol::participant::Timers;

const SERVERS: u16 = 500;
/// From cold, and after the death of the leader.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

fn until_well(world: &mut World, within: Duration) -> Duration {
    let began = world.now;
    while let Some(missing) = liveness::missing(world) {
        let passed = world.now.since(began);
        assert!(passed < within, "after {passed:?}: {missing}");
        let end = world.now + Duration::from_millis(50);
        while world.step(end) {
            world.take_facts();
        }
    }
    world.now.since(began)
}

fn kill_leader(world: &mut World) -> ServerId {
    let (leader, _) = world.agreed().expect("it is well");
    world.kill(leader);
    leader
}

#[test]
fn five_hundred_members_settle_from_cold_and_after_their_leader_has_died() {
    let mut world = World::new(Timers::default(), 7);
    world.network.weather = Weather { loss_permille: 10, ..Weather::fair() };
    for number in 1..=SERVERS {
        // Two in a hundred may lead, as an administrator of so many would have it.
        let roles = Roles { server: true, leader: number % 50 == 0 };
        world.add(id(number), roles, Standing { cpus: number % 16, ..Standing::default() });
    }
    for number in 1..=SERVERS {
        world.start(id(number));
    }
    let cold = until_well(&mut world, SETTLED_WITHIN);
    let (datagrams, bytes) = (world.datagrams, world.bytes);
    println!("{SERVERS} members from cold, 1 % loss: {cold:?}, {datagrams} datagrams, {bytes} bytes");
    assert!(datagrams < 12 * u64::from(SERVERS), "{datagrams} datagrams");

    let before = world.datagrams;
    let dead = kill_leader(&mut world);
    let replaced = until_well(&mut world, SETTLED_WITHIN + Timers::default().registration.silence_max);
    println!("leader {dead} dead: {replaced:?}, {} datagrams", world.datagrams - before);
    let calm = world.datagrams;
    let end = world.now + Duration::from_secs(10);
    while world.step(end) {
        world.take_facts();
    }
    println!("at rest: {} datagrams a second", (world.datagrams - calm) / 10);
    assert_eq!(liveness::missing(&world), None);
    assert!(world.now > Timestamp::ZERO);
}
