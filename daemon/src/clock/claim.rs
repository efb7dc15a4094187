//! What the host claims about its wall clock: by a `ClockBound` daemon if one runs, else by the kernel.

mod clockbound;

use lagmesh_model::state::ClaimSource;
use nix::libc::STA_UNSYNC;
use rtime_clock::adjtime::{Timex, adjtimex};

use clockbound::Word;

/// What whoever disciplines the wall clock (chrony, ntpd, a PTP daemon, `ClockBound`) says of it. A claim, not a measurement: the clock
/// may be wrong all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockClaim {
    /// It follows an outside source.
    Synchronized {
        /// How far off it is at most now [ns].
        error_ns: u64,
        /// Who says so.
        source: ClaimSource,
    },
    /// It follows nothing.
    Free,
}

/// Asks at `monotonic_ns` of this host's `CLOCK_MONOTONIC` [ns]; `None` if nobody says anything.
pub(super) fn ask(monotonic_ns: u64) -> Option<ClockClaim> {
    of(clockbound::ask(monotonic_ns), kernel)
}

/// A `ClockBound` daemon that lives is believed and nobody else; that it will not say anything is an answer, too. `kernel` is asked only
/// if there is no such daemon, or a dead one.
fn of(daemon: Option<Word>, kernel: impl FnOnce() -> Option<ClockClaim>) -> Option<ClockClaim> {
    match daemon {
        Some(Word::Bound { error_ns }) => Some(ClockClaim::Synchronized { error_ns, source: ClaimSource::ClockBound }),
        Some(Word::FreeRunning) => Some(ClockClaim::Free),
        Some(Word::Nothing) => None,
        None => kernel(),
    }
}

fn kernel() -> Option<ClockClaim> {
    let mut timex = Timex::new();
    adjtimex(&mut timex).ok()?;
    of_kernel(timex.0.status, timex.0.maxerror)
}

/// `maxerror` of `adjtimex` grows by 500 ppm until it is set anew.
fn of_kernel(status: i32, max_error_us: i64) -> Option<ClockClaim> {
    if status & STA_UNSYNC != 0 {
        return Some(ClockClaim::Free);
    }
    let error_us = u64::try_from(max_error_us).ok()?;
    Some(ClockClaim::Synchronized { error_ns: error_us.saturating_mul(1_000), source: ClaimSource::Kernel })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_KERNEL: ClockClaim = ClockClaim::Synchronized { error_ns: 1_500_000, source: ClaimSource::Kernel };

    /// A clock that is not synchronised claims no error, however small the kernel's number is; a number that makes no sense is no claim.
    #[test]
    fn claims() {
        assert_eq!(of_kernel(STA_UNSYNC, 3), Some(ClockClaim::Free));
        assert_eq!(of_kernel(nix::libc::STA_PLL, 1_500), Some(OF_KERNEL));
        assert_eq!(of_kernel(0, -1), None);
    }

    /// The kernel speaks only where no daemon does: what a living daemon refuses to say, the kernel's number does not replace.
    #[test]
    fn who_is_believed() {
        let bound = ClockClaim::Synchronized { error_ns: 7, source: ClaimSource::ClockBound };
        for (daemon, claim) in [
            (Some(Word::Bound { error_ns: 7 }), Some(bound)),
            (Some(Word::FreeRunning), Some(ClockClaim::Free)),
            (Some(Word::Nothing), None),
            (None, Some(OF_KERNEL)),
        ] {
            assert_eq!(of(daemon, || Some(OF_KERNEL)), claim, "{daemon:?}");
        }
    }

    /// The kernel answers without any privilege.
    #[test]
    fn the_kernel_says_something() {
        assert!(kernel().is_some());
    }
}
