//! What a clock shows for what the kernel shows: the arithmetic that `clock/clock.c` shares, and its inverse. Pure.

use anyhow::{Result, ensure};

/// Parts per billion that make one.
const WHOLE_PPB: i128 = 1_000_000_000;

/// The fastest drift that a clock may be given, either way [ppm]: the most that a kernel lets anybody turn its clock.
pub const DRIFT_MAX_PPM: f64 = 100_000.0;

/// How many pieces of a clock running programs are told: the newest, and enough before it for what is a little old when it is read.
pub const PIECES: usize = 4;

/// How one clock shows time: `real + offset + floor((real - anchor) * rate / 10^9)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The moment around which the clock drifts, and from which the piece holds [ns of the kernel's clock].
    pub anchor_ns: i64,
    /// How far the clock is ahead at its anchor [ns].
    pub offset_ns: i64,
    /// How much faster than the kernel's it runs [ppb]; not below -10^9, or it would run backwards.
    pub rate_ppb: i64,
}

impl Piece {
    /// What the clock shows when the kernel's shows `real_ns` [ns]. Never falls while `real_ns` grows.
    pub fn shown(self, real_ns: i64) -> i64 {
        let real = i128::from(real_ns);
        let drifted = ((real - i128::from(self.anchor_ns)) * i128::from(self.rate_ppb)).div_euclid(WHOLE_PPB);
        saturate(real + i128::from(self.offset_ns) + drifted)
    }

    /// The first moment of the kernel's clock at which this one shows `shown_ns` or more [ns].
    pub fn real(self, shown_ns: i64) -> i64 {
        let since_anchor = i128::from(shown_ns) - i128::from(self.offset_ns) - i128::from(self.anchor_ns);
        // The first d with floor(d * (1 + rate)) >= since_anchor.
        let speed = WHOLE_PPB + i128::from(self.rate_ppb);
        saturate(i128::from(self.anchor_ns) - (-since_anchor * WHOLE_PPB).div_euclid(speed))
    }
}

/// All pieces of a clock since it began, oldest first. The first one also holds before its anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    first: Piece,
    later: Vec<Piece>,
}

impl Track {
    /// A clock that shows `first`.
    pub fn new(first: Piece) -> Track {
        Track { first, later: Vec::new() }
    }

    /// The last pieces, oldest first, which is what running programs are told. The first one is repeated if there are too few.
    pub fn newest(&self) -> [Piece; PIECES] {
        let mut pieces = [self.first; PIECES];
        for (place, piece) in pieces.iter_mut().rev().zip(self.later.iter().rev()) {
            *place = *piece;
        }
        pieces
    }

    /// From `anchor_ns` on, which lies after every earlier anchor, the clock is `step_ns` further and runs at `rate_ppb`.
    pub fn changed(&self, anchor_ns: i64, step_ns: i64, rate_ppb: i64) -> Track {
        let last = self.later.last().unwrap_or(&self.first);
        let offset_ns = last.shown(anchor_ns) - anchor_ns + step_ns;
        let mut track = self.clone();
        track.later.push(Piece { anchor_ns, offset_ns, rate_ppb });
        track
    }

    /// What the clock shows when the kernel's shows `real_ns` [ns].
    pub fn shown(&self, real_ns: i64) -> i64 {
        let holds = self.later.iter().rev().find(|piece| piece.anchor_ns <= real_ns);
        holds.unwrap_or(&self.first).shown(real_ns)
    }

    /// The newest moment of the kernel's clock, not after `not_after_ns`, at which this one came to show `shown_ns` [ns]. None if it
    /// never did: the time that a step forwards leaves out, and everything later than `not_after_ns`.
    pub fn real(&self, shown_ns: i64, not_after_ns: i64) -> Option<i64> {
        let mut end_ns = i64::MAX;
        for piece in self.later.iter().rev() {
            let real_ns = piece.real(shown_ns);
            if (piece.anchor_ns..end_ns).contains(&real_ns) && real_ns <= not_after_ns {
                return Some(real_ns);
            }
            end_ns = piece.anchor_ns;
        }
        Some(self.first.real(shown_ns)).filter(|real_ns| *real_ns < end_ns && *real_ns <= not_after_ns)
    }
}

/// A drift in the whole parts per billion that the arithmetic works in.
///
/// # Errors
/// If it is no number or beyond [`DRIFT_MAX_PPM`].
pub fn rate_ppb(drift_ppm: f64) -> Result<i64> {
    ensure!(drift_ppm.abs() <= DRIFT_MAX_PPM, "a clock cannot drift by {drift_ppm} ppm: at most {DRIFT_MAX_PPM} either way");
    #[expect(clippy::cast_possible_truncation, reason = "rounded, and far inside the range")]
    let ppb = (drift_ppm * 1000.0).round() as i64;
    Ok(ppb)
}

fn saturate(ns: i128) -> i64 {
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn fast() -> Piece {
        Piece { anchor_ns: 100 * S, offset_ns: 744 * S, rate_ppb: 50_000 }
    }

    /// A clock is ahead by its offset at the anchor and gains its rate from there on, rounded down on either side.
    #[test]
    fn shows() {
        assert_eq!(fast().shown(100 * S), 844 * S);
        assert_eq!(fast().shown(102 * S), 846 * S + 100_000);
        assert_eq!(fast().shown(98 * S), 842 * S - 100_000);
        let slow = Piece { rate_ppb: -1, ..fast() };
        assert_eq!([99, 101].map(|s| slow.shown(s * S)), [843 * S + 1, 845 * S - 1]);
        assert_eq!(slow.shown(100 * S + 1), 844 * S, "a ten-millionth of a nanosecond less than 1 is 0");
    }

    /// The inverse finds the first moment at which a clock shows a time, whatever its rate.
    #[test]
    fn inverse_is_exact() {
        for rate_ppb in [-100_000_000, -50_000, -1, 0, 1, 50_000, 100_000_000] {
            let piece = Piece { rate_ppb, ..fast() };
            for real_ns in (0..2000).map(|i| i * 123_456_789 + i) {
                let first_ns = piece.real(piece.shown(real_ns));
                assert!(first_ns <= real_ns && piece.shown(first_ns) == piece.shown(real_ns), "{rate_ppb} {real_ns} {first_ns}");
                assert!(piece.shown(first_ns - 1) < piece.shown(real_ns), "{rate_ppb} {real_ns} {first_ns}");
            }
        }
    }

    /// A change of rate moves nothing at its moment; a step moves the clock by exactly itself.
    #[test]
    fn changes_at_one_moment() {
        let track = Track::new(fast()).changed(200 * S, 0, -50_000);
        assert_eq!(track.shown(200 * S), fast().shown(200 * S));
        assert_eq!(track.shown(201 * S) - track.shown(200 * S), S - 50_000);
        let stepped = track.changed(300 * S, -744 * S, -50_000);
        assert_eq!(stepped.shown(300 * S), track.shown(300 * S) - 744 * S);
        assert_eq!(stepped.shown(300 * S - 1), track.shown(300 * S - 1));
    }

    /// After a step back a stamp means the newest moment that is not after the observer's; what a step forward left out, none.
    #[test]
    fn stamps_after_steps() {
        let still = Piece { anchor_ns: 0, offset_ns: 0, rate_ppb: 0 };
        let back = Track::new(still).changed(100 * S, -10 * S, 0);
        assert_eq!(back.real(95 * S, i64::MAX), Some(105 * S));
        assert_eq!(back.real(95 * S, 104 * S), Some(95 * S));
        assert_eq!(back.real(95 * S, 94 * S), None);
        assert_eq!(back.real(89 * S, i64::MAX), Some(89 * S));
        let forward = Track::new(still).changed(100 * S, 10 * S, 0);
        assert_eq!(forward.real(105 * S, i64::MAX), None);
        assert_eq!(forward.real(110 * S, i64::MAX), Some(100 * S));
        assert_eq!(forward.real(99 * S, i64::MAX), Some(99 * S));
    }

    /// A drift that no clock has is refused.
    #[test]
    fn drifts() {
        assert_eq!([50.0, -0.0004, 0.0015].map(|ppm| rate_ppb(ppm).unwrap()), [50_000, 0, 2]);
        assert!(rate_ppb(f64::NAN).is_err() && rate_ppb(100_001.0).is_err());
    }
}
