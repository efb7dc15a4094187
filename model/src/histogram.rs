//! Latency distributions: measured at full resolution, exported as exponential histograms of one fixed scale, merged exactly.

/// Placeholder until written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exponential {}
