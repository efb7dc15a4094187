//! Reads the beats of other nodes as they become visible at one node.

use std::convert::Infallible;

use lagmesh_model::time::Epoch;
use lagmesh_postgres::layout::{self, Need, READER_SESSION_SQL};
use lagmesh_postgres::{Connection, QueryError};
use tokio_postgres::error::SqlState;

use crate::database::health::{Condition, Part};
use crate::database::site::Site;
use crate::database::trouble::Trouble;
use crate::database::watch::Watch;
use crate::measurement::{Confirmation, NodeNews, Sighting};
use crate::wall::WallClock;

/// Reads until something fails.
pub(super) async fn run(site: &Site) -> Trouble {
    let Err(trouble) = reading(site).await;
    site.post(|outbox| outbox.confirmations.retain(|(_, node), _| *node != site.node));
    trouble
}

async fn reading(site: &Site) -> Result<Infallible, Trouble> {
    let connection = prepare(site).await?;
    let mut alarm = Site::alarm()?;
    let mut watch = Watch::new(site.node.clone(), site.members(), site.interval);
    loop {
        let now = site.clock().now();
        site.sleep_until(&mut alarm, watch.next_poll(now)).await?;
        poll(site, &connection, &mut watch).await?;
    }
}

async fn prepare(site: &Site) -> Result<Connection, Trouble> {
    let connection = site.connect(READER_SESSION_SQL).await?;
    let finding =
        site.query(&connection, "look at the heartbeat table", layout::discover(connection.client(), Need::Read)).await?;
    if finding.is_ready() { Ok(connection) } else { Err(Trouble::layout(&finding)) }
}

async fn poll(site: &Site, connection: &Connection, watch: &mut Watch) -> Result<(), Trouble> {
    watch.members(site.members());
    let marks = watch.marks();
    let started = site.clock().now();
    let beats = match site.bounded(connection, layout::read_newer(connection.client(), &marks)).await {
        Ok(beats) => beats,
        Err(error) if is_passing(&error) => {
            tracing::debug!(node = %site.node, error = %error, "poll was cut short");
            tokio::time::sleep(site.interval / 4).await;
            return Ok(());
        }
        Err(error) => return Err(Trouble::query("read beats", &error)),
    };
    let ended = site.clock().now();
    if beats.unreadable > 0 {
        tracing::debug!(node = %site.node, rows = beats.unreadable, "rows of another layout");
    }
    let own_wall = if beats.rows.is_empty() { None } else { WallClock::of(&site.clock().bracket(), site.clock().claim()) };
    let sightings: Vec<Sighting> =
        watch.on_poll(started, ended, beats.rows).into_iter().map(|sighting| Sighting { own_wall, ..sighting }).collect();
    site.report(Part::Reader, Condition::Fine);
    confirm(site, ended.epoch, &sightings);
    site.tell_of(ended, NodeNews::Polled { started: started.raw, ended: ended.raw });
    for sighting in sightings {
        site.tell_of(ended, NodeNews::Sighting(sighting));
    }
    Ok(())
}

/// Tells the writers' agents over the mesh, at once.
fn confirm(site: &Site, epoch: Epoch, sightings: &[Sighting]) {
    let confirmations: Vec<Confirmation> = sightings
        .iter()
        .filter_map(|sighting| {
            let (id, node, present) = (sighting.row.id.clone(), site.node.clone(), sighting.present);
            sighting.absent.map(|absent| Confirmation { id, node, epoch, absent, present })
        })
        .collect();
    if confirmations.is_empty() {
        return;
    }
    site.post(|outbox| {
        for confirmation in confirmations {
            outbox.confirmations.insert((confirmation.id.origin.clone(), site.node.clone()), confirmation);
        }
    });
}

/// Recovery cancels a read that is in its way; the next one may well pass.
fn is_passing(error: &QueryError) -> bool {
    error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE)
}
