//! The testbed: a wide-area network, clocks and databases on one machine, with the truth known, and lagmesh's real programs in it. A
//! scenario says what is built, what happens to it and what must be seen.
//!
//! Modules stand in the order in which data passes them: what a scenario says, what is built from it, what is known to be true, and
//! what lagmesh is found to say.

pub mod plan;
pub mod scenario;

pub mod clocks;
pub mod disk;
pub mod files;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod real;
pub mod skip;
pub mod selftest;
pub mod wait;
pub mod wan;
pub mod world;
pub mod feed;
pub mod agents;

pub mod observer;
pub mod run;
pub mod bench;

pub mod browser;
pub mod otelcol;
pub mod peers;
pub mod prometheus;
pub mod alertmanager;
