//! What the surveys of a link have found: the longest packet towards each agent, and the newest route. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use lagmesh_model::catalogue::{Attribute, LINK_MTU, LINK_ROUTES};
use lagmesh_model::ids::AgentName;
use lagmesh_model::known::Known;
use lagmesh_model::series::{Attributes, Series};
use lagmesh_model::state::RouteCause;
use lagmesh_model::status;
use lagmesh_model::time::RawNanos;

use crate::link::window::age_of;
use crate::measurement::{FlowId, PathMtu, Route};

/// A longest packet that was found so long ago is stale: three searches have come to nothing since.
const MTU_CURRENT: Duration = Duration::from_secs(900);

/// The findings of one link.
#[derive(Debug, Default)]
pub(super) struct Surveyed {
    mtus: BTreeMap<AgentName, PathMtu>,
    route: Option<(FlowId, Route)>,
    /// Routes that were found, by what they were asked for.
    routes: BTreeMap<RouteCause, u64>,
}

impl Surveyed {
    /// The longest packet to an agent was found.
    pub(super) fn record_mtu(&mut self, agent: AgentName, mtu: PathMtu) {
        self.mtus.insert(agent, mtu);
    }

    /// A route was found.
    pub(super) fn record_route(&mut self, flow: FlowId, route: Route) {
        *self.routes.entry(route.cause).or_default() += 1;
        self.route = Some((flow, route));
    }

    /// Forgets what is known of the agents that do not stay.
    pub(super) fn retain(&mut self, stays: impl Fn(&AgentName) -> bool) {
        self.mtus.retain(|agent, _| stays(agent));
        self.route = self.route.take().filter(|(flow, _)| stays(&flow.agent));
    }

    /// Stamps of another epoch of our clock mean nothing.
    pub(super) fn new_epoch(&mut self) {
        self.mtus.clear();
        self.route = None;
    }

    /// The longest packet that reaches every agent of the peer, of those to which it is known.
    pub(super) fn mtu_bytes(&self, now: RawNanos) -> Known<u64> {
        let oldest = self.mtus.values().map(|mtu| age_of(mtu.at, now)).max();
        let Some((oldest, value)) = oldest.zip(self.mtus.values().map(|mtu| u64::from(mtu.length)).min()) else {
            return Known::unknown("no search for the longest packet has come to an end yet");
        };
        if oldest <= MTU_CURRENT { Known::known(value) } else { Known::Stale { value, age_s: oldest.as_secs_f64() } }
    }

    /// The newest route.
    pub(super) fn route(&self, now: RawNanos) -> Option<status::Route> {
        let (flow, route) = self.route.as_ref()?;
        let hop =
            |hop: &crate::measurement::Hop| status::Hop { from: hop.from, rtt_s: hop.rtt_ns.map(|rtt_ns| rtt_ns as f64 / 1e9) };
        Some(status::Route {
            agent: flow.agent.clone(),
            flow: flow.index,
            cause: route.cause,
            age_s: age_of(route.at, now).as_secs_f64(),
            hops: route.hops.iter().map(hop).collect(),
            reached: route.reached,
        })
    }

    /// What to export.
    pub(super) fn series(&self, attributes: &Attributes, now: RawNanos, out: &mut Vec<Series>) {
        if let Some(bytes) = self.mtu_bytes(now).current() {
            out.push(Series::gauge(&LINK_MTU, attributes.clone(), *bytes as f64));
        }
        for (cause, count) in &self.routes {
            out.push(Series::counter(&LINK_ROUTES, attributes.clone().with(Attribute::Cause, cause), *count));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::measurement::Hop;

    fn at(s: u64) -> RawNanos {
        RawNanos(1_000_000_000_000 + s * 1_000_000_000)
    }

    /// A link is as narrow as the narrowest way to one of its agents, and what was found long ago is stale.
    #[test]
    fn mtu_of_a_link() {
        let mut surveyed = Surveyed::default();
        assert!(!surveyed.mtu_bytes(at(0)).is_known());
        for (agent, length, found_s) in [("tokyo-a", 1500, 100), ("tokyo-b", 1400, 0)] {
            surveyed.record_mtu(agent.parse().unwrap(), PathMtu { length, at: at(found_s) });
        }
        assert_eq!(surveyed.mtu_bytes(at(900)), Known::known(1400));
        assert_eq!(surveyed.mtu_bytes(at(901)), Known::Stale { value: 1400, age_s: 901.0 });
        let mut series = Vec::new();
        surveyed.series(&Attributes::new(), at(901), &mut series);
        assert_eq!(series.len(), 0, "a stale gauge has no series");
    }

    /// The newest route is kept, all are counted, and hops that said nothing stay in their places.
    #[test]
    fn newest_route() {
        let mut surveyed = Surveyed::default();
        let flow = FlowId { peer: "tokyo".parse().unwrap(), agent: "tokyo-a".parse().unwrap(), index: 3 };
        let router: IpAddr = "10.0.0.1".parse().unwrap();
        for cause in [RouteCause::Changed, RouteCause::Dead] {
            let hops = vec![Hop { from: None, rtt_ns: None }, Hop { from: Some(router), rtt_ns: Some(1_500_000) }];
            surveyed.record_route(flow.clone(), Route { flow: 3, cause, at: at(0), hops, reached: false });
        }
        let route = surveyed.route(at(10)).unwrap();
        assert_eq!((route.cause, route.flow, route.age_s, route.reached), (RouteCause::Dead, 3, 10.0, false));
        assert_eq!(route.hops[1], status::Hop { from: Some(router), rtt_s: Some(0.0015) });
        assert_eq!(route.hops[0].from, None);
        let mut series = Vec::new();
        surveyed.series(&Attributes::new(), at(10), &mut series);
        assert_eq!(series.len(), 2);
        surveyed.new_epoch();
        assert!(surveyed.route(at(10)).is_none());
    }
}
