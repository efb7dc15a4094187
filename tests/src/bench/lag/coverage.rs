//! Whether intervals hold the truth, how wide they are, and how many statements that takes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::bed::{Bed, EACH_BEAT, Measured};
use super::cases::{Case, Setting, WRITER, hard};
use super::stats::{deviation, frontier, mean, rank};
use super::told::{Pair, Pairs};
use crate::bench::figure::Figure;
use crate::bench::{progress, say, say_figures};
use crate::clocks::HostClock;
use crate::world::World;

/// The share of intervals that are to hold the truth.
const COVERAGE: f64 = 0.9999;
/// How much wider than by the formulas intervals may be.
const WIDTH_RATIO: f64 = 1.2;
/// How many statements a beat may cost.
const QUERIES: f64 = 6.0;
/// How much wider than the frontier the interval of visibility may be.
const FRONTIER_RATIO: f64 = 2.0;
/// How many beats a share of 0.9999 needs to be told from one of 0.9998 or so.
const BEATS_WANTED: usize = 30_000;
/// From step to step of the wall clocks, and by how much.
const STEP_EVERY: Duration = Duration::from_millis(2_500);
const STEP_NS: i64 = 600_000_000_000;

/// What all cases came to.
#[derive(Debug, Default)]
pub(super) struct Pool {
    beats: usize,
    missed: usize,
    untold: usize,
    widths: f64,
    formulas: f64,
}

/// Each of the hard worlds for so long.
pub(super) async fn measure(time: Duration, pool: &mut Pool) -> Result<()> {
    say(
        "\nlag.coverage/…, lag.width_ratio/…, lag.queries_per_beat/…: a writer that beats every 50 ms and two standbys in regions of their own, each read by four agents; \
         every agent logs the interval of each beat. The truth is that of the observer: from the return of the commit on the wire to the first query at the standby that saw the beat. \
         It is a window itself: an interval that has no point in common with it misses. Beats whose window is wider than 0.5 ms do not count.",
    );
    for setting in hard() {
        progress(&format!("{} for {} s", setting.plan().name, time.as_secs()));
        let mut bed = Bed::start(setting.plan(), EACH_BEAT).await?;
        let steps = setting.cases.iter().find(|case| case.steps).map(|case| clocks(&bed.world, case));
        let (measured, _) = bed
            .watch(&setting, time, async {
                match steps {
                    Some(clocks) => step(&clocks, time).await,
                    None => Ok(()),
                }
            })
            .await?;
        for (case, measured) in setting.cases.iter().zip(&measured) {
            tell(&setting, case, measured, false, pool);
        }
        say(&bed.stop().await?);
    }
    Ok(())
}

fn clocks(world: &World, case: &Case) -> Vec<Arc<HostClock>> {
    [case.name, WRITER].into_iter().filter_map(|region| world.clock(region).cloned()).collect()
}

/// Steps the clocks in turn, each to and fro.
async fn step(clocks: &[Arc<HostClock>], time: Duration) -> Result<()> {
    let steps = (time.as_millis() / STEP_EVERY.as_millis()).saturating_sub(1);
    let each_clock = (0..usize::try_from(steps)?).flat_map(|round| clocks.iter().map(move |clock| (round, clock)));
    for (round, clock) in each_clock.take(usize::try_from(steps)?) {
        sleep(STEP_EVERY).await;
        clock.step_wall(if round.is_multiple_of(2) { STEP_NS } else { -STEP_NS })?;
    }
    Ok(())
}

/// Prints what a case came to, and adds it to the pool.
pub(super) fn tell(setting: &Setting, case: &Case, measured: &Measured, with_frontier: bool, pool: &mut Pool) {
    let (pairs, floor_ns) = (&measured.pairs, setting.floor_ns(case));
    say(&format!("\n{}: {}", case.name, about(setting, case, measured)));
    for pair in pairs.exact.iter().filter(|pair| !pair.covers()).take(10) {
        say(&format!("{}: missed: {}", case.name, miss(pair)));
    }
    let Some(widths) = mean(&pairs.values(|pair| pair.width_ns() as f64)) else {
        say(&format!("{}: not measured: no beat has an exact truth", case.name));
        return;
    };
    let formula =
        |pair: &Pair| (pair.told.poll_gap_ns + pair.told.commit_ns + best_theta_ns(measured, floor_ns).unwrap_or(0)) as f64;
    let of_case = |figure: Figure| Figure { case: Some(case.name.to_owned()), ..figure };
    let mut figures = Vec::new();
    let covered = 1.0 - pairs.missed() as f64 / pairs.exact.len() as f64;
    figures.push(of_case(Figure::new("lag.coverage", "fraction", covered, COVERAGE)));
    let formulas = mean(&pairs.values(formula)).filter(|_| best_theta_ns(measured, floor_ns).is_some());
    if let Some(formulas) = formulas {
        figures.push(of_case(Figure::new("lag.width_ratio", "ratio", widths / formulas, WIDTH_RATIO)));
        pool.widths += widths * pairs.exact.len() as f64;
        pool.formulas += formulas * pairs.exact.len() as f64;
    }
    if let Some(queries) = measured.queries_per_beat {
        figures.push(of_case(Figure::new("lag.queries_per_beat", "count", queries, QUERIES)));
    }
    if let Some(ratio) = frontier_ratio(pairs).filter(|_| with_frontier) {
        figures.push(of_case(Figure::new("lag.frontier_ratio", "ratio", ratio, FRONTIER_RATIO)));
    }
    for figure in &figures {
        say(&figure.to_string());
    }
    pool.beats += pairs.exact.len();
    pool.missed += pairs.missed();
    pool.untold += pairs.untold;
}

/// Prints what all cases together came to.
pub(super) fn tell_pool(pool: &Pool) {
    if pool.beats == 0 {
        return;
    }
    let few = if pool.beats < BEATS_WANTED {
        format!("; fewer than the {BEATS_WANTED} beats that this share asks for, so it says little")
    } else {
        String::new()
    };
    let how = format!(
        "lag.coverage, lag.width_ratio: all cases together: {} beats with an exact truth, {} missed; {} beats of which a reader told nothing{few}. Width: mean of all intervals over the mean of poll gap \
         + commit time + the least width of theta, which is the fastest round trip of a probe between the two less what light needs both ways (0 without coordinates)",
        pool.beats, pool.missed, pool.untold
    );
    let covered = Figure::new("lag.coverage", "fraction", 1.0 - pool.missed as f64 / pool.beats as f64, COVERAGE);
    let mut figures = vec![covered];
    if pool.formulas > 0.0 {
        figures.push(Figure::new("lag.width_ratio", "ratio", pool.widths / pool.formulas, WIDTH_RATIO));
    }
    say_figures(&how, &figures);
}

/// How the mean poll gap compares with the best that so many polls could do.
fn frontier_ratio(pairs: &Pairs) -> Option<f64> {
    let (gaps, poll_ns) = (mean(&pairs.values(gap_ns))?, mean(&pairs.values(|pair| pair.told.poll_ns as f64))?);
    Some(gaps / frontier(deviation(&true_ns(pairs))?, polls(pairs)?, poll_ns)?)
}

/// How many polls a beat took on average.
fn polls(pairs: &Pairs) -> Option<f64> {
    let counted: Vec<f64> = pairs.exact.iter().filter_map(|pair| pair.told.polls).map(f64::from).collect();
    mean(&counted)
}

fn gap_ns(pair: &Pair) -> f64 {
    pair.told.poll_gap_ns as f64
}

/// The true lag of each beat, once however many readers saw it: the readers of a standby see the same beats, so their share in mean and
/// spread is equal.
pub(super) fn true_ns(pairs: &Pairs) -> Vec<f64> {
    pairs.values(Pair::true_ns)
}

/// How narrow theta can be by the fastest exchange [ns].
fn best_theta_ns(measured: &Measured, floor_ns: i64) -> Option<i64> {
    measured.fastest_ns.map(|fastest_ns| (fastest_ns - 2 * floor_ns).max(0))
}

fn about(setting: &Setting, case: &Case, measured: &Measured) -> String {
    let pairs = &measured.pairs;
    let ms = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |ns| format!("{:.3}", ns / 1e6));
    let of = |of: fn(&Pair) -> f64| ms(mean(&pairs.values(of)));
    let count = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |count| format!("{count:.2}"));
    let truth = true_ns(pairs);
    format!(
        "{}. {} beats with an exact truth ({} with a vague one, {} that the observer had not seen, {} that a reader did not tell of), {} missed. True lag {} ms, standard deviation {} ms, known within {} ms. \
         Means: interval {} ms wide; poll gap {}, commit {}, theta {} (by the fastest exchange {}); a poll took {} ms, and a beat {} of them. Statements to the standby for each beat and reader, with those \
         for positions and facts (four a second at most): {}",
        case.about,
        pairs.exact.len(),
        pairs.vague,
        pairs.unseen,
        pairs.untold,
        pairs.missed(),
        ms(rank(&truth, 0.5)),
        ms(deviation(&truth)),
        of(|pair| (pair.truth.upper_ns - pair.truth.lower_ns) as f64),
        of(|pair| pair.width_ns() as f64),
        of(gap_ns),
        of(|pair| pair.told.commit_ns as f64),
        of(|pair| pair.told.theta_width_ns as f64),
        ms(best_theta_ns(measured, setting.floor_ns(case)).map(|ns| ns as f64)),
        of(|pair| pair.told.poll_ns as f64),
        count(polls(pairs)),
        count(measured.queries_per_beat),
    )
}

fn miss(pair: &Pair) -> String {
    let ms = |ns: i64| ns as f64 / 1e6;
    format!(
        "{:.3} to {:.3} ms was told, {:.3} to {:.3} ms is true (poll gap {:.3}, commit {:.3}, theta {:.3})",
        ms(pair.told.lower_ns),
        ms(pair.told.upper_ns),
        ms(pair.truth.lower_ns),
        ms(pair.truth.upper_ns),
        ms(pair.told.poll_gap_ns),
        ms(pair.told.commit_ns),
        ms(pair.told.theta_width_ns)
    )
}
