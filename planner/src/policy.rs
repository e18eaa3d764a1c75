//! How an object spreads, and when a leader hands it to its own segment.

/// `wan = auto | star | tree | mesh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WanPolicy {
    /// [`WanPolicy::resolve`] chooses.
    Auto,
    /// The sites that had the object at first serve all others.
    Star,
    /// Whole objects from leader to leader in a sorted order (002).
    Tree,
    /// The chunks in classes, each class along a tree of its own.
    Mesh,
}

/// Up to how many leaders `auto` lets the CCM serve all: two copies at once over one uplink take no
/// longer than two levels of a tree.
pub const STAR_LEADERS_MAX: usize = 2;

impl WanPolicy {
    /// The policy's name in configuration; `None` for an unknown one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "star" => Some(Self::Star),
            "tree" => Some(Self::Tree),
            "mesh" => Some(Self::Mesh),
            _ => None,
        }
    }

    /// What `auto` means for so many leaders and an object of so many chunks: the star for few
    /// leaders, the tree for one chunk, which cannot be divided, the mesh above.
    #[must_use]
    pub fn resolve(self, leaders: usize, chunks: u32) -> Self {
        match self {
            Self::Auto if leaders <= STAR_LEADERS_MAX => Self::Star,
            Self::Auto if chunks <= 1 => Self::Tree,
            Self::Auto => Self::Mesh,
            Self::Star | Self::Tree | Self::Mesh => self,
        }
    }
}

/// When a leader hands an object to its own segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LanStart {
    /// When it has it and serves nobody any more (002: "to other GLs first and later to its own members").
    AfterForwarding,
    /// When it has it.
    WhenComplete,
    /// With the first verified chunks.
    Early,
}

impl LanStart {
    /// The name in configuration; `None` for an unknown one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "after-forwarding" => Some(Self::AfterForwarding),
            "when-complete" => Some(Self::WhenComplete),
            "early" => Some(Self::Early),
            _ => None,
        }
    }

    /// Whether a leader may begin that holds so much and serves so many, and was told whether there
    /// is anybody left to serve.
    #[must_use]
    pub fn may_begin(self, held: u32, chunks: u32, serving: usize, nobody_waits: bool) -> bool {
        match self {
            Self::AfterForwarding => held == chunks && serving == 0 && nobody_waits,
            Self::WhenComplete => held == chunks,
            Self::Early => held > 0 || chunks == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_the_star_for_few_the_tree_for_one_chunk_and_the_mesh_above() {
        assert_eq!(WanPolicy::Auto.resolve(2, 900), WanPolicy::Star);
        assert_eq!(WanPolicy::Auto.resolve(3, 1), WanPolicy::Tree);
        assert_eq!(WanPolicy::Auto.resolve(3, 2), WanPolicy::Mesh);
        assert_eq!(WanPolicy::Tree.resolve(1, 900), WanPolicy::Tree);
        assert_eq!(WanPolicy::named("mesh"), Some(WanPolicy::Mesh));
        assert_eq!(WanPolicy::named("ring"), None);
    }

    #[test]
    fn the_segment_is_served_after_others_when_complete_or_at_once() {
        let may = |start: LanStart| {
            [(1, 0, false), (4, 1, true), (4, 0, false), (4, 0, true)]
                .map(|(held, serving, nobody)| start.may_begin(held, 4, serving, nobody))
        };
        assert_eq!(may(LanStart::AfterForwarding), [false, false, false, true]);
        assert_eq!(may(LanStart::WhenComplete), [false, true, true, true]);
        assert_eq!(may(LanStart::Early), [true; 4]);
    }
}
