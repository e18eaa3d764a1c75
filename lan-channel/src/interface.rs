//! The interface by which a server is on its segment: by name or address, over IPv4 or IPv6.

use std::net::{IpAddr, Ipv6Addr};

use if_addrs::Interface;

use crate::sockets::ChannelError;

/// Which version of IP a segment's channels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// Group addresses within 239.0.0.0/8.
    #[default]
    Ipv4,
    /// Group addresses within ff00::/8.
    Ipv6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// As it is said to people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

/// Where a server is on its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name.
    pub name: String,
    /// This server's own address there.
    pub own: IpAddr,
    /// The interface's number; 0 when the system gives none.
    pub index: u32,
}

impl Attachment {
    /// The interface given by its name, or by one of its addresses.
    ///
    /// # Errors
    /// [`ChannelError`] when there is none with an address of this family.
    pub fn find(interface: &str, family: Family) -> Result<Self, ChannelError> {
        let candidates = candidates(family)?;
        let matching = candidates
            .into_iter()
            .filter(|candidate| candidate.name == interface || candidate.own.to_string() == interface);
        // A name may have several addresses: one that reaches beyond the link is the best to be known by.
        matching
            .min_by_key(|candidate| is_link_local(candidate.own))
            .ok_or_else(|| ChannelError::Interface { interface: interface.to_owned(), family })
    }

    /// The interface to use when none is named: the only one besides the loopback, or the loopback when
    /// there is no other.
    ///
    /// # Errors
    /// [`ChannelError::Several`] when there is a choice: a guess could put a server on the wrong network.
    pub fn only(family: Family) -> Result<Self, ChannelError> {
        only(candidates(family)?, family)
    }

    /// The interface's largest packet, in bytes; `None` where the system does not say.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        std::fs::read_to_string(format!("/sys/class/net/{}/mtu", self.name)).ok()?.trim().parse().ok()
    }
}

fn candidates(family: Family) -> Result<Vec<Attachment>, ChannelError> {
    let interfaces = if_addrs::get_if_addrs().map_err(ChannelError::Interfaces)?;
    Ok(interfaces.into_iter().filter(|interface| Family::of(interface.ip()) == family).map(attachment).collect())
}

fn attachment(interface: Interface) -> Attachment {
    Attachment { own: interface.ip(), index: interface.index.unwrap_or(0), name: interface.name }
}

fn only(candidates: Vec<Attachment>, family: Family) -> Result<Attachment, ChannelError> {
    let none = || ChannelError::Interface { interface: "(any)".into(), family };
    let (loopback, others): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.own.is_loopback());
    let Some(first) = others.first() else { return loopback.into_iter().next().ok_or_else(none) };
    // Of IPv6 every interface has several addresses.
    let is_one_interface = family == Family::Ipv6 && others.iter().all(|other| other.name == first.name);
    if others.len() > 1 && !is_one_interface {
        let names: Vec<String> = others.iter().map(|other| format!("{} ({})", other.name, other.own)).collect();
        return Err(ChannelError::Several { interfaces: names.join(", ") });
    }
    others.into_iter().min_by_key(|candidate| is_link_local(candidate.own)).ok_or_else(none)
}

/// Whether an address means something on one link only, so that it must be said which.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || is_link_local_group(address),
    }
}

/// Scope 2 of RFC 4291.
fn is_link_local_group(address: Ipv6Addr) -> bool {
    address.is_multicast() && address.segments()[0] & 0xf == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, own: &str) -> Attachment {
        Attachment { name: name.into(), own: own.parse().expect("an address"), index: 1 }
    }

    #[test]
    fn without_a_name_the_only_interface_is_taken_and_a_choice_is_left_to_the_administrator() {
        let (loopback, one, two) = (at("lo", "127.0.0.1"), at("eth0", "10.0.0.1"), at("eth1", "10.0.1.1"));
        let found = |candidates: &[&Attachment]| only(candidates.iter().copied().cloned().collect(), Family::Ipv4);
        assert_eq!(found(&[&loopback, &one]).expect("the only one"), one);
        assert_eq!(found(&[&loopback]).expect("no other"), loopback);
        let refused = found(&[&loopback, &one, &two]).expect_err("a choice");
        assert!(refused.to_string().contains("eth0 (10.0.0.1), eth1 (10.0.1.1)"), "{refused}");
        assert!(found(&[]).is_err());
    }

    #[test]
    fn of_an_interfaces_ipv6_addresses_the_one_that_reaches_farthest_is_taken() {
        let (link, global) = (at("eth0", "fe80::1"), at("eth0", "fd00::1"));
        let found = only(vec![at("lo", "::1"), link.clone(), global.clone()], Family::Ipv6);
        assert_eq!(found.expect("one interface"), global);
        assert_eq!(only(vec![link.clone()], Family::Ipv6).expect("one address"), link);
        assert!(only(vec![global, at("eth1", "fd00:1::1")], Family::Ipv6).is_err());
    }
}
