//! The other servers of the segment, by address: whom the content control manager names, whom the
//! administrator names, and who was heard.
//!
//! What is known is kept in the data directory, so that a server finds the others though the content control
//! manager is not there when it starts, and that the doctor knows whom to ask. Leaves to others: whether
//! anything needs to be sent there ([`protocol::reach`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use common::ids::{ServerId, ServerName};
use serde::{Deserialize, Serialize};

use crate::identity::{IdentityError, write_private};
use crate::lan::is_a_servers;

const FILE: &str = "peers.json";
/// Most servers that are remembered: four times the largest segment.
const PEERS_MAX: usize = 4096;

/// A server as the content control manager knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Who, in hexadecimal digits.
    pub server: String,
    /// Its name.
    pub name: ServerName,
    /// Where it hears what is said to it alone.
    pub control: SocketAddr,
}

/// The other servers.
#[derive(Debug)]
pub struct Peers {
    own: ServerId,
    own_address: SocketAddr,
    named: BTreeMap<ServerId, (ServerName, SocketAddr)>,
    heard: BTreeMap<ServerId, (ServerName, SocketAddr)>,
    fixed: Vec<SocketAddr>,
    /// Something is known that is not kept yet.
    is_news: bool,
}

/// Somebody to speak to: who it is, if that is known, and where.
pub type Target = (Option<ServerId>, SocketAddr);

impl Peers {
    /// Those whom the administrator names.
    #[must_use]
    pub fn new(own: ServerId, own_address: SocketAddr, fixed: Vec<SocketAddr>) -> Self {
        let (named, heard) = (BTreeMap::new(), BTreeMap::new());
        let mut peers = Self { own, own_address, named, heard, fixed: Vec::new(), is_news: false };
        peers.fixed = fixed.into_iter().map(|address| peers.here(address)).collect();
        peers
    }

    /// The content control manager names these, and no others.
    pub fn learn(&mut self, peers: &[Peer]) {
        let mut named = BTreeMap::new();
        for peer in peers.iter().take(PEERS_MAX) {
            let Ok(server) = peer.server.parse::<ServerId>() else { continue };
            if server != self.own && is_a_servers(peer.control) {
                named.insert(server, (peer.name.clone(), self.here(peer.control)));
            }
        }
        for (server, (_, old)) in &self.named {
            // It moved since it was heard, or is gone for good.
            if named.get(server).is_none_or(|(_, address)| address != old) {
                self.heard.remove(server);
            }
        }
        self.is_news |= named != self.named;
        self.named = named;
    }

    /// An address as it is said on this server: of an IPv6 address that means something on one link only each
    /// server has a number of its own for the link.
    fn here(&self, mut address: SocketAddr) -> SocketAddr {
        if let (SocketAddr::V6(address), SocketAddr::V6(own)) = (&mut address, self.own_address)
            && address.ip().is_unicast_link_local()
        {
            address.set_scope_id(own.scope_id());
        }
        address
    }

    /// A datagram of this server was believed, and came from here.
    pub fn heard(&mut self, server: ServerId, name: &ServerName, from: SocketAddr) {
        if self.heard.get(&server).is_some_and(|(_, known)| *known == from) {
            return;
        }
        if self.heard.len() >= PEERS_MAX && !self.heard.contains_key(&server) {
            self.heard.clear();
        }
        self.is_news |= self.address_of(server) != Some(from);
        self.heard.insert(server, (name.clone(), from));
    }

    /// Where a server is.
    #[must_use]
    pub fn address_of(&self, server: ServerId) -> Option<SocketAddr> {
        self.known(server).map(|(_, address)| *address)
    }

    /// The name of a server.
    #[must_use]
    pub fn name_of(&self, server: ServerId) -> Option<&ServerName> {
        self.known(server).map(|(name, _)| name)
    }

    fn known(&self, server: ServerId) -> Option<&(ServerName, SocketAddr)> {
        self.heard.get(&server).or_else(|| self.named.get(&server))
    }

    fn servers(&self) -> BTreeSet<ServerId> {
        self.named.keys().chain(self.heard.keys()).copied().collect()
    }

    /// Everybody else, each once.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> =
            self.servers().into_iter().filter_map(|server| Some((Some(server), self.address_of(server)?))).collect();
        let known: BTreeSet<SocketAddr> = targets.iter().map(|(_, address)| *address).collect();
        for address in &self.fixed {
            if !known.contains(address) && *address != self.own_address {
                targets.push((None, *address));
            }
        }
        targets
    }

    /// Takes up what an earlier process kept. What cannot be read is as good as nothing: it is only a
    /// memory of what the content control manager says again.
    pub fn load(&mut self, data: &Path) {
        let Ok(text) = std::fs::read_to_string(data.join(FILE)) else { return };
        match serde_json::from_str::<Vec<Peer>>(&text) {
            Ok(peers) => {
                self.learn(&peers);
                self.is_news = false;
            }
            Err(error) => tracing::warn!(%error, file = FILE, "the addresses of other servers cannot be read"),
        }
    }

    /// Keeps what is known, if that is not kept yet.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn save(&mut self, data: &Path) -> Result<(), IdentityError> {
        if !self.is_news {
            return Ok(());
        }
        write_private(&data.join(FILE), self.to_text().as_bytes())?;
        self.is_news = false;
        Ok(())
    }

    /// The text of the file.
    pub(crate) fn to_text(&self) -> String {
        let peer = |server: ServerId| {
            let (name, control) = self.known(server)?.clone();
            Some(Peer { server: server.to_string(), name, control })
        };
        let peers: Vec<Peer> = self.servers().into_iter().filter_map(peer).collect();
        serde_json::to_string_pretty(&peers).expect("plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: ServerId = ServerId([1; 16]);
    const TWO: ServerId = ServerId([2; 16]);
    const THREE: ServerId = ServerId([3; 16]);

    fn address(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], port))
    }

    fn peer(server: ServerId, control: SocketAddr) -> Peer {
        Peer { server: server.to_string(), name: "web".parse().expect("good"), control }
    }

    fn name() -> ServerName {
        "web".parse().expect("good")
    }

    fn peers(fixed: &[SocketAddr]) -> Peers {
        Peers::new(OWN, address(1, 40), fixed.to_vec())
    }

    #[test]
    fn everybody_else_is_spoken_to_once_wherever_the_address_is_from() {
        let mut peers = peers(&[address(1, 40), address(2, 40), address(4, 40)]);
        peers.learn(&[peer(OWN, address(1, 40)), peer(TWO, address(2, 40)), peer(THREE, address(3, 40))]);
        let expected = [(Some(TWO), address(2, 40)), (Some(THREE), address(3, 40)), (None, address(4, 40))];
        assert_eq!(peers.targets(), expected);
        peers.heard(THREE, &name(), address(3, 41));
        assert_eq!(peers.address_of(THREE), Some(address(3, 41)), "what is heard is newer");
    }

    #[test]
    fn who_has_moved_is_spoken_to_at_its_new_address() {
        let mut peers = peers(&[]);
        peers.learn(&[peer(TWO, address(2, 40))]);
        peers.heard(TWO, &name(), address(2, 40));
        peers.learn(&[peer(TWO, address(2, 50))]);
        assert_eq!(peers.address_of(TWO), Some(address(2, 50)));
        peers.heard(TWO, &name(), address(2, 51));
        peers.learn(&[peer(TWO, address(2, 50))]);
        assert_eq!(peers.address_of(TWO), Some(address(2, 51)), "the content control manager says nothing new");
        peers.learn(&[]);
        assert_eq!(peers.targets(), [], "it is gone for good");
    }

    #[test]
    fn an_address_of_the_link_is_looked_for_on_this_servers_link_whatever_number_it_has_elsewhere() {
        let own_address = "[fe80::1%3]:40".parse().expect("an address");
        let mut peers = Peers::new(OWN, own_address, vec!["[fe80::4]:40".parse().expect("an address")]);
        let (theirs, global) =
            ("[fe80::2%7]:40".parse().expect("an address"), "[fd00::3]:40".parse().expect("an address"));
        peers.learn(&[peer(TWO, theirs), peer(THREE, global)]);
        let addresses: Vec<String> = peers.targets().iter().map(|(_, address)| address.to_string()).collect();
        assert_eq!(addresses, ["[fe80::2%3]:40", "[fd00::3]:40", "[fe80::4%3]:40"]);
    }

    #[test]
    fn what_cannot_be_an_address_of_a_server_is_passed_over() {
        let mut peers = peers(&[]);
        let nobody = Peer { server: "no id".into(), ..peer(TWO, address(2, 1)) };
        peers.learn(&[nobody, peer(TWO, address(2, 0)), peer(THREE, SocketAddr::from(([239, 1, 1, 1], 1)))]);
        assert_eq!(peers.targets(), []);
    }

    #[test]
    fn what_was_said_is_known_again_after_a_start_and_damage_is_as_good_as_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut before = peers(&[]);
        before.load(directory.path());
        before.learn(&[peer(TWO, address(2, 40))]);
        before.heard(THREE, &name(), address(3, 40));
        before.save(directory.path()).expect("written");
        std::fs::remove_file(directory.path().join(FILE)).expect("it was there");
        before.heard(THREE, &name(), address(3, 40));
        before.save(directory.path()).expect("nothing to do");
        assert!(!directory.path().join(FILE).exists(), "what is kept is not written again");
        before.heard(THREE, &name(), address(3, 41));
        before.save(directory.path()).expect("written");
        let mut after = peers(&[]);
        after.load(directory.path());
        assert_eq!(after.targets(), [(Some(TWO), address(2, 40)), (Some(THREE), address(3, 41))]);
        std::fs::write(directory.path().join(FILE), "[{").expect("written");
        let mut damaged = peers(&[]);
        damaged.load(directory.path());
        assert_eq!(damaged.targets(), []);
    }
}
