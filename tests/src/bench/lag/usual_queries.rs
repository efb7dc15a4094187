//! What the usual queries of others say, and how far that is from the truth.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::stats::rank;
use crate::observer::truth::Truth;
use crate::postgres::DATABASE;
use crate::real::Real;
use crate::world::World;

/// What `postgres_exporter` asks a standby for its lag [s].
const EXPORTER_SQL: &str = "SELECT (CASE WHEN NOT pg_is_in_recovery() THEN 0 WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 \
                            ELSE GREATEST(0, EXTRACT(EPOCH FROM (now() - pg_last_xact_replay_timestamp()))) END)::float8";
/// What `pg_stat_replication` of the server that it streams from says of a standby [s].
const REPLAY_LAG_SQL: &str =
    "SELECT EXTRACT(EPOCH FROM (SELECT replay_lag FROM pg_stat_replication WHERE application_name = $1 LIMIT 1))::float8";

/// Both at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// When, in the middle of the question.
    pub(super) at: Real,
    /// What the exporter's query said [s].
    pub(super) exporter_s: f64,
    /// `replay_lag` [s]; `None`: it was null, or the standby was not in the view.
    pub(super) replay_lag_s: Option<f64>,
}

/// Asks about one standby.
pub(super) struct Asker {
    standby: Client,
    source: Client,
    node: String,
}

/// The sizes of the errors of both [ms].
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Errors {
    pub(super) exporter_ms: Vec<f64>,
    pub(super) replay_lag_ms: Vec<f64>,
}

impl Asker {
    /// Connects to a standby and to the server that it streams from, over their local sockets.
    ///
    /// # Errors
    /// If one does not answer.
    pub(super) async fn new(world: &World, node: &str, source: &str) -> Result<Asker> {
        let server = |name: &str| world.servers().get(name).with_context(|| format!("no server {name}"));
        Ok(Asker {
            standby: server(node)?.connect(DATABASE).await?,
            source: server(source)?.connect(DATABASE).await?,
            node: node.to_owned(),
        })
    }

    /// Asks both.
    ///
    /// # Errors
    /// If one refuses.
    pub(super) async fn ask(&self) -> Result<Sample> {
        let before = Real::now();
        let exporter_s = self.standby.query_one(EXPORTER_SQL, &[]).await?.try_get(0)?;
        let after = Real::now();
        let replay_lag_s = self.source.query_one(REPLAY_LAG_SQL, &[&self.node]).await?.try_get(0)?;
        Ok(Sample { at: before + (after - before) / 2, exporter_s, replay_lag_s })
    }

    /// Asks every so often until the time is over.
    ///
    /// # Errors
    /// If one refuses.
    pub(super) async fn watch(&self, every: Duration, time: Duration) -> Result<Vec<Sample>> {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = Real::now() + i64::try_from(time.as_nanos())?;
        let mut samples = Vec::new();
        while Real::now() < end {
            ticks.tick().await;
            samples.push(self.ask().await?);
        }
        Ok(samples)
    }
}

/// How far each sample is from the lag of the newest beat that was visible then. Pure. Moments at which a beat was just arriving, or whose
/// beat is not known exactly, do not count.
pub(super) fn errors(samples: &[Sample], node: &str, truth: &Truth) -> Errors {
    let mut beats: Vec<_> = truth
        .beats
        .iter()
        .filter_map(|beat| Some((*beat.visible.get(node)?, beat.lag(node)?, truth.is_lag_exact(beat, node))))
        .collect();
    beats.sort_unstable_by_key(|(visible, ..)| visible.by);
    let mut errors = Errors::default();
    for sample in samples {
        let next = beats.partition_point(|(visible, ..)| visible.by <= sample.at);
        let is_arriving = beats.get(next).is_some_and(|(visible, ..)| visible.after < sample.at);
        let Some((_, lag, true)) = next.checked_sub(1).and_then(|newest| beats.get(newest)).filter(|_| !is_arriving) else {
            continue;
        };
        let true_ms = lag.lower_ns.midpoint(lag.upper_ns) as f64 / 1e6;
        errors.exporter_ms.push((sample.exporter_s * 1e3 - true_ms).abs());
        errors.replay_lag_ms.extend(sample.replay_lag_s.map(|lag_s| (lag_s * 1e3 - true_ms).abs()));
    }
    errors
}

/// What samples said at most, in words. Pure.
pub(super) fn words(samples: &[Sample]) -> String {
    let largest = |values: &[f64]| rank(values, 1.0).map_or_else(|| "nothing".to_owned(), |most| format!("{most:.3} s at most"));
    let exporter: Vec<f64> = samples.iter().map(|sample| sample.exporter_s).collect();
    let zeros = exporter.iter().filter(|said| **said <= 0.0).count();
    let replay: Vec<f64> = samples.iter().filter_map(|sample| sample.replay_lag_s).collect();
    format!(
        "the exporter's query said {} (0 in {zeros} of {} answers), replay_lag {}, null in {} answers",
        largest(&exporter),
        samples.len(),
        largest(&replay),
        samples.len() - replay.len()
    )
}

#[cfg(test)]
mod tests {
    use super::super::told::tests::beat;
    use super::*;

    /// A sample is held against the newest beat that was visible for certain; one that falls into an arrival, comes before the first, or
    /// meets a beat that is not known well judges nobody.
    #[test]
    fn nearest_beats() {
        const MS: i64 = 1_000_000;
        let at = |n: i64, lag: i64, width: i64| {
            beat(n, (n * 1000 * MS, n * 1000 * MS), ((n * 1000 + lag) * MS, (n * 1000 + lag + width) * MS))
        };
        let truth = Truth { resolution_ns: 2 * MS, beats: vec![at(1, 40, 2), at(2, 50, 9), at(3, 40, 2)] };
        let sample = |at_ms: i64, exporter_s, replay_lag_s| Sample { at: Real(at_ms * MS), exporter_s, replay_lag_s };
        let samples = [
            sample(1_000, 9.0, None),
            sample(1_041, 9.0, None),
            sample(1_500, 0.0, Some(0.061)),
            sample(2_500, 9.0, None),
            sample(3_500, 0.5, None),
        ];
        let errors = errors(&samples, "r", &truth);
        let near = |found: &[f64], wanted: &[f64]| {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6)
        };
        assert!(near(&errors.exporter_ms, &[41.0, 459.0]) && near(&errors.replay_lag_ms, &[20.0]), "{errors:?}");
    }

    /// Null is told as null, never as zero.
    #[test]
    fn in_words() {
        let sample = |exporter_s, replay_lag_s| Sample { at: Real(0), exporter_s, replay_lag_s };
        let said = words(&[sample(0.0, None), sample(0.0, Some(0.04)), sample(0.5, None)]);
        assert_eq!(
            said,
            "the exporter's query said 0.500 s at most (0 in 2 of 3 answers), replay_lag 0.040 s at most, null in 2 answers"
        );
    }
}
