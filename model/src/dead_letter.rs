//! What a collector refused for good, as an agent tells it on its control socket.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentName, BootId};
use crate::time::WallNanos;

/// The name of an agent's control socket in its state folder.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Where the dead letters stand on that socket; `/ID` behind it is one of them.
pub const DEAD_LETTERS: &str = "/v1/dead-letters";

/// A batch that a collector refused for good. The body is asked for by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its key in this agent's spool; grows with time and is never used twice.
    pub id: i64,
    /// Who refused it. Text: it may be gone from the fleet file since.
    pub collector: String,
    /// Who made the batch.
    pub agent: AgentName,
    /// In which run of the agent.
    pub boot: BootId,
    /// Its number within the run [1 and up].
    pub sequence: u64,
    /// When it was made.
    pub made: WallNanos,
    /// When it was refused.
    pub refused: WallNanos,
    /// The status and the collector's own words, at most 300 characters.
    pub reason: String,
    /// How the body is compressed: `gzip`, `zstd` or `identity`.
    pub encoding: String,
    /// The size of the body as it was sent [bytes].
    pub bytes: u64,
}
