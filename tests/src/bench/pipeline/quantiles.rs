//! How far quantiles of a fleet are off that come from merged histograms.

use lagmesh_model::histogram::{Exponential, Recorder};

use crate::bench::figure::Figure;
use crate::bench::say_figures;

const REGIONS: u64 = 40;
const SAMPLES: u64 = 50_000;
const TARGET_PERCENT: f64 = 1.14;

/// Latencies of regions that differ by three orders of magnitude, one in two hundred of them in a long tail; recorded as agents do,
/// merged as the collector does, held against all samples sorted.
pub(super) fn measure() {
    let mut merged = Exponential::new();
    let mut all = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for region in 0..REGIONS {
        let mut recorder = Recorder::new();
        let middle_ns = 3e5 * (region as f64 / 6.0).exp2();
        for _ in 0..SAMPLES {
            let (uniform, tail) = (unit(&mut state), unit(&mut state));
            let spread = (uniform - 0.5).mul_add(0.8, if tail < 0.005 { 3.0 * unit(&mut state) } else { 0.0 });
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds at most, not negative")]
            let ns = (middle_ns * spread.exp()) as u64;
            recorder.record(ns);
            all.push(ns);
        }
        let mut own = Exponential::new();
        own.add(&recorder);
        merged.merge(&own);
    }
    all.sort_unstable();
    let mut worst = 0.0_f64;
    for thousandth in 1..1000_usize {
        let exact_s = all[(all.len() * thousandth).div_ceil(1000) - 1] as f64 / 1e9;
        let quantile_s = merged.quantile_s(thousandth as f64 / 1000.0).unwrap_or(f64::INFINITY);
        worst = worst.max((quantile_s / exact_s - 1.0).abs() * 100.0);
    }
    let how = format!(
        "pipeline.quantile_error: {REGIONS} regions with {SAMPLES} latencies each, recorded as agents do and merged as the collector does; \
         the largest error of 999 quantiles against all {} values sorted",
        all.len()
    );
    say_figures(&how, &[Figure::new("pipeline.quantile_error", "%", worst, TARGET_PERCENT)]);
}

/// The next of a fixed sequence in [0, 1) (xorshift64*).
fn unit(state: &mut u64) -> f64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
}
