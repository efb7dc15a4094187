//! The clocks of a host: what its programs believe about time, with the truth known because it was set here.
//!
//! A time namespace, which somebody else enters, moves a host's monotonic, raw and boot clock by thousands of seconds. What is set here
//! comes on top, through a library that is preloaded into every program of the host: a wall clock that is off and may be stepped, and a
//! drift of all clocks. Every change takes hold at one moment that lies a little in the future when it is written, so that no program
//! sees it sooner or later than another and the truth knows the nanosecond. What the host *claims* about its clock (`adjtimex`, a
//! `ClockBound` segment) is set apart from what is true.

pub mod clockbound;
mod control;
mod library;
pub(crate) use library::compile;
pub mod machine;
pub mod scale;

#[cfg(test)]
mod tests;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::time::ClockId;

use crate::real::{Real, read_ns};
use clockbound::{ClockBound, Layout, Segment, Status};
use control::{ControlFile, State};
use scale::{Piece, Track, rate_ppb};

const NS_PER_S: i64 = 1_000_000_000;
/// A change is written so long before it takes hold: far longer than two writes take unless the machine stalls.
const LEAD_NS: i64 = 5_000_000;
/// How often the coarse clocks are asked, and how often at most, until they have seen a change: they move with the kernel's tick.
const COARSE_PAUSE: Duration = Duration::from_millis(1);
const COARSE_ATTEMPTS: u32 = 100;
/// How many changes a clock may see; a run makes dozens.
const CHANGES_MAX: usize = 10_000;
/// The name of the `ClockBound` segment in a host's folder.
pub const CLOCKBOUND_FILE: &str = "clockbound-shm";

/// What a host's clocks are at its start.
#[derive(Debug, Clone, PartialEq)]
pub struct ClockPlan {
    /// How far its wall clock is ahead of the machine's [ns].
    pub wall_offset_ns: i64,
    /// How much faster than the machine's all its clocks run [ppm], in [-100000, 100000].
    pub drift_ppm: f64,
    /// Whether the kernel stamps its packets with the machine's clock instead of its own: what no real host does, but every
    /// half-faked one.
    pub kernel_stamps_true: bool,
    /// What it says about its wall clock.
    pub claim: Claim,
}

/// What a host says about its wall clock, be it true or a lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whether the kernel says that an NTP daemon keeps the clock.
    pub synchronised: bool,
    /// The kernel's estimated and maximum error [ns], rounded up to microseconds when it is told.
    pub max_error_ns: u64,
    /// What a `ClockBound` daemon says, if one runs.
    pub clockbound: Option<ClockBound>,
}

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// The wall clock jumped by so much [ns].
    Step(i64),
    /// All clocks run so much faster than the machine's from now on [ppm].
    Drift(f64),
    /// The host says something else about its wall clock.
    Claim(Claim),
}

/// A change of a host's clocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// What was changed.
    pub what: What,
    /// When it took hold.
    pub at: Real,
    /// From when on every program has seen it. The same as `at`, unless the machine stalled while it was written: what a program read
    /// in between is not known.
    pub settled: Real,
}

/// The clocks of one host.
#[derive(Debug)]
pub struct HostClock {
    name: String,
    folder: PathBuf,
    library: PathBuf,
    namespace: Namespace,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    tracks: Tracks,
    rate_ppb: i64,
    kernel_stamps_true: bool,
    claim: Claim,
    control: ControlFile,
    segment: Option<Segment>,
    changes: Vec<Change>,
}

/// One after the other, as in the control file.
#[derive(Debug, Clone)]
struct Tracks {
    wall: Track,
    monotonic: Track,
    raw: Track,
    boot: Track,
}

/// How far the host's time namespace is ahead of the machine [ns].
#[derive(Debug, Clone, Copy)]
struct Namespace {
    monotonic: i64,
    boot: i64,
}

/// What the kernel shows the host's programs at one moment [ns].
#[derive(Debug, Clone, Copy)]
struct Kernel {
    wall: i64,
    monotonic: i64,
    raw: i64,
    boot: i64,
}

impl Default for ClockPlan {
    fn default() -> Self {
        ClockPlan { wall_offset_ns: 0, drift_ppm: 0.0, kernel_stamps_true: false, claim: Claim::default() }
    }
}

impl Default for Claim {
    /// What a kernel says whose clock nobody keeps.
    fn default() -> Self {
        Claim { synchronised: false, max_error_ns: 16_000_000_000, clockbound: None }
    }
}

impl HostClock {
    /// The clocks of host `name`, whose programs are started in a time namespace with the two offsets [s] (zero: in none). What they
    /// need lies in `folder`, which is made if it is missing; the folders above it must be open to every account.
    ///
    /// # Errors
    /// If the plan has values that no clock has, there is no C compiler, the folder cannot be written, or it has clocks already.
    pub fn new(
        folder: &Path,
        name: &str,
        plan: &ClockPlan,
        monotonic_offset_s: i64,
        boottime_offset_s: i64,
    ) -> Result<HostClock> {
        let rate_ppb = rate_ppb(plan.drift_ppm)?;
        check(&plan.claim)?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        fs::set_permissions(folder, Permissions::from_mode(0o755))
            .with_context(|| format!("open {} to all", folder.display()))?;
        let library = library::install(folder)?;
        machine::observe();
        let namespace = Namespace { monotonic: monotonic_offset_s * NS_PER_S, boot: boottime_offset_s * NS_PER_S };
        let tracks = Tracks::new(namespace.kernel(Real::now()), plan.wall_offset_ns, rate_ppb);
        let control = ControlFile::create(&folder.join("clock"), &state(&tracks, plan.kernel_stamps_true, &plan.claim))?;
        let clock = HostClock {
            name: name.to_owned(),
            folder: folder.to_owned(),
            library,
            namespace,
            inner: Mutex::new(Inner {
                tracks,
                rate_ppb,
                kernel_stamps_true: plan.kernel_stamps_true,
                claim: plan.claim,
                control,
                segment: None,
                changes: Vec::new(),
            }),
        };
        clock.refresh(Real::now())?;
        Ok(clock)
    }

    /// What a program of the host needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let library = ("LD_PRELOAD".to_owned(), self.library.display().to_string());
        let file = ("LAGMESH_CLOCK_FILE".to_owned(), self.folder.join("clock").display().to_string());
        let segment = ("LAGMESH_CLOCKBOUND".to_owned(), self.clockbound_path().display().to_string());
        vec![library, file, segment]
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its `ClockBound` segment is, if it has one.
    pub fn clockbound_path(&self) -> PathBuf {
        self.folder.join(CLOCKBOUND_FILE)
    }

    /// Steps the wall clock by `by_ns` [ns]. Returns once it has happened, some ten milliseconds later.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn step_wall(&self, by_ns: i64) -> Result<Change> {
        let mut inner = self.lock();
        let rate_ppb = inner.rate_ppb;
        self.turn(&mut inner, What::Step(by_ns), |tracks, kernel| Tracks {
            wall: tracks.wall.changed(kernel.wall, by_ns, rate_ppb),
            ..tracks.clone()
        })
    }

    /// Lets all clocks run `ppm` faster than the machine's [ppm]. Returns once it has happened, ten milliseconds later; nothing jumps.
    ///
    /// # Errors
    /// If no clock drifts so fast, or it cannot be written.
    pub fn set_drift(&self, ppm: f64) -> Result<Change> {
        let rate_ppb = rate_ppb(ppm)?;
        let mut inner = self.lock();
        let change = self.turn(&mut inner, What::Drift(ppm), |tracks, kernel| tracks.drifting(kernel, rate_ppb))?;
        inner.rate_ppb = rate_ppb;
        Ok(change)
    }

    /// Lets the host say something else about its wall clock, at once. Without a `ClockBound` part a segment that was there stays and
    /// ages, as when its daemon died.
    ///
    /// # Errors
    /// If the claim has no such layout, or it cannot be written.
    pub fn set_claim(&self, claim: Claim) -> Result<Change> {
        check(&claim)?;
        let mut inner = self.lock();
        ensure!(inner.changes.len() < CHANGES_MAX, "the clocks of {} were changed {CHANGES_MAX} times", self.name);
        let now = Real::now();
        let state = state(&inner.tracks, inner.kernel_stamps_true, &claim);
        inner.control.write(&state)?;
        inner.claim = claim;
        self.write_segment(&mut inner, now)?;
        Ok(inner.note(Change { what: What::Claim(claim), at: now, settled: Real::now() }))
    }

    /// Writes the `ClockBound` segment anew, as of `now`; does nothing if the host's claim has none. A daemon does so every second.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn refresh(&self, now: Real) -> Result<()> {
        self.write_segment(&mut self.lock(), now)
    }

    /// All changes since the start, oldest first.
    pub fn changes(&self) -> Vec<Change> {
        self.lock().changes.clone()
    }

    /// What the host's wall clock shows at a real moment [ns since 1970].
    pub fn wall_at(&self, at: Real) -> i64 {
        self.lock().tracks.wall.shown(self.namespace.kernel(at).wall)
    }

    /// What its `CLOCK_MONOTONIC` shows at a real moment [ns].
    pub fn monotonic_at(&self, at: Real) -> i64 {
        self.lock().tracks.monotonic.shown(self.namespace.kernel(at).monotonic)
    }

    /// What its `CLOCK_MONOTONIC_RAW` shows at a real moment [ns].
    pub fn raw_at(&self, at: Real) -> i64 {
        self.lock().tracks.raw.shown(self.namespace.kernel(at).raw)
    }

    /// What its `CLOCK_BOOTTIME` shows at a real moment [ns].
    pub fn boottime_at(&self, at: Real) -> i64 {
        self.lock().tracks.boot.shown(self.namespace.kernel(at).boot)
    }

    /// The real moment that a stamp of the host's wall clock means [ns since 1970]: the newest one, not after `not_after`, at which the
    /// clock showed it. None if it never did: the time that a step forwards leaves out, and the future.
    pub fn real_of_wall(&self, wall_ns: i64, not_after: Real) -> Option<Real> {
        let ahead_ns = machine::at(not_after).wall_ns;
        let real_ns = self.lock().tracks.wall.real(wall_ns, not_after.0 + ahead_ns)?;
        Some(Real(real_ns - ahead_ns))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whatever panicked left tracks and file as they were.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the clocks will be from a moment on that lies ahead, and waits until the last of them, the coarse ones, are there.
    fn turn(&self, inner: &mut Inner, what: What, turned: impl Fn(&Tracks, Kernel) -> Tracks) -> Result<Change> {
        ensure!(inner.changes.len() < CHANGES_MAX, "the clocks of {} were changed {CHANGES_MAX} times", self.name);
        machine::observe();
        let at = Real::now() + LEAD_NS;
        let tracks = turned(&inner.tracks, self.namespace.kernel(at));
        let state = state(&tracks, inner.kernel_stamps_true, &inner.claim);
        inner.control.write(&state)?;
        inner.tracks = tracks;
        let written = Real::now();
        std::thread::sleep(Duration::from_nanos(u64::try_from(at - written).unwrap_or(0)));
        let coarse = || Real(read_ns(ClockId::CLOCK_MONOTONIC_COARSE));
        (0..COARSE_ATTEMPTS).take_while(|_| coarse() < at).for_each(|_| std::thread::sleep(COARSE_PAUSE));
        Ok(inner.note(Change { what, at, settled: at.max(written) }))
    }

    fn write_segment(&self, inner: &mut Inner, now: Real) -> Result<()> {
        let Some(claim) = inner.claim.clockbound else { return Ok(()) };
        let mut segment = match inner.segment.take() {
            Some(segment) if segment.layout() == claim.layout => segment,
            _ => Segment::create(&self.clockbound_path(), claim.layout)?,
        };
        // A reader that looks at the coarse clock must not find a claim from the future.
        let coarse = Real(read_ns(ClockId::CLOCK_MONOTONIC_COARSE));
        let as_of_ns = inner.tracks.monotonic.shown(self.namespace.kernel(now.min(coarse)).monotonic);
        segment.write(&claim, as_of_ns)?;
        inner.segment = Some(segment);
        Ok(())
    }
}

impl Inner {
    fn note(&mut self, change: Change) -> Change {
        self.changes.push(change);
        change
    }
}

impl Tracks {
    fn new(kernel: Kernel, wall_offset_ns: i64, rate_ppb: i64) -> Tracks {
        let track = |anchor_ns, offset_ns| Track::new(Piece { anchor_ns, offset_ns, rate_ppb });
        Tracks {
            wall: track(kernel.wall, wall_offset_ns),
            monotonic: track(kernel.monotonic, 0),
            raw: track(kernel.raw, 0),
            boot: track(kernel.boot, 0),
        }
    }

    fn drifting(&self, from: Kernel, rate_ppb: i64) -> Tracks {
        Tracks {
            wall: self.wall.changed(from.wall, 0, rate_ppb),
            monotonic: self.monotonic.changed(from.monotonic, 0, rate_ppb),
            raw: self.raw.changed(from.raw, 0, rate_ppb),
            boot: self.boot.changed(from.boot, 0, rate_ppb),
        }
    }
}

impl Namespace {
    fn kernel(self, at: Real) -> Kernel {
        let machine = machine::at(at);
        Kernel {
            wall: at.0 + machine.wall_ns,
            monotonic: at.0 + self.monotonic,
            raw: at.0 + machine.raw_ns + self.monotonic,
            boot: at.0 + machine.boot_ns + self.boot,
        }
    }
}

fn state(tracks: &Tracks, kernel_stamps_true: bool, claim: &Claim) -> State {
    State {
        clocks: [&tracks.wall, &tracks.monotonic, &tracks.raw, &tracks.boot].map(Track::newest),
        kernel_stamps_true,
        synchronised: claim.synchronised,
        max_error_ns: claim.max_error_ns,
    }
}

fn check(claim: &Claim) -> Result<()> {
    let Some(clockbound) = &claim.clockbound else { return Ok(()) };
    let disruption = clockbound.disruption_marker.is_some() || clockbound.status == Status::Disrupted;
    ensure!(clockbound.layout == Layout::V2 || !disruption, "ClockBound's version 1 knows no disruptions");
    Ok(())
}

/// The true offset theta of two hosts at a real moment: how far the peer's measuring clock (`CLOCK_MONOTONIC_RAW`) is ahead of the own
/// one [ns].
pub fn offset_ns(own: &HostClock, peer: &HostClock, at: Real) -> i64 {
    peer.raw_at(at) - own.raw_at(at)
}

/// How far the peer's wall clock is truly ahead of the own one at a real moment [ns].
pub fn wall_offset_ns(own: &HostClock, peer: &HostClock, at: Real) -> i64 {
    peer.wall_at(at) - own.wall_at(at)
}
