//! The words of lagmesh and the pure types behind them: no runtime, no clock, no I/O.
//!
//! Modules stand in the order in which they build on each other: what a moment is, who is who, how sure we are, what is
//! measured, and what leaves the program.

#![warn(missing_docs)]

pub mod access;
pub mod beat;
pub mod catalogue;
pub mod dead_letter;
pub mod directed;
pub mod disagreement;
pub mod document;
pub mod exposition;
pub mod fleet;
pub mod histogram;
pub mod history;
pub mod ids;
pub mod interval;
pub mod known;
pub mod otlp;
pub mod physics;
pub mod position;
pub mod series;
pub mod state;
pub mod status;
pub mod stopwatch;
pub mod time;
