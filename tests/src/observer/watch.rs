//! The thread that looks at one server, again and again, for beats that became visible.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::{Pid, gettid};

use super::cost::{Cost, Meter};
use super::session::{Session, look, number};
use super::truth::{BeatId, Window};
use super::underway::{Arrived, Underway};
use crate::real::Real;

/// How many beats are kept for each server; a day of one writer is 86,400.
const BEATS_MAX: usize = 500_000;

/// How many beats a look names as seen. A stream has eight rows; more than a few streams are written to at a time only after failovers,
/// and a row that is not named is merely sent again.
const NAMED_MAX: usize = 64;

/// How long nobody looks while nothing is on its way: short enough for what comes unheard.
const QUIET: Duration = Duration::from_millis(2);

/// How long to wait before another try to connect.
const RECONNECT: Duration = Duration::from_millis(20);

/// What to look at.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) socket: PathBuf,
    pub(super) database: String,
    pub(super) period_ns: i64,
    pub(super) underway: Arc<Underway>,
}

/// What a thread has seen so far.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// When each beat became visible; `None`: it was there at the first look.
    pub(super) beats: HashMap<BeatId, Option<Window>>,
    /// What it cost.
    pub(super) cost: Cost,
}

/// A thread's part that others read.
#[derive(Debug, Default)]
pub(super) struct Watch {
    sight: Mutex<Sight>,
    stop: AtomicBool,
}

impl Watch {
    pub(super) fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Looks until told to stop; connects anew whenever the connection is lost.
    pub(super) fn run(&self, target: &Target) {
        // The default slack of 50 us would be a part of every look; without the permission it stays.
        nix::sys::prctl::set_timerslack(1).ok();
        let own_first = goes_first(gettid());
        let mut memory = Memory::default();
        while self.goes_on() {
            if let Err(error) = self.session(target, own_first, &mut memory)
                && self.goes_on()
            {
                self.sight().cost.trouble = Some(format!("{error:#}"));
                std::thread::sleep(RECONNECT);
            }
        }
    }

    /// One connection's life.
    fn session(&self, target: &Target, own_first: bool, memory: &mut Memory) -> anyhow::Result<()> {
        let go_on = || self.goes_on();
        let mut session = Session::open(&target.socket, &target.database, &go_on)?;
        let server_first = goes_first(Pid::from_raw(session.pid));
        self.sight().cost.connected(own_first && server_first);
        let mut meter = Meter::start(session.pid);
        let mut question = look(&memory.named());
        let mut due = Real::now();
        while self.goes_on() {
            if target.underway.is_quiet(&memory.arrived) {
                target.underway.wait_while_quiet(&memory.arrived, QUIET);
                due = Real::now();
            } else {
                due = pause_until(due, target.period_ns);
            }
            let asked = Real::now();
            let found = match session.ask(&question, &go_on) {
                Ok(found) => found,
                Err(error) => {
                    meter.read(&mut self.sight().cost);
                    return Err(error);
                }
            };
            let answered = Real::now();
            if meter.count() {
                meter.read(&mut self.sight().cost);
            }
            if !found.is_empty() {
                // A beat that the look before did not find was not visible when that look was asked for.
                let window = memory.last_asked.map(|after| Window { after, by: answered });
                self.keep(&found, window);
                if window.is_some() {
                    target.underway.arrived(&found, &mut memory.arrived);
                }
                memory.name(&found);
                question = look(&memory.named());
            }
            memory.last_asked = Some(asked);
        }
        meter.read(&mut self.sight().cost);
        Ok(())
    }

    /// Keeps when beats became visible: only the first time counts.
    fn keep(&self, found: &[BeatId], window: Option<Window>) {
        let mut sight = self.sight();
        for beat in found {
            if sight.beats.len() < BEATS_MAX {
                sight.beats.entry(beat.clone()).or_insert(window);
            } else {
                sight.cost.not_kept += 1;
            }
        }
    }
}

/// What a thread remembers from look to look, and over a lost connection.
#[derive(Debug, Default)]
struct Memory {
    last_asked: Option<Real>,
    arrived: Arrived,
    seen: VecDeque<i64>,
}

impl Memory {
    fn name(&mut self, found: &[BeatId]) {
        self.seen.extend(found.iter().map(number));
        let surplus = self.seen.len().saturating_sub(NAMED_MAX);
        self.seen.drain(..surplus);
    }

    fn named(&self) -> Vec<i64> {
        self.seen.iter().copied().collect()
    }
}

/// Lets a thread run before all others (`SCHED_FIFO`) whenever it has something to do: on a busy machine a look would otherwise wait for
/// milliseconds. It uses a small part of a core. Returns whether we may.
pub(super) fn goes_first(thread: Pid) -> bool {
    let mut chrt = Command::new("chrt");
    chrt.args(["--fifo", "--pid", "1", &thread.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    chrt.status().is_ok_and(|status| status.success())
}

/// Waits for the next turn and returns when it was due. Turns that were missed are not made up for.
fn pause_until(last_due: Real, period_ns: i64) -> Real {
    let now = Real::now();
    let due = last_due + period_ns;
    if due - now > 0 {
        std::thread::sleep(Duration::from_nanos((due - now).unsigned_abs()));
        due
    } else {
        now
    }
}
