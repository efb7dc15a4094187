//! The world in which lagmesh is tested and shown: real PostgreSQL servers, real agents, a real collector, all on this machine
//! and all gone when it is dropped.

pub mod browser;
pub mod files;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod real;
pub mod selftest;
pub mod wait;
pub mod wan;
pub mod world;
