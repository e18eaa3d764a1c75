//! Networks that do not carry multicast, and the counting of it.

use crate::address::Host;
use crate::command::{LabError, inside, run};
use crate::lab::Lab;

/// Which multicast of a server is kept from it or from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// None.
    Nothing,
    /// What the others send: the switch does not forward it to this server.
    Inward,
    /// What this server sends and what the others send.
    BothWays,
}

impl Lab {
    /// Has the switch of a LAN keep multicast from a server, or a server's from the others. Everything
    /// else passes.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_multicast_cut(&self, server: Host, cut: Cut) -> Result<(), LabError> {
        let Host::Server(segment, number) = server else { return Ok(()) };
        let router = self.namespace(Host::Router(segment));
        let (flood, drops) = match cut {
            Cut::Nothing => ("on", false),
            Cut::Inward => ("off", false),
            Cut::BothWays => ("off", true),
        };
        let port = format!("w{number}");
        run("ip", &["-n", &router, "link", "set", &port, "type", "bridge_slave", "mcast_flood", flood], "")?;
        let table = format!("pressrun_mute_{port}");
        let mut rules = format!("table netdev {table}\ndelete table netdev {table}\n");
        if drops {
            // Where it enters the switch, not on the server: nothing there tells of it.
            rules += &format!(
                "table netdev {table} {{\n chain ingress {{\n\
                 type filter hook ingress device {port} priority 0; policy accept;\n\
                 ip daddr 224.0.0.0/4 drop\n }}\n}}\n"
            );
        }
        inside(&router, "nft", &["-f", "-"], &rules).map(drop)
    }

    /// Has the switch of a segment forward no multicast at all.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_multicast_off(&self, segment: u8) -> Result<(), LabError> {
        let cut = |server| self.set_multicast_cut(Host::Server(segment, server), Cut::Inward);
        (1..=self.spec().servers).try_for_each(cut)
    }

    /// Counts from here on the multicast packets that a server sends, of any protocol.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn count_multicast(&self, server: Host) -> Result<(), LabError> {
        let rules = "table inet pressrun_count\ndelete table inet pressrun_count\n\
             table inet pressrun_count {\n counter multicast { }\n chain egress {\n\
             type filter hook output priority -300; policy accept;\n\
             ip daddr 224.0.0.0/4 counter name multicast\n }\n}\n";
        inside(&self.namespace(server), "nft", &["-f", "-"], rules).map(drop)
    }

    /// The multicast packets that a server has sent since [`Lab::count_multicast`].
    ///
    /// # Errors
    /// [`LabError`] when they are not counted.
    pub fn multicast_packets(&self, server: Host) -> Result<u64, LabError> {
        let args = ["-j", "list", "counter", "inet", "pressrun_count", "multicast"];
        let answer = inside(&self.namespace(server), "nft", &args, "")?;
        let understood = || {
            let answer: serde_json::Value = serde_json::from_str(&answer).ok()?;
            answer["nftables"].as_array()?.iter().find_map(|entry| entry["counter"]["packets"].as_u64())
        };
        understood().ok_or_else(|| LabError::Answer { command: format!("nft {}", args.join(" ")) })
    }
}
