//! What the host claims about its wall clock.

use nix::libc::STA_UNSYNC;
use rtime_clock::adjtime::{Timex, adjtimex};

/// What whoever disciplines the wall clock (chrony, ntpd, a PTP daemon) has told the kernel of it. A claim, not a measurement: the clock
/// may be wrong all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockClaim {
    /// It follows an outside source.
    Synchronized {
        /// How far off it is at most [ns]: `maxerror` of `adjtimex`, which grows by 500 ppm until it is set anew.
        error_ns: u64,
    },
    /// It follows nothing.
    Free,
}

/// Asks the kernel; `None` if it does not say.
pub(super) fn ask() -> Option<ClockClaim> {
    let mut timex = Timex::new();
    adjtimex(&mut timex).ok()?;
    of(timex.0.status, timex.0.maxerror)
}

fn of(status: i32, max_error_us: i64) -> Option<ClockClaim> {
    if status & STA_UNSYNC != 0 {
        return Some(ClockClaim::Free);
    }
    let error_us = u64::try_from(max_error_us).ok()?;
    Some(ClockClaim::Synchronized { error_ns: error_us.saturating_mul(1_000) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that is not synchronised claims no error, however small the kernel's number is; a number that makes no sense is no claim.
    #[test]
    fn claims() {
        assert_eq!(of(STA_UNSYNC, 3), Some(ClockClaim::Free));
        assert_eq!(of(nix::libc::STA_PLL, 1_500), Some(ClockClaim::Synchronized { error_ns: 1_500_000 }));
        assert_eq!(of(0, -1), None);
    }

    /// The kernel answers without any privilege.
    #[test]
    fn the_kernel_says_something() {
        assert!(ask().is_some());
    }
}
