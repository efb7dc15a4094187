//! Carrying out a scenario: build the world, let things happen, watch what lagmesh says, compare it with what was true.

mod act;
pub mod judge;
mod needs;
pub mod report;
pub mod sample;
mod truth;
mod watch;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::real::Real;
use crate::scenario::{Fault, Scenario};
use crate::wan::NotPossible;
use crate::world::{Options, World};
use report::{Event, Report, Verdict};
use truth::Truth;
use watch::Watch;

/// How late something may happen [s]: expectations count from when it should have.
const LATE_S_MAX: f64 = 1.0;

/// Runs a scenario to its end; `say` hears what is being done.
///
/// # Errors
/// If the testbed itself is broken. What the world did not do as expected is a failed report, what this machine cannot do one that says
/// "not run".
pub async fn run(scenario: &Scenario, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let mut report = Report::new(scenario);
    if let Some(why) = needs::missing(scenario) {
        report.verdict = Verdict::NotRun { why };
        return Ok(report);
    }
    let options = Options { emulated: true, http_port: 0, agent_env: &[] };
    let mut world = match World::start(scenario.plan.clone(), &options, say).await {
        Ok(world) => world,
        Err(error) if is_not_possible(&error) => {
            report.verdict = Verdict::NotRun { why: format!("{error:#}") };
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let begun = Real::now();
    let result = watched(scenario, &mut world, &mut report, say).await;
    if let Some(wan) = world.wan() {
        report.believe(&wan.quality(), begun, Real::now());
    }
    if result.is_err() || report.verdict == Verdict::Fail {
        say(&format!("logs stay in {}", world.folder().display()));
        world.keep_folder();
    }
    // Whoever was killed on purpose does not end well; what matters has been judged.
    world.stop().await.ok();
    result.map(|()| report)
}

/// Whether a scenario could not run because this machine or account lacks something.
fn is_not_possible(error: &anyhow::Error) -> bool {
    NotPossible::is_cause_of(error)
}

async fn watched(scenario: &Scenario, world: &mut World, report: &mut Report, say: &mut dyn FnMut(&str)) -> Result<()> {
    say("waiting until every link and every lag is known");
    if let Err(error) = world.ready_within(scenario.ready_within).await {
        report.fail("ready", &format!("{error:#}"), &format!("everything known within {:?}", scenario.ready_within));
        return Ok(());
    }
    let truth = Truth::start(world, scenario).context("start the observers")?;
    let watch = Watch::start(world, scenario)?;
    let start = Real::now();
    say(&format!("watching for {:?}", scenario.run));
    let told = happen(&scenario.faults, world, start, report, say).await;
    sleep_until(start + scenario.run_ns()).await;
    let seen = watch.stop().await;
    let truth = truth.stop(world).await?;
    report.quality = truth.quality();
    report.judge(scenario, seen, &truth, start);
    if let Err(error) = told {
        report.fail("faults", &format!("{error:#}"), "everything that was to happen");
    }
    for fallen in world.fallen() {
        report.fail("programs", &fallen, "every program runs that nobody has ended");
    }
    Ok(())
}

/// Lets everything happen at its time.
async fn happen(faults: &[Fault], world: &mut World, start: Real, report: &mut Report, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut acts = act::Acts::default();
    for fault in faults {
        sleep_until(start + i64::try_from(fault.at_ns)?).await;
        let what = act::describe(fault);
        let at_s = (Real::now() - start) as f64 / 1e9;
        say(&format!("{at_s:.1} s: {what}"));
        ensure!(
            at_s - fault.at_ns as f64 / 1e9 <= LATE_S_MAX,
            "{what} came late, at {at_s:.1} s: what came before took too long"
        );
        let done = acts.carry_out(fault, world).await.with_context(|| what.clone());
        let took_s = (Real::now() - start) as f64 / 1e9 - at_s;
        report.events.push(Event { at_s, took_s, what });
        done?;
    }
    Ok(())
}

async fn sleep_until(at: Real) {
    if let Ok(left_ns) = u64::try_from(at - Real::now()) {
        tokio::time::sleep(Duration::from_nanos(left_ns)).await;
    }
}
