//! Gathers the evidence about one link and says what it comes to.

use std::time::Duration;

use lagmesh_model::beat::least_spacing;
use lagmesh_model::ids::{NodeName, SlotHash};
use lagmesh_model::known::Known;
use lagmesh_model::position::Position;
use lagmesh_model::state::{Basis, NodeRole, NodeState};
use lagmesh_model::status::{self, LogReach, Reach, Seconds};
use lagmesh_model::time::{RawNanos, Reading};

use crate::measurement::{LOST_SLOT_HELD, PeerView};
use crate::replication::decide::{self, Evidence, Writer, decide};
use crate::replication::lag::SincePoll;
use crate::replication::node::{Look, NodeTrack};
use crate::replication::reach::Log;
use crate::replication::told::{Told, ToldBeat};
use crate::replication::track::{Track, age};
use crate::replication::{Cluster, Link, Replications};

impl Replications {
    /// The state of a link and everything that `/v1/status` says of it.
    pub(super) fn link_status(&mut self, link: &Link, now: Reading, view: &PeerView) -> status::Replication {
        let cluster = self.cluster_of(link);
        let (node, track) = (&self.nodes[&link.node], &self.tracks[link]);
        let evidence = self.evidence(link, cluster, now, view);
        let (state, why) = decide(&evidence);
        let told = self.told.get(&link.origin);
        let unplanned = cluster.unplanned.contains(&link.origin);
        let log = Log { told, node, confirmed: self.confirmed(link, now, view), cluster, now: now.raw };
        let since = SincePoll {
            told: told.and_then(Told::newest).map(|beat| &beat.announcement),
            spacing: least_spacing(cluster.interval),
            stands_still_at: node.poll_began().filter(|began| state.stands_still() && track.lag.arrived() < Some(*began)),
        };
        let staleness = track.lag.staleness(now, &since);
        let status = status::Replication {
            cluster: cluster.name.clone(),
            origin: link.origin.clone(),
            region: self.region.clone(),
            node: link.node.clone(),
            state,
            why,
            lag: because(unplanned, last_lag(track, cluster, now.raw)),
            lag_beat: Known::from_option(track.lag.last_beat(), "no beat with a known lag has been seen yet"),
            lag_recent: Known::from_option(track.lag.recent(now.raw), "no beat with a known lag in the last minute"),
            basis: staleness.ok().or(track.lag.last()).map_or(Basis::Mesh, |(_, basis)| basis),
            staleness: because(
                unplanned,
                match staleness {
                    Ok((staleness, _)) => Known::known(Seconds::from(staleness)),
                    Err(why) => Known::unknown(why),
                },
            ),
            log: if unplanned { LogReach::from_each(|_| Reach::unknown(decide::UNPLANNED)) } else { log.reach() },
            loss: because(unplanned, log.loss()),
            catch_up_s: because(unplanned, log.catch_up_s(state)),
            evidence_age_s: match node.poll_began() {
                Some(began) => Known::known(age(now.raw, began).as_secs_f64()),
                None => Known::unknown("the node has not been read yet"),
            },
        };
        if let Some(track) = self.tracks.get_mut(link) {
            track.state = state;
        }
        status
    }

    fn cluster_of(&self, link: &Link) -> &Cluster {
        self.clusters.values().find(|cluster| cluster.holds(&link.node)).expect("links are made from the members of clusters")
    }

    fn evidence(&self, link: &Link, cluster: &Cluster, now: Reading, view: &PeerView) -> Evidence {
        let (node, track) = (&self.nodes[&link.node], &self.tracks[link]);
        let unseen = track.oldest_unseen_position();
        let standby = node.looks(now.raw).map(|(look, before)| decide::Standby {
            received_unseen: unseen.and_then(|unseen| is_received(look, node, unseen, cluster.interval)),
            ..look.standby(before, node.has_conflicts(now.raw))
        });
        Evidence {
            interval: cluster.interval,
            lag_enter: self.lag_thresholds.lag_enter,
            lag_exit: self.lag_thresholds.lag_exit,
            previous: track.state,
            node_trouble: node.trouble(now.raw),
            watched: track.watched(now.raw),
            poll_age: node.poll_age(now.raw),
            writer: self.writer(link, cluster, now, view),
            arrived_age: track.lag.arrived().map(|at| age(now.raw, at)),
            unseen: track.unseen(now.raw),
            lag: track.lag.last().filter(|_| track.lag.last_age(now.raw).is_some_and(|age| age <= cluster.current_for())),
            lag_falling: track.lag.is_falling(),
            other_log: self.told.get(&link.origin).and_then(Told::newest).and_then(|beat| other_log(node, beat, now.raw)),
            standby,
            subscriber: node.subscriber(now.raw),
            lost_slot: self.lost_slot(link, cluster, now.raw, view),
        }
    }

    /// A slot that the node uses and that a server of its cluster has given up, in words. A subscriber asks the origin; which server a
    /// standby asks is not known here: a name that two servers have, one of them without a use for it, can only mislead where replication
    /// stands anyway.
    fn lost_slot(&self, link: &Link, cluster: &Cluster, now: RawNanos, view: &PeerView) -> Option<String> {
        let node = &self.nodes[&link.node];
        let may_be_asked = |server: &&NodeName| node.role() != Some(NodeRole::Subscriber) || **server == link.origin;
        node.slots_used(now).find_map(|name| {
            let slot = SlotHash::of(name);
            let says = |server: &NodeName| {
                if let Some(own) = self.nodes.get(server) {
                    own.around.lost_slots(now).any(|lost| lost == slot)
                } else {
                    let heard = view.lost_slots.get(&(server.clone(), slot));
                    heard.is_some_and(|at| age(now, *at) <= LOST_SLOT_HELD)
                }
            };
            let server = cluster.members.keys().filter(may_be_asked).find(|server| says(server))?;
            Some(format!("{server} says that slot {name}, through which this node gets its log, is lost"))
        })
    }

    fn writer(&self, link: &Link, cluster: &Cluster, now: Reading, view: &PeerView) -> Writer {
        let newest = self.told.get(&link.origin).and_then(Told::newest);
        Writer {
            heard_age: self.heard_age(link, cluster, newest, now, view),
            beat_age: newest.map(|beat| age(now.raw, beat.at)),
            unplanned: cluster.unplanned.contains(&link.origin),
        }
    }

    /// Since the agent that beats on the origin was last heard; before it is known which one that is, any that could.
    fn heard_age(
        &self,
        link: &Link,
        cluster: &Cluster,
        newest: Option<&ToldBeat>,
        now: Reading,
        view: &PeerView,
    ) -> Option<Duration> {
        if let Some(origin) = self.nodes.get(&link.origin) {
            // Our own node: we hear ourselves, unless another agent of the region beats there.
            return (origin.state() != NodeState::StandingBy).then_some(Duration::ZERO);
        }
        let heard = |agent| view.heard.get(agent).map(|at| age(now.raw, *at));
        match newest.and_then(|beat| beat.from.as_ref()) {
            Some(agent) => heard(agent),
            None => cluster.members.get(&link.origin)?.iter().filter_map(heard).min(),
        }
    }
}

/// Whether the log of an unseen beat was received when we last looked: the beat's own commit lies behind its position. Too early a
/// look says nothing.
fn is_received(look: &Look, node: &NodeTrack, (position, told_at): (Position, RawNanos), interval: Duration) -> Option<bool> {
    let ahead = look.received(node.system())?.bytes_ahead_of(&position)?;
    let settled = look.at.checked_since(told_at).is_some_and(|since| since >= interval / 2);
    (ahead > 0 || settled).then_some(ahead > 0)
}

/// How the log that a standby follows differs from the one that the writer writes.
fn other_log(node: &NodeTrack, beat: &ToldBeat, now: RawNanos) -> Option<String> {
    let (look, _) = node.looks(now)?;
    let written = beat.announcement.position;
    if let Some(system) = node.system().filter(|system| *system != written.system) {
        return Some(format!("the node belongs to system {system}, the writer to system {}", written.system));
    }
    let timeline = look.timeline().filter(|timeline| *timeline != written.timeline)?;
    Some(format!("the node follows timeline {timeline}, the writer writes timeline {}", written.timeline))
}

/// A value that is unknown where the plan of the mesh lets nobody measure it is unknown for that reason.
fn because<T>(unplanned: bool, value: Known<T>) -> Known<T> {
    match value {
        Known::Unknown { .. } if unplanned => Known::unknown(decide::UNPLANNED),
        value => value,
    }
}

/// The lag of the newest beat whose lag is known. Beats that go on to arrive do not keep an old one current.
fn last_lag(track: &Track, cluster: &Cluster, now: RawNanos) -> Known<Seconds> {
    let (Some((lag, _)), Some(age)) = (track.lag.last(), track.lag.last_age(now)) else {
        return Known::unknown("no beat with a known lag has been seen yet");
    };
    let value = Seconds::from(lag);
    if age <= cluster.current_for() { Known::known(value) } else { Known::Stale { value, age_s: age.as_secs_f64() } }
}
