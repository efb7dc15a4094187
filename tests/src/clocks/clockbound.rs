//! What a host claims about its wall clock in the way of AWS `ClockBound`: a segment of shared memory, a file of the documented layout
//! (its "Shared Memory Protocol", versions 1 and 2; numbers in the byte order of the machine).
//!
//! | bytes | version 1 (72) | version 2 (80) |
//! |---|---|---|
//! | 0..8 | magic | magic |
//! | 8..12, 12..14, 14..16 | size, version, generation | size, version, generation |
//! | 16..32 | as of: seconds, nanoseconds | as of |
//! | 32..48 | void after: seconds, nanoseconds | void after |
//! | 48..56 | bound [ns] | bound [ns] |
//! | 56.. | drift [ppb] 4, reserved 4, status 4, padding 4 | disruption marker 8, drift [ppb] 4, status 4, support 1, padding 7 |

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::library::replace;

/// Two words, in which the version of the protocol family is not that of the layout.
const MAGIC: [u32; 2] = [0x414D_5A4E, 0x4342_0200];
const GENERATION_AT: u64 = 14;
const BODY_AT: u64 = 16;
const NS_PER_S: i64 = 1_000_000_000;

/// Which layout the segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `ClockBound` 1: by default found at `/var/run/clockbound/shm`.
    V1,
    /// `ClockBound` 2: by default found at `/var/run/clockbound/shm0`.
    V2,
}

/// What the daemon says of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing is known.
    Unknown,
    /// An NTP daemon keeps it.
    Synchronised,
    /// Nobody keeps it now.
    FreeRunning,
    /// The virtual machine was moved or restored: no bound holds (version 2 only).
    Disrupted,
}

/// What the segment claims; independent of what is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBound {
    /// The layout.
    pub layout: Layout,
    /// The state of the clock.
    pub status: Status,
    /// How far off the wall clock is at most at the moment of the claim [ns].
    pub bound_ns: i64,
    /// By how much the bound grows while the claim ages [ppb].
    pub max_drift_ppb: u32,
    /// How long the claim may be believed [s]; the daemon says 1000.
    pub valid_s: u32,
    /// The marker that changes with every disruption, if the host can see disruptions (version 2 only).
    pub disruption_marker: Option<u64>,
}

/// The file of the segment, open for writing.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    file: File,
    layout: Layout,
    generation: u16,
}

impl Segment {
    /// A new segment that says nothing yet: to readers it is not initialised.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path, layout: Layout) -> Result<Segment> {
        let (version, size) = match layout {
            Layout::V1 => (1_u16, 72_u32),
            Layout::V2 => (2, 80),
        };
        let mut bytes = Vec::new();
        for word in MAGIC {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&size.to_ne_bytes());
        bytes.extend_from_slice(&version.to_ne_bytes());
        bytes.resize(size as usize, 0);
        replace(path, &bytes, 0o644)?;
        let file = File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Segment { path: path.to_owned(), file, layout, generation: 0 })
    }

    /// Which layout it has.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Writes `claim` as of a moment of the host's `CLOCK_MONOTONIC_COARSE` [ns]. While the generation is odd, readers wait.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, claim: &ClockBound, as_of_ns: i64) -> Result<()> {
        let writing = self.generation.wrapping_add(1);
        self.put(GENERATION_AT, &writing.to_ne_bytes())?;
        self.put(BODY_AT, &body(claim, self.layout, as_of_ns))?;
        // Zero would mean "not initialised".
        self.generation = if writing == u16::MAX { 2 } else { writing + 1 };
        self.put(GENERATION_AT, &self.generation.to_ne_bytes())
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).with_context(|| format!("write {}", self.path.display()))
    }
}

fn body(claim: &ClockBound, layout: Layout, as_of_ns: i64) -> Vec<u8> {
    let void_after_ns = as_of_ns.saturating_add(i64::from(claim.valid_s) * NS_PER_S);
    let status: i32 = match claim.status {
        Status::Unknown => 0,
        Status::Synchronised => 1,
        Status::FreeRunning => 2,
        Status::Disrupted => 3,
    };
    let mut bytes = Vec::new();
    for ns in [as_of_ns, void_after_ns] {
        bytes.extend_from_slice(&ns.div_euclid(NS_PER_S).to_ne_bytes());
        bytes.extend_from_slice(&ns.rem_euclid(NS_PER_S).to_ne_bytes());
    }
    bytes.extend_from_slice(&claim.bound_ns.to_ne_bytes());
    match layout {
        Layout::V1 => {
            bytes.extend_from_slice(&claim.max_drift_ppb.to_ne_bytes());
            bytes.extend_from_slice(&0_u32.to_ne_bytes());
            bytes.extend_from_slice(&status.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        Layout::V2 => {
            bytes.extend_from_slice(&claim.disruption_marker.unwrap_or_default().to_ne_bytes());
            bytes.extend_from_slice(&claim.max_drift_ppb.to_ne_bytes());
            bytes.extend_from_slice(&status.to_ne_bytes());
            bytes.push(u8::from(claim.disruption_marker.is_some()));
            bytes.extend_from_slice(&[0; 7]);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: ClockBound = ClockBound {
        layout: Layout::V2,
        status: Status::Synchronised,
        bound_ns: 0x0102_0304_0506,
        max_drift_ppb: 50_000,
        valid_s: 1000,
        disruption_marker: Some(7),
    };

    fn written(layout: Layout, times: usize) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clockbound-shm");
        let mut segment = Segment::create(&path, layout).unwrap();
        for _ in 0..times {
            segment.write(&CLAIM, 5_000_000_001).unwrap();
        }
        std::fs::read(&path).unwrap()
    }

    fn words(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    fn halves(low: u32, high: u32) -> u64 {
        u64::from(low) | u64::from(high) << 32
    }

    /// Both versions lie in memory as the protocol documents them, on a machine with the lowest byte first.
    #[cfg(target_endian = "little")]
    #[test]
    fn layouts() {
        let head = |size, version, generation: u32| [halves(0x414D_5A4E, 0x4342_0200), halves(size, version | generation << 16)];
        let times = [5, 1, 1005, 1, 0x0102_0304_0506];
        let first = [&head(72, 1, 2)[..], &times, &[halves(50_000, 0), halves(1, 0)]].concat();
        assert_eq!(written(Layout::V1, 1), words(&first));
        let second = [&head(80, 2, 4)[..], &times, &[7, halves(50_000, 1), 1]].concat();
        assert_eq!(written(Layout::V2, 2), words(&second));
    }

    /// The generation is even after a write and never 0 again: 0 means that nobody has written yet.
    #[test]
    fn generations() {
        let generation = |bytes: &[u8]| u16::from_ne_bytes([bytes[14], bytes[15]]);
        assert_eq!(generation(&written(Layout::V2, 0)), 0);
        assert_eq!(generation(&written(Layout::V2, 32_767)), 65_534);
        assert_eq!(generation(&written(Layout::V2, 32_768)), 2);
    }
}
