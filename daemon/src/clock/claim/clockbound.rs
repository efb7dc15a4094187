//! AWS `ClockBound`: a daemon that tells how far off the wall clock is at most, through a file that programs share as memory. Its
//! "Shared Memory Protocol", versions 1 and 2; numbers in the byte order of the machine.
//!
//! | octets | version 1 (72) | version 2 (80) |
//! |---|---|---|
//! | 0..8 | magic | magic |
//! | 8..12, 12..14, 14..16 | size, version, generation | size, version, generation |
//! | 16..32 | as of: seconds, nanoseconds of `CLOCK_MONOTONIC_COARSE` | as of |
//! | 32..48 | void after: seconds, nanoseconds | void after |
//! | 48..56 | bound [ns] | bound [ns] |
//! | 56.. | drift [ppb] 4, reserved 4, status 4, padding 4 | disruption marker 8, drift [ppb] 4, status 4, support 1, padding 7 |
//!
//! The generation is odd while the daemon writes, and 0 until it has written once.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the daemons put their segments, that of the newest first.
const PATHS: [&str; 2] = ["/var/run/clockbound/shm0", "/var/run/clockbound/shm"];
/// Names another file, and only that one counts then.
const PATH_VARIABLE: &str = "LAGMESH_CLOCKBOUND";
/// Two words; the version in the second is that of the protocol family.
const MAGIC: [u32; 2] = [0x414D_5A4E, 0x4342_0200];
const HEAD_LENGTH: usize = 16;
const LENGTH_V1: usize = 72;
const LENGTH_V2: usize = 80;
const GENERATION: std::ops::Range<usize> = 14..16;
/// How often a segment is read again that was written to meanwhile: a write takes a microsecond, once a second.
const ATTEMPTS: usize = 5;
const NS_PER_S: i64 = 1_000_000_000;

/// What a living daemon says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The wall clock follows an outside source.
    Bound {
        /// How far off it is at most now [ns].
        error_ns: u64,
    },
    /// It follows nothing at present.
    FreeRunning,
    /// It will not say: it knows nothing, or the virtual machine was moved or restored.
    Nothing,
}

/// Asks at `monotonic_ns` of `CLOCK_MONOTONIC` [ns]; `None` if no daemon lives whose words can be understood.
pub(super) fn ask(monotonic_ns: u64) -> Option<Word> {
    let ask = |path: &Path| whole(&File::open(path).ok()?).and_then(|segment| read(&segment, monotonic_ns));
    match std::env::var_os(PATH_VARIABLE).filter(|path| *path != OsString::new()) {
        Some(path) => ask(Path::new(&path)),
        None => PATHS.into_iter().find_map(|path| ask(Path::new(path))),
    }
}

/// The octets of a segment, none of them older or newer than another; `None` if that cannot be had.
fn whole(file: &File) -> Option<Vec<u8>> {
    (0..ATTEMPTS).find_map(|_| {
        let before = octets(file)?;
        let after = octets(file)?;
        is_whole(&before, &after).then_some(before)
    })
}

fn octets(file: &File) -> Option<Vec<u8>> {
    let mut octets = vec![0; LENGTH_V2];
    let length = file.read_at(&mut octets, 0).ok()?;
    octets.truncate(length);
    Some(octets)
}

/// Whether what was read `before` is whole, going by what was read `after` it: nobody was writing, or wrote in between.
fn is_whole(before: &[u8], after: &[u8]) -> bool {
    let generation = before.get(GENERATION).map(|octets| u16::from_ne_bytes([octets[0], octets[1]]));
    generation.is_some_and(|generation| generation != 0 && generation % 2 == 0) && before == after
}

/// What a segment that is whole says at a moment of `CLOCK_MONOTONIC` [ns]. Nothing that is void, from the future or makes no sense counts.
fn read(segment: &[u8], now_ns: u64) -> Option<Word> {
    let now_ns = i64::try_from(now_ns).ok()?;
    let (head, body) = segment.split_at_checked(HEAD_LENGTH)?;
    let is_ours = (word(head, 0)?, word(head, 4)?) == (MAGIC[0], MAGIC[1]);
    let [low, high] = *head.get(12..14)? else { return None };
    let (length, drift_at, status_at) = match u16::from_ne_bytes([low, high]) {
        1 => (LENGTH_V1, 40, 48),
        2 => (LENGTH_V2, 48, 52),
        _ => return None,
    };
    if !is_ours || segment.len() < length || usize::try_from(word(head, 8)?).ok()? < length {
        return None;
    }
    let (as_of_ns, void_after_ns) = (time_ns(body, 0)?, time_ns(body, 16)?);
    if !(as_of_ns..void_after_ns).contains(&now_ns) {
        return None;
    }
    match word(body, status_at)? {
        1 => {
            let bound_ns = u64::try_from(long(body, 32)?).ok()?;
            let grown_ns = u128::from(now_ns.abs_diff(as_of_ns)) * u128::from(word(body, drift_at)?);
            let grown_ns = u64::try_from(grown_ns.div_ceil(1_000_000_000)).ok()?;
            Some(Word::Bound { error_ns: bound_ns.saturating_add(grown_ns) })
        }
        2 => Some(Word::FreeRunning),
        _ => Some(Word::Nothing),
    }
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}

fn long(octets: &[u8], at: usize) -> Option<i64> {
    octets.get(at..)?.first_chunk().map(|eight| i64::from_ne_bytes(*eight))
}

/// Seconds and nanoseconds [0, 1e9) as nanoseconds.
fn time_ns(octets: &[u8], at: usize) -> Option<i64> {
    let (seconds, ns) = (long(octets, at)?, long(octets, at + 8)?);
    let ns = Some(ns).filter(|ns| (0..NS_PER_S).contains(ns))?;
    seconds.checked_mul(NS_PER_S)?.checked_add(ns)
}

#[cfg(test)]
mod tests;
