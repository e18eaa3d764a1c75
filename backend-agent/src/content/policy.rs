//! What a server's administrator says about the trees of its sites, in the agent's configuration file.

use std::collections::BTreeMap;

use common::ids::SiteName;
use serde::Deserialize;

use super::places::Switch;

/// How the trees of one site are treated on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreePolicy {
    /// How live is switched. Default [`Switch::Exchange`].
    pub switch: Switch,
}

/// The policies of all sites on this server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreePolicies {
    general: TreePolicy,
    /// Sites of which something else is said.
    sites: BTreeMap<SiteName, TreePolicy>,
}

impl TreePolicies {
    /// That of a site.
    #[must_use]
    pub fn of(&self, site: &SiteName) -> TreePolicy {
        self.sites.get(site).copied().unwrap_or(self.general)
    }
}

/// The section `[content]` of the file. A site's own section replaces only what it says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ContentSection {
    switch: Switch,
    site: BTreeMap<SiteName, SiteSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SiteSection {
    switch: Option<Switch>,
}

impl From<ContentSection> for TreePolicies {
    fn from(section: ContentSection) -> Self {
        let general = TreePolicy { switch: section.switch };
        let own = |said: SiteSection| TreePolicy { switch: said.switch.unwrap_or(general.switch) };
        Self { general, sites: section.site.into_iter().map(|(site, said)| (site, own(said))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, site: &str) -> TreePolicy {
        let section: ContentSection = toml::from_str(text).expect("a section");
        TreePolicies::from(section).of(&site.parse().expect("a name"))
    }

    #[test]
    fn a_site_can_be_switched_in_another_way_than_the_others() {
        let text = "[site.shop]\nswitch = \"symlink\"";
        assert_eq!(of(text, "shop").switch, Switch::Symlink);
        assert_eq!(of(text, "blog").switch, Switch::Exchange);
        let text = "switch = \"symlink\"\n[site.shop]\nswitch = \"exchange\"\n[site.blog]";
        assert_eq!(of(text, "shop").switch, Switch::Exchange);
        assert_eq!(of(text, "blog").switch, Switch::Symlink);
    }

    #[test]
    fn a_way_of_switching_that_there_is_not_is_refused() {
        for text in ["switch = \"two-renames\"", "[site.shop]\nway = \"symlink\"", "switch = \"auto\""] {
            assert!(toml::from_str::<ContentSection>(text).is_err(), "{text}");
        }
    }
}
