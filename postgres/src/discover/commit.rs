//! What a commit of this session waits for.

use lagmesh_model::state::CommitLevel;
use tokio_postgres::{Client, Error};

/// What commits wait for by the server's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitSetting {
    /// The session's own level.
    pub level: CommitLevel,
    /// Whether `synchronous_standby_names` names any: else every level from `local` up is the same.
    pub has_standby_names: bool,
}

/// Reads the setting that holds for the session's next commit. `None` for a level that this program does not know.
///
/// # Errors
/// The server's.
pub async fn commit_setting(client: &Client) -> Result<Option<CommitSetting>, Error> {
    let sql =
        "SELECT pg_catalog.current_setting('synchronous_commit'), pg_catalog.current_setting('synchronous_standby_names') <> ''";
    let row = client.query_typed_one(sql, &[]).await?;
    let has_standby_names = row.try_get(1)?;
    let level = CommitLevel::from_word(row.try_get(0)?);
    Ok(level.map(|level| CommitSetting { level, has_standby_names }))
}
