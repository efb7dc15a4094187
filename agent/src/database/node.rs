//! One task per node: connects, finds out what the node is, watches its positions and its role, and runs the writer and the reader
//! that the role asks for, each on a connection of its own and with a back-off of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::backoff::random_seed;
use lagmesh_daemon::{Backoff, Shutdown};
use lagmesh_model::ids::SlotHash;
use lagmesh_model::position::Position;
use lagmesh_model::state::{NodeRole, NodeState};
use lagmesh_model::time::Reading;
use lagmesh_postgres::Connection;
use lagmesh_postgres::discover::{
    Catalogue, NodeFacts, WriterSample, is_subscriber, node_facts, slots_sample, standby_sample, subscriber_sample,
    traffic_sample, writer_sample,
};
use lagmesh_postgres::layout::READER_SESSION_SQL;
use tokio::time::{MissedTickBehavior, interval};

use crate::database::health::{Condition, Part};
use crate::database::site::Site;
use crate::database::trouble::Trouble;
use crate::database::{reader, writer};
use crate::measurement::NodeNews;
use crate::slot::SlotReach;

/// Reading the catalogue tries ten functions, beside the statement that is counted anyway.
const CATALOGUE_STATEMENTS: u64 = 10;
/// The first wait after a failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// The longest wait after a failure: a node that comes back is noticed within it.
const BACKOFF_CAP: Duration = Duration::from_secs(5);
/// The part of a wait that is left to chance, so that agents do not come back in step.
const BACKOFF_JITTER: f64 = 0.3;
/// How often positions are read at least, and at most.
const STATUS_INTERVAL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
/// Every so many looks at positions the facts are read again: a subscription or a grant may have come.
const FACTS_EVERY: u32 = 10;
/// Every so many looks at positions slots and traffic are read: they change slowly, and a server may have many slots.
const TRAFFIC_EVERY: u32 = 5;
/// The same at a standby, whose slots nobody's replication rests on as a rule.
const STANDBY_TRAFFIC_EVERY: u32 = 10;

/// Watches a node until shutdown.
pub(super) async fn run(site: Arc<Site>, shutdown: Shutdown) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        never = again_and_again(&site, Part::Status, || session(&site)) => match never {},
    }
}

/// Runs a part for ever: when it fails, says so, waits and starts it again.
async fn again_and_again<F: Future<Output = Trouble>>(site: &Site, part: Part, body: impl Fn() -> F) -> Infallible {
    let mut backoff =
        Backoff::try_new(BACKOFF_FIRST, BACKOFF_CAP, BACKOFF_JITTER, random_seed()).expect("the limits are constants in order");
    loop {
        site.report(part, Condition::Starting);
        let trouble = body().await;
        if site.is_fine(part) {
            backoff.reset();
        }
        site.report(part, Condition::Trouble(trouble));
        tokio::time::sleep(backoff.next()).await;
    }
}

/// One connection of the watcher, over all role changes, until something fails.
async fn session(site: &Site) -> Trouble {
    let trouble = Box::pin(watched(site)).await.err();
    // The other parts have connections of their own, but their work rests on facts that nobody watches now.
    site.clear(&[Part::Grants, Part::Writer, Part::Reader, Part::Path]);
    site.post_lost_slots(&BTreeSet::new());
    site.post_reaches(BTreeMap::new());
    site.tell_queries();
    trouble.unwrap_or_else(|| Trouble::new(NodeState::Unknown, "the watcher ended"))
}

async fn watched(site: &Site) -> Result<Infallible, Trouble> {
    let connection = site.connect(READER_SESSION_SQL).await?;
    // What is read through a pooler is of some server that it chose: said beside it, and read all the same.
    site.report(Part::Path, site.path(&connection).await?);
    loop {
        let catalogue = site.query(&connection, "read the catalogue", Catalogue::discover(connection.client())).await?;
        site.count(CATALOGUE_STATEMENTS);
        for (function, why) in catalogue.skipped() {
            tracing::debug!(node = %site.node, function, why, "the server does not offer");
        }
        let (facts, role) = facts(site, &connection, &catalogue).await?;
        tracing::info!(node = %site.node, %role, version = facts.version, timeline = ?facts.timeline, "role");
        site.clear(&[Part::Writer, Part::Reader]);
        site.post_reaches(BTreeMap::new());
        tokio::select! {
            ended = until_role_changes(site, &connection, &catalogue, &facts, role) => ended?,
            never = beats(site, &facts, role) => match never {},
            never = reads(site, role) => match never {},
        }
    }
}

/// Writes beats if the role takes writes.
async fn beats(site: &Site, facts: &NodeFacts, role: NodeRole) -> Infallible {
    if role == NodeRole::Standby {
        return pending().await;
    }
    let Some(system) = facts.system else {
        let why = "the server hides its system identifier, without which positions cannot be told apart: GRANT EXECUTE ON FUNCTION pg_control_system() to the role";
        site.report(Part::Writer, Condition::Trouble(Trouble::new(NodeState::MissingGrant, why)));
        return pending().await;
    };
    again_and_again(site, Part::Writer, || writer::run(site, system)).await
}

/// Reads beats if the role follows other nodes.
async fn reads(site: &Site, role: NodeRole) -> Infallible {
    if role == NodeRole::Writer {
        return pending().await;
    }
    again_and_again(site, Part::Reader, || reader::run(site)).await
}

/// Reads what the node is, and tells it.
async fn facts(site: &Site, connection: &Connection, catalogue: &Catalogue) -> Result<(NodeFacts, NodeRole), Trouble> {
    let facts = site.query(connection, "read what the server is", node_facts(connection.client(), catalogue)).await?;
    let role = if facts.in_recovery {
        NodeRole::Standby
    } else if site.query(connection, "look for subscriptions", is_subscriber(connection.client())).await? {
        NodeRole::Subscriber
    } else {
        NodeRole::Writer
    };
    site.tell(NodeNews::Facts { facts: facts.clone(), role });
    site.report(Part::Grants, grants(&facts));
    Ok((facts, role))
}

/// What the role may not see is reported as that, never as nothing there.
fn grants(facts: &NodeFacts) -> Condition {
    if facts.reads_statistics {
        return Condition::Fine;
    }
    let why = format!(
        "role {} cannot see the statistics of other sessions, so the receiver is hidden: GRANT pg_monitor TO {}",
        facts.role, facts.role
    );
    Condition::Trouble(Trouble::new(NodeState::MissingGrant, why))
}

/// Tells positions again and again; ends when the role is another one.
async fn until_role_changes(
    site: &Site,
    connection: &Connection,
    catalogue: &Catalogue,
    found: &NodeFacts,
    role: NodeRole,
) -> Result<(), Trouble> {
    let mut ticks = interval(site.interval.clamp(STATUS_INTERVAL.0, STATUS_INTERVAL.1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let traffic_every = if role == NodeRole::Standby { STANDBY_TRAFFIC_EVERY } else { TRAFFIC_EVERY };
    for look in 1_u32.. {
        ticks.tick().await;
        let client = connection.client();
        let began = site.clock().now();
        let in_recovery = if role == NodeRole::Standby {
            let sample = site.query(connection, "read positions", standby_sample(client, catalogue)).await?;
            let in_recovery = sample.in_recovery;
            site.tell(NodeNews::Standby { sample, began });
            in_recovery
        } else {
            let sample = site.query(connection, "read positions", writer_sample(client, catalogue)).await?;
            let in_recovery = sample.in_recovery;
            site.post_reaches(reaches(&sample, found, began, site.clock().now()));
            site.tell(NodeNews::Writer { sample, began });
            in_recovery
        };
        if role == NodeRole::Subscriber {
            let sample = site.query(connection, "look at subscriptions", subscriber_sample(client, catalogue)).await?;
            site.tell(NodeNews::Subscriber(sample));
        }
        if look % traffic_every == 1 {
            look_around(site, connection, catalogue).await?;
        }
        site.report(Part::Status, Condition::Fine);
        site.tell_queries();
        let changed = in_recovery != (role == NodeRole::Standby);
        if changed || (look % FACTS_EVERY == 0 && facts(site, connection, catalogue).await?.1 != role) {
            return Ok(());
        }
    }
    Ok(())
}

/// How far the logical slots of a writer are confirmed, as peers are told: nothing of a log, or of a time, that is not known.
fn reaches(sample: &WriterSample, facts: &NodeFacts, began: Reading, ended: Reading) -> BTreeMap<SlotHash, SlotReach> {
    let (Some(system), Some(timeline), true) = (facts.system, facts.timeline, began.epoch == ended.epoch) else {
        return BTreeMap::new();
    };
    let reach =
        |lsn| SlotReach { epoch: began.epoch, began: began.raw, ended: ended.raw, confirmed: Position { system, timeline, lsn } };
    sample.confirmed.iter().map(|(slot, lsn)| (SlotHash::of(slot), reach(*lsn))).collect()
}

/// Tells what else the node says of itself.
async fn look_around(site: &Site, connection: &Connection, catalogue: &Catalogue) -> Result<(), Trouble> {
    let client = connection.client();
    if let Some(slots) = site.offered(connection, "read replication slots", slots_sample(client, catalogue)).await? {
        site.post_lost_slots(&slots.lost().collect());
        site.tell(NodeNews::Slots(slots));
    }
    if let Some(traffic) = site.offered(connection, "read statistics of databases", traffic_sample(client, catalogue)).await? {
        site.tell(NodeNews::Traffic(traffic));
    }
    Ok(())
}
