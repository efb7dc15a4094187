//! What is too old, or too much, goes: a row of each series at a time, so that batches never wait for
//! long, and a clock that is wrong for an hour does not take a year of history with it.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::table::{BLOCKS_S, TIERS, kept_since};

/// Steps in one sweep when the file is too large.
const STEPS_MAX: usize = 12;

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long each tier is kept, the finest first.
    pub for_: [Duration; 3],
    /// How large the file may grow [bytes]; beyond, the oldest of the finest tier goes first.
    pub bytes_max: u64,
}

impl Default for Keep {
    fn default() -> Keep {
        let hour = Duration::from_secs(3600);
        Keep { for_: [hour * 48, hour * 24 * 14, hour * 24 * 400], bytes_max: 4 << 30 }
    }
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Swept {
    /// Rows that went before their time because the file was too large.
    pub(super) crowded_out: u64,
    /// What is in use of the file [bytes].
    pub(super) bytes: u64,
}

/// Drops what is due.
pub(super) fn sweep(connection: &mut Connection, keep: &Keep, now_s: u64) -> Result<Swept, rusqlite::Error> {
    for (tier, keep) in keep.for_.iter().enumerate() {
        let due_s = now_s.saturating_sub(keep.as_secs());
        if oldest_s(connection, tier)?.is_some_and(|oldest| oldest < due_s) {
            drop_oldest(connection, tier, due_s)?;
        }
    }
    let mut swept = Swept { crowded_out: 0, bytes: used_bytes(connection)? };
    for _ in 0..STEPS_MAX {
        if swept.bytes <= keep.bytes_max {
            break;
        }
        let mut fullest = None;
        for tier in 0..TIERS.len() {
            if oldest_s(connection, tier)?.is_some() {
                fullest = Some(tier);
                break;
            }
        }
        let Some(tier) = fullest else { break };
        swept.crowded_out += drop_oldest(connection, tier, u64::MAX)?;
        swept.bytes = used_bytes(connection)?;
    }
    Ok(swept)
}

/// Drops the oldest rows of a tier, nothing from `until_s` on. Returns how many that were.
fn drop_oldest(connection: &mut Connection, tier: usize, until_s: u64) -> Result<u64, rusqlite::Error> {
    let Some(oldest_s) = oldest_s(connection, tier)? else { return Ok(0) };
    let block_s = BLOCKS_S[tier];
    let since_s = kept_since(connection)?[tier].max(oldest_s).saturating_add(block_s).min(until_s) / block_s * block_s;
    let transaction = connection.transaction()?;
    let sql = format!("DELETE FROM {} WHERE block < ?1", TIERS[tier]);
    let dropped = transaction.execute(&sql, [since_s.cast_signed()])?;
    let sql =
        "INSERT INTO kept (tier, since) VALUES (?1, ?2) ON CONFLICT (tier) DO UPDATE SET since = max(since, excluded.since)";
    transaction.execute(sql, params![TIERS[tier], since_s.cast_signed()])?;
    transaction.commit()?;
    Ok(dropped as u64)
}

fn oldest_s(connection: &Connection, tier: usize) -> Result<Option<u64>, rusqlite::Error> {
    let sql = format!("SELECT min(block) FROM {}", TIERS[tier]);
    Ok(connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0))?.map(i64::cast_unsigned))
}

fn used_bytes(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let used = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
    Ok(u64::try_from(used).unwrap_or(0))
}
