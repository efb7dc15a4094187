//! When a packet was sent or received, and how far that may be wrong: the formats of RFC 8762, section 4.2.1. Pure.

use lagmesh_daemon::clock::ClockClaim;
use lagmesh_model::time::WallNanos;

use super::take;

/// Seconds from the NTP era (1900) to the Unix epoch.
const NTP_UNIX_S: u64 = 2_208_988_800;

/// How a wall-clock stamp is written (RFC 8762, section 4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Seconds since 1900 in the upper half, fractions of 2^-32 s in the lower.
    Ntp,
    /// Truncated `PTPv2`: seconds since 1970 in the upper half, nanoseconds in the lower. The seconds are those of a host's clock (UTC, as
    /// other implementations write them), not of TAI.
    Ptp,
}

/// A wall-clock stamp as it stands in a packet; its [`Format`] stands in the error estimate beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The stamp of a wall-clock label as we write our own.
    pub fn ntp(wall: WallNanos) -> Timestamp {
        Timestamp::of(wall, Format::Ntp)
    }

    /// The stamp of a wall-clock label; seconds beyond 32 bits begin anew, as the formats do.
    pub fn of(wall: WallNanos, format: Format) -> Timestamp {
        let (seconds, rest) = (wall.0 / 1_000_000_000, wall.0 % 1_000_000_000);
        match format {
            Format::Ntp => Timestamp(((seconds + NTP_UNIX_S) << 32) | ((rest << 32) / 1_000_000_000)),
            Format::Ptp => Timestamp((seconds << 32) | rest),
        }
    }

    /// Nanoseconds from `earlier` to `self`, both of one format; negative if `earlier` is in fact later, `None` if one of them is no
    /// stamp of that format.
    pub fn since_ns(self, earlier: Timestamp, format: Format) -> Option<i64> {
        if format == Format::Ntp {
            let units = self.0.wrapping_sub(earlier.0).cast_signed();
            let (seconds, fraction) = (units >> 32, units & 0xFFFF_FFFF);
            // Half the range of either format is 68 years: in nanoseconds it fits.
            return Some(seconds * 1_000_000_000 + ((fraction * 1_000_000_000) >> 32));
        }
        let ((end_s, end_rest), (start_s, start_rest)) = (self.halves(), earlier.halves());
        let seconds = i64::from(end_s.wrapping_sub(start_s).cast_signed());
        let are_stamps = end_rest < 1_000_000_000 && start_rest < 1_000_000_000;
        are_stamps.then(|| seconds * 1_000_000_000 + i64::from(end_rest) - i64::from(start_rest))
    }

    fn halves(self) -> (u32, u32) {
        let octets = self.0.to_be_bytes();
        (u32::from_be_bytes(take(&octets, 0)), u32::from_be_bytes(take(&octets, 4)))
    }
}

/// How far the wall clock behind a stamp may be off: `multiplier * 2^(scale - 32)` seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorEstimate {
    /// S: whether the clock is synchronised to UTC by an outside source.
    pub synchronized: bool,
    /// Z: how the stamps beside it are written.
    pub format: Format,
    /// [0, 63].
    pub scale: u8,
    /// [1, 255]; zero is invalid.
    pub multiplier: u8,
}

impl ErrorEstimate {
    /// Nothing is claimed about the wall clock: 68 years. Agents measure with their raw clocks instead.
    pub const UNKNOWN: ErrorEstimate = ErrorEstimate { synchronized: false, format: Format::Ntp, scale: 63, multiplier: 1 };

    /// What a host says of its synchronised clock: at most `error_ns` off, rounded up to what can be written.
    fn synchronized(error_ns: u64) -> ErrorEstimate {
        // In units of 2^-32 s: at most 2^67, so the scale stays below 60.
        let units = (u128::from(error_ns) << 32).div_ceil(1_000_000_000).max(1);
        let bits = 128 - units.leading_zeros();
        let scale = bits.saturating_sub(u8::BITS);
        // Eight bits that are rounded up may need a ninth: 256 is 128 at the next scale.
        let (scale, multiplier) = u8::try_from(units.div_ceil(1 << scale)).map_or((scale + 1, 128), |fits| (scale, fits));
        ErrorEstimate { synchronized: true, format: Format::Ntp, scale: u8::try_from(scale).unwrap_or(63), multiplier }
    }

    /// What a host claims; an unknown claim and a clock that runs freely are alike: nothing is known.
    pub fn of(claim: Option<ClockClaim>) -> ErrorEstimate {
        match claim {
            Some(ClockClaim::Synchronized { error_ns, .. }) => ErrorEstimate::synchronized(error_ns),
            Some(ClockClaim::Free) | None => ErrorEstimate::UNKNOWN,
        }
    }

    /// The same for stamps of another format.
    pub fn with(self, format: Format) -> ErrorEstimate {
        ErrorEstimate { format, ..self }
    }

    pub(super) fn encode(self) -> [u8; 2] {
        let flags = (u8::from(self.synchronized) << 7) | (u8::from(self.format == Format::Ptp) << 6);
        [flags | (self.scale & 0x3F), self.multiplier]
    }

    pub(super) fn decode([first, multiplier]: [u8; 2]) -> ErrorEstimate {
        let format = if first & 0x40 == 0 { Format::Ntp } else { Format::Ptp };
        ErrorEstimate { synchronized: first & 0x80 != 0, format, scale: first & 0x3F, multiplier }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn formats() -> impl Strategy<Value = Format> {
        prop_oneof![Just(Format::Ntp), Just(Format::Ptp)]
    }

    proptest! {
        /// A stamp of either format keeps a wall-clock moment to within a nanosecond, also across the end of an era.
        #[test]
        fn stamps_keep_nanoseconds(
            format in formats(), a in 0..9_000_000_000_000_000_000_u64, b in -1_000_000_000_000_i64..1_000_000_000_000,
        ) {
            let later = a.saturating_add_signed(b);
            let difference = Timestamp::of(WallNanos(later), format).since_ns(Timestamp::of(WallNanos(a), format), format).unwrap();
            prop_assert!((difference - later.wrapping_sub(a).cast_signed()).abs() <= 1);
        }

        /// What is claimed on the wire is never better than what the host claims, and hardly worse.
        #[test]
        fn claims_are_rounded_up(error_ns: u64) {
            let ErrorEstimate { synchronized, scale, multiplier, .. } = ErrorEstimate::synchronized(error_ns);
            let claimed_units = u128::from(multiplier) << scale;
            let units = u128::from(error_ns) << 32;
            prop_assert!(synchronized && multiplier > 0 && scale < 64);
            prop_assert!(claimed_units * 1_000_000_000 >= units);
            prop_assert!(claimed_units * 1_000_000_000 <= units + units / 100 + 1_000_000_000);
        }
    }

    /// Nanoseconds beyond a second are no PTP stamp.
    #[test]
    fn no_stamp() {
        let (odd, good) = (Timestamp(1_000_000_000), Timestamp(999_999_999));
        assert_eq!((odd.since_ns(good, Format::Ptp), good.since_ns(odd, Format::Ptp)), (None, None));
        assert_eq!(good.since_ns(Timestamp(0), Format::Ptp), Some(999_999_999));
    }

    /// Each format counts from its own epoch, in its own fractions.
    #[test]
    fn formats_of_the_standard() {
        assert_eq!(Timestamp::ntp(WallNanos(500_000_000)).0, NTP_UNIX_S << 32 | 1 << 31);
        assert_eq!(Timestamp::of(WallNanos(5_000_000_007), Format::Ptp).0, 5 << 32 | 7);
        // 1.5 ms are 6442451 units of 2^-32 s; 2^15 is the smallest scale at which one octet holds that.
        let estimate = ErrorEstimate::synchronized(1_500_000);
        assert_eq!((estimate.multiplier, estimate.scale), (197, 15));
    }
}
