//! What more agents cost: so many that each export a hundred series every few seconds.

use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::senders::{Counter, count, counted};
use crate::bench::figure::Figure;
use crate::bench::{progress, say_figures, usage};
use crate::feed::{CollectorBed, Content, Feed, acknowledged, client, fleet_text, post};
use crate::files::RunFolder;
use crate::real::Real;

/// How many agents.
const SIZES: [usize; 3] = [10, 100, 1000];
/// The links of each agent; a region that is no hub has as many.
const HUBS: usize = 10;
/// The export interval of a fleet file that says nothing.
const INTERVAL: Duration = Duration::from_secs(5);
const BUCKETS: u32 = 60;
/// A collector of a thousand agents has a core to itself [%].
const TARGET_PERCENT: f64 = 100.0;

pub(super) async fn measure(time: Duration) -> Result<()> {
    let time = (time / 3).max(INTERVAL * 2);
    let mut figures = Vec::new();
    for agents in SIZES {
        progress(&format!("{agents} agents for {} s", time.as_secs()));
        let cpu_percent = one(agents, time).await?;
        figures.push(Figure {
            case: Some(format!("{agents}-agents")),
            ..Figure::new("pipeline.growth", "%", cpu_percent, TARGET_PERCENT)
        });
    }
    let how = format!(
        "pipeline.growth: processor time of the collector, in percent of a core, while so many agents export {} series each every {} s over \
         connections of their own, for {} s; {HUBS} of the regions are hubs and have a link with every other one, all of them are judged",
        HUBS * 10,
        INTERVAL.as_secs(),
        time.as_secs()
    );
    say_figures(&how, &figures);
    Ok(())
}

async fn one(agents: usize, time: Duration) -> Result<f64> {
    let folder = RunFolder::new("bench-pipeline")?;
    let bed = CollectorBed::start(folder.path(), &fleet_text(agents.max(HUBS + 1), HUBS)).await?;
    let (sent, mut sending) = (Counter::default(), JoinSet::new());
    let started = Real::now();
    for number in 0..agents {
        let (client, url, sent) = (client()?, bed.otlp_url(), Counter::clone(&sent));
        let phase = INTERVAL.mul_f64(number as f64 / agents as f64);
        sending.spawn(async move {
            let peers = (0..=HUBS).filter(|peer| *peer != number).take(HUBS);
            let mut feed = Feed::new(number, 1, peers, Content { gauges: true, buckets: BUCKETS })?;
            sleep(phase).await;
            loop {
                let began = Real::now();
                acknowledged(post(&client, &url, feed.next_body()?).await)?;
                count(&sent);
                let passed = Duration::from_nanos((Real::now() - began).max(0).cast_unsigned());
                sleep(INTERVAL.saturating_sub(passed)).await;
            }
        });
    }
    // Everybody has exported once, so all names are known and everything is judged.
    let settled = async {
        sleep(INTERVAL * 2).await;
        let (began, before) = (Real::now(), usage::cpu_s(bed.pid()?)?);
        sleep(time).await;
        let wall_s = (Real::now() - began) as f64 / 1e9;
        anyhow::Ok((usage::cpu_s(bed.pid()?)? - before) * 100.0 / wall_s)
    };
    let cpu_percent: Result<f64> = tokio::select! {
        measured = settled => measured,
        Some(ended) = sending.join_next() => ended?,
    };
    let (seconds, bodies) = ((Real::now() - started) as f64 / 1e9, counted(&sent));
    progress(&format!("{agents} agents sent {bodies} batches in {seconds:.0} s"));
    cpu_percent
}
