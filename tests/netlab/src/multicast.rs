//! Segments that differ from the usual one in what they do with multicast, or in the version of IP.

use crate::address::Host;
use crate::command::{LabError, inside, ip_batch};
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

impl Lab {
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
