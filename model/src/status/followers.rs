//! What a writer says of those who receive its log.

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::known::Known;

/// Those who receive the log of a node, all as of one look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Followers {
    /// Each of them; who is missing here is not connected.
    pub followers: Vec<Follower>,
    /// How many more there are than are told one by one.
    pub more: u64,
    /// How long ago the server was asked [s].
    pub evidence_age_s: f64,
}

/// One connection that receives the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Follower {
    /// What it calls itself; several may share one name.
    pub application_name: String,
    /// Which node of the fleet it is, where its slot or its name says so; nobody guesses.
    pub node: Option<NodeName>,
    /// What it does; unknown where the server hides it.
    pub sending: Known<Sending>,
}

/// What a writer says that one follower does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sending {
    /// The server's word: `streaming`, `catchup`, `startup`, `backup`, `stopping`. It stays `streaming` while the way is dead.
    pub state: String,
    /// The server's word: `async`, `potential`, `sync` or `quorum`.
    pub sync_state: Option<String>,
    /// Log that was written and not sent [bytes].
    pub unsent_bytes: Option<u64>,
    /// Log that was written and of which the follower has not said that it is on its disk [bytes].
    pub unflushed_bytes: Option<u64>,
    /// Log that was written and of which the follower has not said that it is replayed [bytes].
    pub unreplayed_bytes: Option<u64>,
    /// Since the follower's last reply [s]: the writer's wall clock less the follower's, so it holds their difference and may be negative.
    pub reply_age_s: Option<f64>,
}
