//! This crate against real PostgreSQL servers, started and stopped by each test.

mod beats;
mod bootstrap;
mod commits;
mod connecting;
mod deadlines;
mod discovery;
mod poolers;
mod support;
mod surroundings;
mod tls;
