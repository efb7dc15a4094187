//! Reads again and again what the daemons say, and keeps the values that somebody expects something of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use lagmesh_model::time::WallNanos;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::sample::{Basis, Lists, Sample, Value, of_agent, of_fleet, of_metrics};
use crate::clocks::HostClock;
use crate::real::{Real, wall_minus_real_ns};
use crate::scenario::{Observer, Quantity, SAMPLES_MAX, Scenario};
use crate::world::World;
use crate::world::client::Client;

/// What was said longer ago than this was said by a clock that stepped meanwhile [ns].
const SAID_NS_MAX: i64 = 10_000_000_000;

/// The values of each quantity as each observer told them, in the order of time.
pub(super) type Seen = BTreeMap<(Observer, Quantity), Vec<Sample>>;

/// Watches until it is stopped.
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    tasks: JoinSet<()>,
}

impl Watch {
    /// Starts one reader for each observer of the scenario.
    ///
    /// # Errors
    /// If an observer is nobody.
    pub(super) fn start(world: &World, scenario: &Scenario) -> Result<Watch> {
        let mut wanted: BTreeMap<Observer, BTreeSet<Quantity>> = BTreeMap::new();
        for expectation in &scenario.expectations {
            wanted.entry(expectation.seen_by.clone()).or_default().insert(expectation.quantity.clone());
        }
        let seen = Arc::new(Mutex::new(Seen::new()));
        let mut tasks = JoinSet::new();
        for (observer, quantities) in wanted {
            let (client, clock) = match &observer {
                Observer::Agent(name) => {
                    let region = world.plan().region_of_agent(name).with_context(|| format!("no agent {name}"))?;
                    (world.agent_client(name)?, world.clock(&region.name).cloned())
                }
                Observer::Collector(name) => (world.collector_client(name)?, None),
            };
            let reader = Reader { observer, quantities, client, clock, seen: Arc::clone(&seen) };
            tasks.spawn(reader.run(scenario.sample_every));
        }
        Ok(Watch { seen, tasks })
    }

    /// Ends, and hands over what was seen.
    pub(super) async fn stop(mut self) -> Seen {
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Reader {
    observer: Observer,
    quantities: BTreeSet<Quantity>,
    client: Client,
    /// That of its host, if it is not the machine's.
    clock: Option<Arc<HostClock>>,
    seen: Arc<Mutex<Seen>>,
}

impl Reader {
    async fn run(self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let said = self.read().await;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for (quantity, sample) in said {
                let series = seen.entry((self.observer.clone(), quantity)).or_default();
                if series.len() < SAMPLES_MAX {
                    series.push(sample);
                }
            }
        }
    }

    /// One value of each quantity. A daemon that does not answer tells nothing, which is a value too.
    async fn read(&self) -> Vec<(Quantity, Sample)> {
        let mut said = Vec::new();
        let metrics = self.quantities.iter().any(|quantity| matches!(quantity, Quantity::Metric { .. }));
        if metrics {
            let page = self.client.get("metrics").await;
            let at = Real::now();
            self.tell(&mut said, at, true, |quantity| match (quantity, &page) {
                (Quantity::Metric { name, labels }, Ok(page)) => (of_metrics(page, name, labels), Basis::default()),
                (_, Err(error)) => (silent(quantity, error), Basis::default()),
                (_, Ok(_)) => (Value::Unknown("no metric".to_owned()), Basis::default()),
            });
        }
        match &self.observer {
            Observer::Agent(_) => {
                let status = self.client.agent_status().await;
                let at = self.said_at(status.as_ref().ok().map(|status| status.at));
                self.tell(&mut said, at, false, |quantity| match &status {
                    Ok(status) => (of_agent(status, quantity), Lists::from(status).basis(quantity)),
                    Err(error) => (silent(quantity, error), Basis::default()),
                });
            }
            Observer::Collector(_) => {
                let status = self.client.fleet_status().await;
                let at = self.said_at(status.as_ref().ok().map(|status| status.at));
                self.tell(&mut said, at, false, |quantity| match &status {
                    Ok(status) => (of_fleet(status, quantity), Basis::default()),
                    Err(error) => (silent(quantity, error), Basis::default()),
                });
            }
        }
        said
    }

    /// When something was said: a daemon looks at its state a few times a second, and says by its wall clock when that was.
    fn said_at(&self, label: Option<WallNanos>) -> Real {
        let now = Real::now();
        let Some(label_ns) = label.and_then(|label| i64::try_from(label.0).ok()) else { return now };
        let said = match &self.clock {
            Some(clock) => clock.real_of_wall(label_ns, now),
            None => Some(Real(label_ns - wall_minus_real_ns())),
        };
        said.filter(|said| *said <= now && now - *said < SAID_NS_MAX).unwrap_or(now)
    }

    fn tell(&self, said: &mut Vec<(Quantity, Sample)>, at: Real, metrics: bool, value: impl Fn(&Quantity) -> (Value, Basis)) {
        for quantity in self.quantities.iter().filter(|quantity| matches!(quantity, Quantity::Metric { .. }) == metrics) {
            let (value, basis) = value(quantity);
            said.push((quantity.clone(), Sample { at, value, basis, truth: None }));
        }
    }
}

fn is_unreachable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some_and(|error| error.is_connect() || error.is_timeout())
}

fn silent(quantity: &Quantity, error: &anyhow::Error) -> Value {
    match quantity {
        // A wrong answer is one; only who cannot be reached does not run.
        Quantity::Agent { value, .. } if value == "runs" && is_unreachable(error) => Value::State("no".to_owned()),
        _ => Value::Silent(format!("{error:#}")),
    }
}
