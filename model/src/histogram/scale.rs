//! The buckets of scale 5: bucket `i` holds `(b^i, b^(i+1)]` seconds with `b = 2^(1/32)`.
//!
//! Values are whole nanoseconds and every bound but the powers of two is irrational, so integer comparison with the floors
//! of the bounds decides exactly; no logarithm is taken.

/// The scale of OpenTelemetry's exponential histograms that lagmesh uses everywhere.
pub(crate) const SCALE: i32 = 5;

/// Buckets per doubling, `2^SCALE`.
pub(crate) const BUCKETS_PER_OCTAVE: i32 = 32;

/// The bucket of the shortest duration that is not zero, 1 ns.
pub(crate) const INDEX_MIN: i32 = -957;

/// The bucket of the longest duration that nanoseconds in 64 bits can say.
pub(crate) const INDEX_MAX: i32 = 1091;

const SECOND_NS: u64 = 1_000_000_000;

/// Binary digits after the point in [`BOUNDS`]: enough to shift the largest octave (34) down and the smallest (-30) up.
const FRACTION_BITS: i32 = 40;

/// `floor(10^9 * 2^(j/32) * 2^40)`: the lower bounds of the buckets within the octave that starts at one second [2^-40 ns].
const BOUNDS: [u128; BUCKETS_PER_OCTAVE as usize] = [
    (SECOND_NS as u128) << FRACTION_BITS,
    0x003c_e8e9_bca7_7430_ccc9,
    0x003e_3e5a_766d_6afe_520a,
    0x003f_9b45_30ad_4450_0932,
    0x0040_ffd3_d4aa_4e53_71b5,
    0x0042_6c31_3698_8c69_cb60,
    0x0043_e089_1ac1_b68b_51d0,
    0x0045_5d08_3ac7_0f51_e7ef,
    0x0046_e1dc_4b00_b253_ec8f,
    0x0048_6f33_fffb_0002_2641,
    0x004a_053f_1412_cfd9_c17c,
    0x004b_a42e_4d31_156d_b06d,
    0x004d_4c33_82a6_a891_c890,
    0x004e_fd81_a328_e4ce_3441,
    0x0050_b84c_baef_d833_abe6,
    0x0052_7cc9_f9f6_bdb0_e504,
    0x0054_4b2f_ba5f_8328_38e7,
    0x0056_23b5_86fa_1fba_2fb9,
    0x0058_0694_21f0_8306_e105,
    0x0059_f405_8b97_ea8d_7bff,
    0x005b_ec45_0968_6ecf_501e,
    0x005d_ef8f_2d1b_9e72_e301,
    0x005f_fe21_dbf3_0254_9137,
    0x0062_183c_5627_6a3d_73f1,
    0x0064_3e1f_3e81_e6df_61ad,
    0x0066_700c_a21f_5ab6_721c,
    0x0068_ae48_005f_908e_0f94,
    0x006a_f916_5300_cba1_f016,
    0x006d_50be_1668_caaa_ed8a,
    0x006f_b587_521c_3c9d_44f6,
    0x0072_27bb_a165_ab71_eee0,
    0x0074_a7a6_3c2c_e708_3324,
];

/// The harmonic midpoint of a bucket over its lower bound, `2b / (1 + b)`: the estimate with the smallest largest relative error,
/// `(b - 1) / (b + 1)` = 1.083 %.
const MIDPOINT_OVER_LOWER: f64 = 1.010_830_001_253_373_6;

/// The bucket of a duration, or `None` for zero, which has none.
pub(crate) fn index_of(ns: u64) -> Option<i32> {
    let magnitude = i32::try_from(ns.checked_ilog2()?).expect("a logarithm of 64 bits is below 64");
    // A value equal to a power of two of a second closes the octave below it.
    let octave = if ns << (63 - magnitude) > SECOND_NS << SECOND_NS.leading_zeros() { magnitude - 29 } else { magnitude - 30 };
    let scaled = u128::from(ns) << (FRACTION_BITS - octave);
    let within = BOUNDS.partition_point(|bound| *bound < scaled) - 1;
    let within = i32::try_from(within).expect("an octave has 32 buckets");
    Some(octave * BUCKETS_PER_OCTAVE + within)
}

/// The lower bound of a bucket in [[`INDEX_MIN`], [`INDEX_MAX`]], rounded down [ns].
pub(crate) fn lower_ns(index: i32) -> u64 {
    let (bound, shift) = bound(index);
    u64::try_from(bound >> shift).unwrap_or(u64::MAX)
}

/// The upper bound of a bucket in [[`INDEX_MIN`], [`INDEX_MAX`]], rounded up [ns].
pub(crate) fn upper_ns(index: i32) -> u64 {
    let (bound, shift) = bound(index + 1);
    let floor = bound >> shift;
    let exact = (index + 1) % BUCKETS_PER_OCTAVE == 0 && floor << shift == bound;
    u64::try_from(if exact { floor } else { floor + 1 }).unwrap_or(u64::MAX)
}

/// The lower bound of a bucket as a number and the binary digits after its point.
fn bound(index: i32) -> (u128, i32) {
    let within = usize::try_from(index.rem_euclid(BUCKETS_PER_OCTAVE)).expect("a remainder is not negative");
    (BOUNDS[within], FRACTION_BITS - index.div_euclid(BUCKETS_PER_OCTAVE))
}

/// The value that stands for a bucket [s].
pub(crate) fn midpoint_s(index: i32) -> f64 {
    (f64::from(index) / f64::from(BUCKETS_PER_OCTAVE)).exp2() * MIDPOINT_OVER_LOWER
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "digits are cut off on purpose")]
mod tests {
    use super::*;

    /// A natural number to the 32nd power, in digits of 2^32 from the lowest on.
    fn power_32(base: u128) -> Vec<u32> {
        let mut digits: Vec<u32> = (0..4).map(|i| (base >> (32 * i)) as u32).collect();
        for _ in 0..5 {
            let mut square = vec![0_u32; 2 * digits.len()];
            for (i, a) in digits.iter().enumerate() {
                let mut carry = 0_u64;
                for (j, b) in digits.iter().enumerate() {
                    let sum = u64::from(*a) * u64::from(*b) + u64::from(square[i + j]) + carry;
                    square[i + j] = sum as u32;
                    carry = sum >> 32;
                }
                square[i + digits.len()] = carry as u32;
            }
            digits = square;
        }
        digits
    }

    /// `number * 2^shift`, for shifts below one digit.
    fn shifted(number: &[u32], shift: u32) -> Vec<u32> {
        let mut carry = 0;
        let shifted = number.iter().map(|digit| {
            let wide = (u64::from(*digit) << shift) | carry;
            carry = wide >> 32;
            wide as u32
        });
        shifted.collect()
    }

    /// Every bound is the floor of its irrational: its 32nd power does not exceed `(10^9 * 2^40)^32 * 2^j`, that of its successor does.
    #[test]
    fn bounds_are_exact_floors() {
        let one = power_32(BOUNDS[0]);
        for (j, bound) in (0..).zip(BOUNDS) {
            let exact = shifted(&one, j);
            assert!(power_32(bound).iter().rev().le(exact.iter().rev()), "bound {j} is too large");
            assert!(power_32(bound + 1).iter().rev().gt(exact.iter().rev()), "bound {j} is too small");
        }
    }

    /// The estimate of a bucket is equally far, in proportion, from both of its bounds: 1.083 %.
    #[test]
    fn midpoint_halves_the_error() {
        for index in [INDEX_MIN, -320, -1, 0, 1, 31, 32, INDEX_MAX] {
            let (lower, upper) = ((f64::from(index) / 32.0).exp2(), (f64::from(index + 1) / 32.0).exp2());
            let (above, below) = (midpoint_s(index) / lower - 1.0, 1.0 - midpoint_s(index) / upper);
            assert!((above - 0.010_830).abs() < 1e-6 && (below - 0.010_830).abs() < 1e-6, "{above} {below}");
        }
    }
}
