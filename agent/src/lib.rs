//! lagmesh-agent: one per region. It measures the mesh and the replication and exports what it saw.
//!
//! Data flows one way: the mesh and the database part observe, the trackers and the summary fold, the spool keeps, the senders
//! deliver. Modules stand in that order.

pub mod config;
pub mod measurement;
pub mod mesh;
pub mod database;
pub mod link;
pub mod replication;
pub mod summary;
pub mod spool;
pub mod send;
pub mod http;
