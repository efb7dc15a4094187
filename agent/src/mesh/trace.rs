//! The route of a flow, asked for hop by hop when the flow dies or its path changes. Pure.
//!
//! Probes with a small hop limit leave from the flow's own port, so they take the path that its probes take (the idea of Paris
//! traceroute); the router at which the limit runs out says so by ICMP. Of such an error only the port is certain to come back (RFC 792
//! asks for no more than 8 octets of UDP), so one probe is out at a time and the next leaves when it is settled.

use std::net::IpAddr;
use std::time::Duration;

use lagmesh_model::state::RouteCause;
use lagmesh_model::time::{RawNanos, nanos};

use crate::measurement::{Hop, Route};

/// The largest hop limit that is tried.
pub const HOPS_MAX: u8 = 30;
/// A peer is traced at most so often.
pub const SPACING: Duration = Duration::from_secs(60);
/// How long a router may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// After so many hops in a row that say nothing the rest is not asked for: a path that is broken, or hides.
const SILENT_MAX: usize = 6;

/// The routes of one peer, one at a time.
#[derive(Debug, Default)]
pub struct Tracer {
    running: Option<Running>,
    started: Option<RawNanos>,
    /// What is asked for once it is time: the newest wish.
    wish: Option<(usize, RouteCause)>,
}

#[derive(Debug)]
struct Running {
    route: Route,
    /// When the probe that is out was sent.
    out: Option<RawNanos>,
}

impl Tracer {
    /// Wishes for the route of a flow. While another is being found, or too soon after it, the wish waits; a newer one replaces it.
    pub fn wish(&mut self, flow: usize, cause: RouteCause) {
        self.wish = Some((flow, cause));
    }

    /// When it has something to do next; `None` if nothing is to be done.
    pub fn next_due(&self) -> Option<RawNanos> {
        match (&self.running, self.wish) {
            (Some(Running { out: Some(sent), .. }), _) => Some(sent.after(PATIENCE)),
            (Some(Running { route, out: None }), _) => Some(route.at),
            (None, Some(_)) => Some(self.started.map_or(RawNanos(0), |started| started.after(SPACING))),
            (None, None) => None,
        }
    }

    /// Time passes: the flow and the hop limit of the probe that is to leave now.
    pub fn on_tick(&mut self, now: RawNanos) -> Option<(usize, u8)> {
        if let Some(Running { out: Some(sent), .. }) = &self.running
            && now.since_ns(*sent) > nanos(PATIENCE).cast_signed()
        {
            self.settle(Hop { from: None, rtt_ns: None });
        }
        if self.running.is_none() && self.next_due().is_some_and(|due| due <= now) {
            let (flow, cause) = self.wish.take()?;
            self.started = Some(now);
            let route = Route { flow, cause, at: now, hops: Vec::new(), reached: false };
            self.running = Some(Running { route, out: None });
        }
        let Running { route, out } = self.running.as_mut().filter(|running| running.out.is_none() && !is_done(&running.route))?;
        *out = Some(now);
        Some((route.flow, next_limit(route)))
    }

    /// A router said that the hop limit ran out there.
    pub fn on_expired(&mut self, flow: usize, from: IpAddr, now: RawNanos) {
        if let Some(sent) = self.out_of(flow) {
            self.settle(Hop { from: Some(from), rtt_ns: round_trip(sent, now) });
        }
    }

    /// The peer answered the probe that had this hop limit, or its host said that nobody listens there.
    pub fn on_reached(&mut self, flow: usize, from: IpAddr, limit: u8, now: RawNanos) {
        let Some(sent) = self.out_of(flow) else { return };
        let Some(running) = &mut self.running else { return };
        // A peer that is slower than our patience answers a probe of before: its place is known all the same.
        if limit < next_limit(&running.route) {
            running.route.hops.truncate(usize::from(limit.saturating_sub(1)));
        }
        running.route.reached = true;
        self.settle(Hop { from: Some(from), rtt_ns: round_trip(sent, now) });
    }

    /// The probe could not leave: what is known so far is the route.
    pub fn on_not_sent(&mut self) {
        if let Some(running) = &mut self.running {
            let missing = SILENT_MAX.saturating_sub(silent_at_end(&running.route));
            running.route.hops.extend(std::iter::repeat_n(Hop { from: None, rtt_ns: None }, missing));
            running.out = None;
        }
    }

    /// The route, once it is found.
    pub fn found(&mut self) -> Option<Route> {
        let running = self.running.take_if(|running| running.out.is_none() && is_done(&running.route))?;
        let mut route = running.route;
        route.hops.truncate(route.hops.len() - silent_at_end(&route));
        Some(route)
    }

    /// Our own clock began a new epoch: stamps of before mean nothing now.
    pub fn on_new_epoch(&mut self) {
        *self = Tracer { wish: self.wish, ..Tracer::default() };
    }

    fn out_of(&self, flow: usize) -> Option<RawNanos> {
        self.running.as_ref().filter(|running| running.route.flow == flow)?.out
    }

    fn settle(&mut self, hop: Hop) {
        if let Some(running) = &mut self.running {
            running.route.hops.push(hop);
            running.out = None;
        }
    }
}

fn next_limit(route: &Route) -> u8 {
    u8::try_from(route.hops.len() + 1).unwrap_or(HOPS_MAX)
}

fn silent_at_end(route: &Route) -> usize {
    route.hops.iter().rev().take_while(|hop| hop.from.is_none()).count()
}

fn is_done(route: &Route) -> bool {
    route.reached || route.hops.len() >= usize::from(HOPS_MAX) || silent_at_end(route) >= SILENT_MAX
}

fn round_trip(sent: RawNanos, now: RawNanos) -> Option<u64> {
    now.checked_since(sent).map(nanos)
}

#[cfg(test)]
mod tests;
