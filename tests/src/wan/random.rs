//! Chance that can be repeated: one small generator per link, seeded from the plan. Pure.

use std::f64::consts::TAU;

/// A generator (SplitMix64): the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Evenly spread over [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True in a share of cases; nothing is drawn for a share of zero.
    pub fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (TAU * self.unit()).cos()
    }

    /// Pareto of the second kind (Lomax) with scale 1: 0 at least, mean 1 / (shape - 1) for a shape above 1.
    pub fn lomax(&mut self, shape: f64) -> f64 {
        (1.0 - self.unit()).powf(-1.0 / shape) - 1.0
    }
}

/// Spreads the bits of a number over all of it.
pub fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_and_deviation(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let values: Vec<f64> = (0..100_000).map(|_| draw()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    /// Each distribution has the mean and the spread that its name promises.
    #[test]
    fn moments() {
        let mut random = Random::new(1);
        let near = |(mean, deviation): (f64, f64), wanted: (f64, f64)| {
            assert!((mean - wanted.0).abs() < 0.02 && (deviation - wanted.1).abs() < 0.04, "{mean} {deviation} {wanted:?}");
        };
        near(mean_and_deviation(|| random.unit()), (0.5, (1.0_f64 / 12.0).sqrt()));
        near(mean_and_deviation(|| random.normal()), (0.0, 1.0));
        near(mean_and_deviation(|| random.exponential()), (1.0, 1.0));
        // Shape 5: mean 1/4, variance 5 / (4^2 * 3).
        near(mean_and_deviation(|| random.lomax(5.0)), (0.25, (5.0_f64 / 48.0).sqrt()));
    }

    /// The same seed gives the same numbers, another seed others, and every share is in [0, 1).
    #[test]
    fn repeats() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.unit()).collect::<Vec<f64>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(9).iter().all(|unit| (0.0..1.0).contains(unit)));
    }
}
