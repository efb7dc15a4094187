//! Whether memory grows with beats.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::bed::Bed;
use super::cases::FAST;
use super::usual::{AWAY, HOME, HOME_DB, plan};
use crate::bench::figure::Figure;
use crate::bench::{progress, say, say_figures, usage};
use crate::world::World;

/// What is allotted once is allotted by then.
const SETTLE: Duration = Duration::from_secs(15);

pub(super) async fn measure(time: Duration) -> Result<()> {
    progress(&format!("memory over beats every {} ms, {} s", FAST.as_millis(), time.as_secs()));
    let mut bed = Bed::start(plan("bench-lag-memory", Some(FAST)), &[]).await?;
    sleep(SETTLE).await;
    let before = (look(&mut bed.world)?, beats(&bed.world).await?);
    sleep(time).await;
    let after = (look(&mut bed.world)?, beats(&bed.world).await?);
    let (mut grown, mut details) = (f64::NEG_INFINITY, Vec::new());
    for (number, region) in [HOME, AWAY].iter().enumerate() {
        let (then, now) = (before.0[number], after.0[number]);
        grown = grown.max(now - then);
        details.push(format!("{region}: {then:.2} to {now:.2} MiB"));
    }
    let how = format!(
        "lag.rss_growth: VmRSS of the two agents ({}) over {:.0} beats, one every {} ms (the highest rate of a fleet file), from {} s after everything was known; the larger difference. It is of these beats \
         and says nothing of more",
        details.join(", "),
        after.1 - before.1,
        FAST.as_millis(),
        SETTLE.as_secs()
    );
    say_figures(&how, &[Figure::new("lag.rss_growth", "MiB", grown, 0.0)]);
    say(&bed.stop().await?);
    Ok(())
}

fn look(world: &mut World) -> Result<[f64; 2]> {
    let mut rss_mib = [0.0; 2];
    for (place, region) in rss_mib.iter_mut().zip([HOME, AWAY]) {
        *place = usage::rss_mib(world.agent(region)?.pid())?;
    }
    Ok(rss_mib)
}

/// The number of the newest beat.
async fn beats(world: &World) -> Result<f64> {
    let server = world.servers().get(HOME_DB).with_context(|| format!("no server {HOME_DB}"))?;
    let newest = server.app("SELECT max(seq) FROM lagmesh.beat WHERE stream = 'beat'").await?.context("there is no beat")?;
    Ok(newest.parse()?)
}
