//! How soon an outage of six hours is made up for.
//!
//! Forty agents come back at once. As agents do, each first sends what is new, then what it kept, so many times as fast as it was made.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::bench::figure::Figure;
use crate::bench::{progress, say_figures};
use crate::feed::{CollectorBed, Content, Feed, Posted, client, fleet_text, post, values_shown};
use crate::files::RunFolder;
use crate::real::Real;

const AGENTS: usize = 40;
const PEERS: usize = 10;
const OUTAGE: Duration = Duration::from_secs(6 * 3600);
const INTERVAL: Duration = Duration::from_secs(5);
/// How many times as fast as it was made an agent sends what it kept: `BACKFILL_SPEED` of `agent/src/send/lanes.rs`.
const SPEED: u32 = 48;
const BUCKETS: u32 = 20;
const TARGET_S: f64 = 600.0;

struct Drained {
    /// When its backlog was gone, from the start [s].
    after_s: f64,
    /// The longest that a new batch waited for its acknowledgement [s].
    freshest_s: f64,
    values: u64,
    batches: u64,
}

/// Measures for about `time`: an outage as long as can be drained in that time, at the rate at which six hours would be.
pub(super) async fn measure(time: Duration) -> Result<()> {
    let outage = OUTAGE.min(time * SPEED);
    let kept = u64::try_from(outage.as_nanos() / INTERVAL.as_nanos())?;
    progress(&format!("{AGENTS} agents with {kept} batches each, {} min of outage", outage.as_secs() / 60));
    let folder = RunFolder::new("bench-pipeline")?;
    let bed = CollectorBed::start(folder.path(), &fleet_text(AGENTS, PEERS)).await?;
    // Made before anything is measured: it takes all processors for a while.
    let returning = (0..AGENTS).map(|number| Returning::new(number, kept)).collect::<Result<Vec<_>>>()?;
    let (started, mut draining) = (Real::now(), JoinSet::new());
    for agent in returning {
        let url = bed.otlp_url();
        draining.spawn(async move { agent.drain(&url, started).await });
    }
    let (mut last_s, mut stalest_s, mut values, mut batches) = (0.0_f64, 0.0_f64, 0, 0);
    while let Some(drained) = draining.join_next().await {
        let drained = drained??;
        last_s = last_s.max(drained.after_s);
        stalest_s = stalest_s.max(drained.freshest_s);
        values += drained.values;
        batches += drained.batches;
    }
    let shown = values_shown(&bed.get("metrics").await?)?;
    ensure!(shown == values, "the collector shows {shown} of {values} values");
    let six_hours_s = last_s * OUTAGE.as_secs_f64() / outage.as_secs_f64();
    let how = format!(
        "pipeline.backlog_s: {AGENTS} agents come back at once after {} min of outage with {kept} batches of {} series each; live batches first, \
         then the backlog {SPEED} times as fast as it was made. All {batches} batches were acknowledged after {last_s:.1} s, and the collector \
         shows all {values} values; six hours take {:.1} times as long at this rate, which is what is told. pipeline.live_s: the longest that a new \
         batch waited meanwhile from being made to being acknowledged",
        outage.as_secs() / 60,
        PEERS * 10,
        OUTAGE.as_secs_f64() / outage.as_secs_f64()
    );
    let figures = [
        Figure::new("pipeline.backlog_s", "s", six_hours_s, TARGET_S),
        Figure::new("pipeline.live_s", "s", stalest_s, INTERVAL.as_secs_f64()),
    ];
    say_figures(&how, &figures);
    Ok(())
}

/// An agent with what it kept.
struct Returning {
    feed: Feed,
    old: Vec<Vec<u8>>,
}

impl Returning {
    fn new(number: usize, kept: u64) -> Result<Returning> {
        let peers = (0..=PEERS).filter(|peer| *peer != number).take(PEERS);
        let mut feed = Feed::new(number, 1, peers, Content { gauges: true, buckets: BUCKETS })?;
        let old = (0..kept).map(|_| feed.next_body()).collect::<Result<_>>()?;
        Ok(Returning { feed, old })
    }

    async fn drain(self, url: &str, started: Real) -> Result<Drained> {
        let Returning { mut feed, old } = self;
        let (client, pause) = (client()?, INTERVAL / SPEED);
        let (mut freshest_s, mut batches, mut live_due) = (0.0_f64, 0, started);
        let send = async |body: Vec<u8>| loop {
            match post(&client, url, body.clone()).await {
                Posted::Acknowledged => return anyhow::Ok(()),
                Posted::Later => sleep(INTERVAL / 10).await,
                Posted::Refused(status) => anyhow::bail!("a batch was refused with {status}"),
            }
        };
        for body in old {
            if Real::now() - live_due >= 0 {
                let made = Real::now();
                send(feed.next_body()?).await?;
                freshest_s = freshest_s.max((Real::now() - made) as f64 / 1e9);
                live_due = made + i64::try_from(INTERVAL.as_nanos())?;
                batches += 1;
            }
            let began = Real::now();
            send(body).await?;
            batches += 1;
            let passed = Duration::from_nanos((Real::now() - began).max(0).cast_unsigned());
            sleep(pause.saturating_sub(passed)).await;
        }
        Ok(Drained { after_s: (Real::now() - started) as f64 / 1e9, freshest_s, values: feed.values(), batches })
    }
}
