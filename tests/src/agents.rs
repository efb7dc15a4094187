//! Real agents on loopback that measure each other, without servers and without an emulated network: cheap enough to be killed a hundred
//! times a minute. A witness between them and their collectors knows what was delivered and what was acknowledged.

mod bed;
mod damage;
mod deaths;
mod spool;
mod witness;

pub use bed::AgentsBed;
pub use damage::damage_file;
pub use deaths::{AgentDeaths, survive_deaths};
pub use witness::{Runs, Witness};
