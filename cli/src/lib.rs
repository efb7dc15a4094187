//! The operator's command: what a fleet says, whether a fleet file is right, what a database needs.

pub mod table;
pub mod terminal;
