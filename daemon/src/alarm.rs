//! Sleeping until a moment to within some tens of microseconds.
//!
//! The runtime's own timers go by whole milliseconds and are always late. Where a poll is to find a row within a millisecond of its
//! arrival that is most of the error, so these waits are left to a timer of the kernel (`timerfd_create(2)`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One timer of the kernel.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<Timer>,
}

/// A timer as the runtime can wait for it.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// A timer that is not set.
    ///
    /// # Errors
    /// If the process may open no more files, or outside of a runtime.
    pub fn new() -> io::Result<Alarm> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        #[expect(deprecated, reason = "what replaces it is unsafe; the timer keeps its descriptor open as long as it lives")]
        let timer = AsyncFd::with_interest(Timer(timer), Interest::READABLE)?;
        Ok(Alarm { timer })
    }

    /// Sleeps for so long, and some tens of microseconds on a machine that has time left. May be dropped at any time.
    ///
    /// # Errors
    /// The kernel's; none is known.
    pub async fn sleep(&mut self, wait: Duration) -> io::Result<()> {
        if wait.is_zero() {
            return Ok(());
        }
        // Setting it anew forgets that it rang for somebody who no longer waited.
        self.timer.get_ref().0.set(Expiration::OneShot(TimeSpec::from_duration(wait)), TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = self.timer.readable().await?;
            ready.clear_ready();
            if self.timer.get_ref().0.get()?.is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    /// It never rings early, not even if a wait before it was given up. How late it rings is told, and is the machine's affair.
    #[tokio::test]
    async fn sleeps_as_long_as_it_is_told() {
        let (clock, mut alarm) = (Clock::new(), Alarm::new().unwrap());
        let mut late_us = Vec::new();
        for wait_us in [0, 100, 350, 900, 1_400, 2_600].repeat(20) {
            let given_up = alarm.sleep(Duration::from_micros(50));
            tokio::time::timeout(Duration::from_micros(10), given_up).await.ok().transpose().unwrap();
            let (began, wait) = (clock.now().raw, Duration::from_micros(wait_us));
            alarm.sleep(wait).await.unwrap();
            let slept_ns = clock.now().raw.since_ns(began);
            // The kernel's timer goes by a clock that is slewed by less than a thousandth.
            assert!(slept_ns >= i64::try_from(wait_us * 999).unwrap(), "{slept_ns} ns instead of {wait:?}");
            late_us.push(slept_ns / 1_000 - i64::try_from(wait_us).unwrap());
        }
        late_us.sort_unstable();
        println!("late by {} us (median), {} us (worst)", late_us[late_us.len() / 2], late_us[late_us.len() - 1]);
    }
}
