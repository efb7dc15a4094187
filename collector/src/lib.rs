//! lagmesh-collector: receives what agents saw, merges it exactly, judges regions and links, and serves the result.
//!
//! Modules stand in the order in which data flows.

pub mod merge;
pub mod judge;
pub mod snapshot;

#[cfg(test)]
mod fixture;
