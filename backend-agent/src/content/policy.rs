//! What a server's administrator says about the trees of its sites, in the agent's configuration file.

use std::collections::BTreeMap;

use common::ids::SiteName;
use serde::Deserialize;

use super::places::Switch;

/// Whether security labels of the live tree are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// A staged entry gets the label that its path has in live, a new one that of the directory it is in.
    /// The default: where there are no labels it costs one question for each publish.
    #[default]
    Keep,
    /// Whatever the system gives to what the agent makes.
    System,
}

/// How the trees of one site are treated on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreePolicy {
    /// How live is switched. Default [`Switch::Exchange`].
    pub switch: Switch,
    /// What becomes of security labels. Default [`Labels::Keep`].
    pub labels: Labels,
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
    labels: Labels,
    site: BTreeMap<SiteName, SiteSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SiteSection {
    switch: Option<Switch>,
    labels: Option<Labels>,
}

impl From<ContentSection> for TreePolicies {
    fn from(section: ContentSection) -> Self {
        let general = TreePolicy { switch: section.switch, labels: section.labels };
        let own = |said: SiteSection| TreePolicy {
            switch: said.switch.unwrap_or(general.switch),
            labels: said.labels.unwrap_or(general.labels),
        };
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
    fn a_site_of_which_something_is_said_differs_in_that_alone() {
        let text = "labels = \"system\"\n[site.shop]\nswitch = \"symlink\"";
        assert_eq!(of(text, "shop"), TreePolicy { switch: Switch::Symlink, labels: Labels::System });
        assert_eq!(of(text, "blog"), TreePolicy { switch: Switch::Exchange, labels: Labels::System });
        assert_eq!(of("", "blog"), TreePolicy { switch: Switch::Exchange, labels: Labels::Keep });
    }

    #[test]
    fn a_way_of_switching_that_there_is_not_is_refused() {
        for text in ["switch = \"two-renames\"", "[site.shop]\nlabel = \"keep\"", "switch = \"auto\""] {
            assert!(toml::from_str::<ContentSection>(text).is_err(), "{text}");
        }
    }
}
