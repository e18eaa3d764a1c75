//! Segments that differ from the usual one in what they do with multicast, or in the version of IP; and the
//! counting of multicast.

use crate::address::Host;
use crate::command::{LabError, inside, ip_batch, run};
use crate::lab::Lab;

/// What makes a segment's switch look who has joined which group, in lines for `ip`; nothing when it is not to.
/// It asks for that itself, for there is no router that would, and believes its answers after a tenth of a
/// second: that is set first, for the time begins when it starts to ask.
pub(crate) fn snooping(is_on: bool) -> &'static str {
    if is_on {
        "link set lan0 type bridge mcast_query_response_interval 10\n\
         link set lan0 type bridge mcast_snooping 1\n\
         link set lan0 type bridge mcast_querier 1\n"
    } else {
        ""
    }
}

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

    /// Gives rules to a host's `nft`.
    ///
    /// # Errors
    /// [`LabError`] when they are refused.
    pub fn nft(&self, host: Host, rules: &str) -> Result<(), LabError> {
        inside(&self.namespace(host), "nft", &["-f", "-"], rules).map(drop)
    }

    /// Gives a server an interface that leads nowhere.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn add_interface(&self, server: Host, name: &str, address: &str) -> Result<(), LabError> {
        let lines = format!(
            "link add {name} type veth peer name {name}-end\naddress add {address} dev {name}\n\
             link set {name} up\nlink set {name}-end up\n"
        );
        ip_batch(Some(&self.namespace(server)), &lines)
    }

    /// Makes a server's link a port of a bridge on the server, which has the address then, and snoops
    /// without a querier, as bridges do when they are made.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn put_on_a_bridge(&self, server: Host, bridge: &str) -> Result<(), LabError> {
        let (address, router) = (
            server.address(),
            match server {
                Host::Server(segment, _) => Host::Router(segment).address(),
                Host::Ccm | Host::Wan | Host::Router(_) => return Ok(()),
            },
        );
        let lines = format!(
            "link add {bridge} type bridge mcast_snooping 1 mcast_querier 0\n\
             address del {address}/24 dev eth0\n\
             link set eth0 master {bridge}\n\
             address add {address}/24 dev {bridge}\n\
             link set {bridge} up\n\
             route add default via {router}\n"
        );
        ip_batch(Some(&self.namespace(server)), &lines)
    }

    /// Gives all hosts addresses of IPv6, and takes those of IPv4 from the servers.
    pub(crate) fn build_ipv6(&self) -> Result<(), LabError> {
        for host in self.spec().hosts() {
            let mut settings =
                vec!["-q", "-w", "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0"];
            match host {
                Host::Wan | Host::Router(_) => settings.push("net.ipv6.conf.all.forwarding=1"),
                Host::Ccm | Host::Server(..) => (),
            }
            inside(&self.namespace(host), "sysctl", &settings, "")?;
        }
        let mut wan = format!("address add {}/64 dev ccm nodad\n", Host::Wan.address6());
        for segment in 1..=self.spec().segments {
            let (near, far) = (uplink(segment, 1), uplink(segment, 2));
            wan += &format!(
                "address add {near}/64 dev s{segment} nodad\nroute add {}/64 via {far} dev s{segment}\n",
                net(segment)
            );
            let lines = format!(
                "address add {far}/64 dev wan0 nodad\naddress add {}/64 dev lan0 nodad\n\
                 route add default via {near} dev wan0\n",
                Host::Router(segment).address6()
            );
            ip_batch(Some(&self.namespace(Host::Router(segment))), &lines)?;
        }
        ip_batch(Some(&self.namespace(Host::Wan)), &wan)?;
        let ccm = format!(
            "address add {}/64 dev eth0 nodad\nroute add default via {}\n",
            Host::Ccm.address6(),
            Host::Wan.address6()
        );
        ip_batch(Some(&self.namespace(Host::Ccm)), &ccm)?;
        for server in self.spec().servers() {
            let Host::Server(segment, _) = server else { continue };
            let lines = format!(
                "address del {}/24 dev eth0\naddress add {}/64 dev eth0 nodad\nroute add default via {}\n",
                server.address(),
                server.address6(),
                Host::Router(segment).address6()
            );
            ip_batch(Some(&self.namespace(server)), &lines)?;
        }
        Ok(())
    }

    /// Sets the largest packet of a segment: of its servers' links and its switch.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_mtu(&self, segment: u8, mtu: u32) -> Result<(), LabError> {
        let mut lines = String::new();
        for server in 1..=self.spec().servers {
            lines += &format!("link set w{server} mtu {mtu}\n");
            self.set_server_mtu(Host::Server(segment, server), mtu)?;
        }
        lines += &format!("link set lan0 mtu {mtu}\n");
        ip_batch(Some(&self.namespace(Host::Router(segment))), &lines).map(drop)
    }

    /// Sets the largest packet that the switch of a segment forwards to a server; nobody is told.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_port_mtu(&self, server: Host, mtu: u32) -> Result<(), LabError> {
        let Host::Server(segment, number) = server else { return Ok(()) };
        ip_batch(Some(&self.namespace(Host::Router(segment))), &format!("link set w{number} mtu {mtu}\n")).map(drop)
    }

    /// Sets the largest packet that a server believes its link to carry.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_server_mtu(&self, server: Host, mtu: u32) -> Result<(), LabError> {
        ip_batch(Some(&self.namespace(server)), &format!("link set eth0 mtu {mtu}\n")).map(drop)
    }
}

/// The network of a segment's servers.
fn net(segment: u8) -> String {
    format!("fd77:0:0:{segment:x}::")
}

/// One end of a segment's WAN link.
fn uplink(segment: u8, end: u8) -> String {
    format!("fd77:0:0:{:x}::{end}", 0x100 + u16::from(segment))
}
