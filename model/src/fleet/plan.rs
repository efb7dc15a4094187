//! Which regions probe each other. Pure.
//!
//! Every plan is symmetric: who probes is probed, because a link needs both ends to know each other. A full mesh of n regions has
//! n (n - 1) links, a hub plan with h hubs about 2 h n, so its cost grows linearly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use super::Region;
use crate::ids::RegionName;

/// Which regions probe each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Plan {
    /// Every region probes every other one.
    #[default]
    Full,
    /// Every region probes these, and these probe all; at least one.
    Hub(BTreeSet<RegionName>),
    /// Only these pairs probe each other; at least one.
    Pairs(BTreeSet<Pair>),
}

/// Two regions, in whatever order they were given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair(RegionName, RegionName);

impl Pair {
    /// A pair; `None` if both are the same.
    pub fn new(a: RegionName, b: RegionName) -> Option<Pair> {
        match a.cmp(&b) {
            std::cmp::Ordering::Less => Some(Pair(a, b)),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Pair(b, a)),
        }
    }

    /// Both, in the order of their names.
    pub fn names(&self) -> (&RegionName, &RegionName) {
        (&self.0, &self.1)
    }
}

impl Plan {
    /// Its name in the fleet file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Plan::Full => "full",
            Plan::Hub(_) => "hub",
            Plan::Pairs(_) => "pairs",
        }
    }

    /// Whether two regions probe each other.
    pub fn connects(&self, a: &RegionName, b: &RegionName) -> bool {
        match self {
            Plan::Full => a != b,
            Plan::Hub(hubs) => a != b && (hubs.contains(a) || hubs.contains(b)),
            Plan::Pairs(pairs) => Pair::new(a.clone(), b.clone()).is_some_and(|pair| pairs.contains(&pair)),
        }
    }
}

/// Who probes whom where not all do, by the places of regions in the fleet file. It follows from regions and plan and is worked out
/// when it is first asked for: a collector asks a thousand times a second.
#[derive(Debug, Default)]
pub struct Links(OnceLock<BTreeMap<RegionName, Vec<usize>>>);

impl Links {
    /// The places of the peers of a region, in order.
    pub(super) fn of<'a>(&'a self, name: &RegionName, regions: &[Region], plan: &Plan) -> &'a [usize] {
        let peers = |region: &Region| {
            let others = regions.iter().enumerate().filter(|(_, other)| plan.connects(&region.name, &other.name));
            (region.name.clone(), others.map(|(place, _)| place).collect())
        };
        let links = self.0.get_or_init(|| regions.iter().map(peers).collect());
        links.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A copy may be changed, so it works them out anew.
impl Clone for Links {
    fn clone(&self) -> Links {
        Links::default()
    }
}

/// They say nothing that regions and plan do not.
impl PartialEq for Links {
    fn eq(&self, _: &Links) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RegionName {
        text.parse().unwrap()
    }

    /// Whatever the plan, who probes is probed, and nobody probes itself.
    #[test]
    fn plans_are_symmetric() {
        let names = ["a", "b", "c", "d"].map(name);
        let pair = |a, b| Pair::new(name(a), name(b)).unwrap();
        let table = [
            (Plan::Full, "ab ac ad bc bd cd"),
            (Plan::Hub(BTreeSet::from([name("b")])), "ab bc bd"),
            (Plan::Hub(BTreeSet::from([name("b"), name("d")])), "ab ad bc bd cd"),
            (Plan::Pairs(BTreeSet::from([pair("c", "a"), pair("b", "d")])), "ac bd"),
        ];
        for (plan, expected) in table {
            let mut found = Vec::new();
            for (i, a) in names.iter().enumerate() {
                assert!(!plan.connects(a, a));
                for b in &names[i + 1..] {
                    assert_eq!(plan.connects(a, b), plan.connects(b, a));
                    found.extend(plan.connects(a, b).then(|| format!("{a}{b}")));
                }
            }
            assert_eq!(found.join(" "), expected, "{plan:?}");
        }
    }
}
