//! How far the estimate is from the truth where replication varies, beside the usual queries.

use std::time::Duration;

use anyhow::{Result, bail};

use super::bed::{Bed, EACH_BEAT, Measured};
use super::cases::{Case, WRITER_DB, varying};
use super::coverage::{self, Pool, true_ns};
use super::stats::{deviation, rank};
use super::told::Pair;
use super::usual_queries::{Asker, Errors, errors};
use crate::bench::figure::Figure;
use crate::bench::{progress, say};

/// How often the usual queries are asked: no divisor of the beats' interval, so that each answer meets another age.
const ASK_EVERY: Duration = Duration::from_millis(73);
/// How far off estimates may be [ms].
const TARGET_MS: f64 = 2.0;
/// Which share of the errors is to be smaller, by case.
const SHARES: [(&str, &str, f64); 2] = [("sd-1ms", "lag.error_p99", 0.99), ("sd-5ms", "lag.error_p90", 0.90)];

/// Both cases for so long.
pub(super) async fn measure(time: Duration, pool: &mut Pool) -> Result<()> {
    let setting = varying();
    progress(&format!("lag that varies, for {} s", time.as_secs()));
    let mut bed = Bed::start(setting.plan(), EACH_BEAT).await?;
    let [steady, loose] = &setting.cases[..] else { bail!("two cases are expected") };
    let ask = async |case: &Case| Asker::new(&bed.world, &case.node(), WRITER_DB).await;
    let (steady, loose) = (ask(steady).await?, ask(loose).await?);
    let mut samples = [Vec::new(), Vec::new()];
    let asking = async {
        let (steady, loose) = tokio::try_join!(steady.watch(ASK_EVERY, time), loose.watch(ASK_EVERY, time))?;
        samples = [steady, loose];
        Ok(())
    };
    let (measured, truth) = bed.watch(&setting, time, asking).await?;
    for ((case, measured), samples) in setting.cases.iter().zip(&measured).zip(&samples) {
        coverage::tell(&setting, case, measured, true, pool);
        tell(case, measured, &errors(samples, &case.node(), &truth));
    }
    say(&bed.stop().await?);
    Ok(())
}

fn tell(case: &Case, measured: &Measured, others: &Errors) {
    let Some((_, name, share)) = SHARES.into_iter().find(|(of, ..)| *of == case.name) else { return };
    let signed: Vec<f64> = measured.pairs.exact.iter().filter_map(Pair::claimed_error_ns).map(|ns| ns / 1e6).collect();
    let ours: Vec<f64> = signed.iter().map(|ms| ms.abs()).collect();
    let by_mesh: Vec<f64> = measured.pairs.values(Pair::error_ns).iter().map(|ns| (ns / 1e6).abs()).collect();
    let ms = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms:.3}"));
    say(&format!(
        "\n{name}: clocks are synchronised and claim so (basis = claims), and beats leave every 200 ms; the true lag varied with a standard deviation of {} ms over {} beats and readers. The size of estimate less truth (its middle), \
         of which {} of 100 are smaller; p50 {} ms, with its sign p10 {} ms, p50 {} ms, p90 {} ms. By the mesh alone, which cannot know what part of a round trip each way takes and finds \
         its shortest where the way there happened to be short: p50 {} ms, {} of 100 below {} ms. The others were asked every {} ms at the same time (the query of postgres_exporter at the standby: {} answers with a known truth; replay_lag at the writer: {}) \
         and are held against the true lag of the newest visible beat",
        ms(deviation(&true_ns(&measured.pairs)).map(|ns| ns / 1e6)),
        ours.len(),
        share * 100.0,
        ms(rank(&ours, 0.5)),
        ms(rank(&signed, 0.1)),
        ms(rank(&signed, 0.5)),
        ms(rank(&signed, 0.9)),
        ms(rank(&by_mesh, 0.5)),
        share * 100.0,
        ms(rank(&by_mesh, share)),
        ASK_EVERY.as_millis(),
        others.exporter_ms.len(),
        others.replay_lag_ms.len(),
    ));
    let Some(ours) = rank(&ours, share) else {
        say(&format!("{name}: not measured: no beat has an exact truth and an estimate by claims"));
        return;
    };
    let peers = [("postgres_exporter", &others.exporter_ms), ("pg_stat_replication", &others.replay_lag_ms)];
    for (peer, errors) in peers {
        let theirs = rank(errors, share);
        if theirs.is_none() {
            say(&format!("{name}: nothing of {peer} could be compared"));
        }
        let figure = Figure { peer: theirs.map(|theirs| (peer, theirs)), ..Figure::new(name, "ms", ours, TARGET_MS) };
        say(&figure.to_string());
    }
}
