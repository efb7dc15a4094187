//! Latency distributions: measured at full resolution, exported as exponential histograms of one fixed scale, merged exactly.
//!
//! A [`Recorder`] takes the values of one export interval; [`Exponential`] accumulates them and is what travels, is merged and
//! is asked. The fixed scale makes merging and subtracting exact integer additions, and no host can degrade another's resolution.
//!
//! A quantile of an [`Exponential`] is at most 1.14 % from the exact nearest-rank quantile of the values: 1.083 % for half a bucket
//! of scale 5 (by the harmonic midpoint) and 0.049 % for half a bucket of the recorder.

mod exponential;
mod native;
#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "drawn values and ranks are positive and in range")]
mod properties;
mod recorder;
pub(crate) mod scale;

pub use exponential::{Bad, Exponential};
pub use native::{Native, Span};
pub use recorder::Recorder;
