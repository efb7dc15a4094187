//! How far the wall clocks at the two ends of a link are apart, and whether their hosts' claims can be true. Pure.

use std::time::Duration;

use lagmesh_model::catalogue::{Attribute, CLOCK_CLAIMS_REFUTED, CLOCK_OFFSET};
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::interval::Interval;
use lagmesh_model::known::Known;
use lagmesh_model::series::{Attributes, Series};
use lagmesh_model::status::Seconds;
use lagmesh_model::time::Reading;

use crate::link::window::{RECENT, age_of};
use crate::measurement::PeerView;
use crate::wall::Contradiction;

/// The wall clocks of a peer region's agents against ours.
#[derive(Debug, Default)]
pub(super) struct Walls {
    /// The narrowest interval, and since when it has been so.
    offset: Option<(Interval, Duration)>,
    /// Whether any of them claims to be synchronised while we do, and was heard of late.
    claimed: bool,
    /// Claims of late that cannot be true.
    pub(super) contradiction: Option<Contradiction>,
}

impl Walls {
    /// What is known of these agents at `now`.
    pub(super) fn of<'a>(agents: impl Iterator<Item = &'a AgentName>, now: Reading, view: &PeerView) -> Walls {
        let mut walls = Walls::default();
        for agent in agents {
            let Some((offset, heard)) = view.wall_offset(agent, now.epoch) else { continue };
            let age = age_of(heard.at, now.raw);
            let narrower =
                walls.offset.is_none_or(|(known, since)| (age > RECENT, offset.width_ns()) < (since > RECENT, known.width_ns()));
            if narrower {
                walls.offset = Some((offset, age));
            }
            if let Some(claims) = heard.claims().filter(|_| age <= RECENT) {
                walls.claimed = true;
                walls.contradiction = walls.contradiction.or(claims.contradiction(offset));
            }
        }
        walls
    }

    /// The peer's wall clock minus ours.
    pub(super) fn offset_s(&self, peer: &RegionName) -> Known<Seconds> {
        match self.offset {
            Some((offset, age)) if age <= RECENT => Known::known(offset.into()),
            Some((offset, age)) => Known::Stale { value: offset.into(), age_s: age.as_secs_f64() },
            None => Known::unknown(format!("{peer} has not told of its wall clock yet")),
        }
    }

    /// What to export: nothing that is not known.
    pub(super) fn series(&self, attributes: &Attributes, out: &mut Vec<Series>) {
        if let Some((offset, _)) = self.offset.filter(|(_, age)| *age <= RECENT) {
            for (bound, seconds) in Seconds::from(offset).each() {
                out.push(Series::gauge(&CLOCK_OFFSET, attributes.clone().with(Attribute::Bound, bound), seconds));
            }
        }
        if self.claimed {
            let refuted = if self.contradiction.is_some() { 1.0 } else { 0.0 };
            out.push(Series::gauge(&CLOCK_CLAIMS_REFUTED, attributes.clone(), refuted));
        }
    }
}
