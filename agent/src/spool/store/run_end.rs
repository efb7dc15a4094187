//! The last batches of the runs before this one, which are sent before what else was missed. What an earlier run has made is known when the
//! file is opened, and only gets less.

use std::collections::BTreeMap;

use lagmesh_model::ids::CollectorName;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{NAMED_MAX, ParcelId, Store};

/// The last batch of each earlier run of which batches wait, by collector, the oldest run first.
pub(super) type RunEnds = BTreeMap<CollectorName, Vec<ParcelId>>;

/// The index on (agent, boot, sequence) answers this: no body is read.
pub(super) const RUN_ENDS: &str = "
    SELECT id, max(sequence) FROM batch CROSS JOIN pending ON pending.collector = ?1 AND pending.batch = batch.id
    GROUP BY agent, boot ORDER BY id
";
/// The batch that is the last of its run once a later one can never be delivered.
const BEFORE: &str = "
    SELECT before.id FROM batch AS refused JOIN batch AS before USING (agent, boot)
    JOIN pending ON pending.collector = ?1 AND pending.batch = before.id
    WHERE refused.id = ?2 ORDER BY before.sequence DESC LIMIT 1
";

impl Store {
    /// Looks for them, before this run has made a batch.
    pub(super) fn find_run_ends(&mut self) -> rusqlite::Result<()> {
        let mut found = RunEnds::new();
        for collector in &self.settings.collectors {
            let mut statement = self.db.prepare(RUN_ENDS)?;
            let ends = statement.query_map([collector.as_str()], |row| row.get(0).map(ParcelId))?;
            found.insert(collector.clone(), ends.collect::<rusqlite::Result<_>>()?);
        }
        self.run_ends = found;
        Ok(())
    }

    /// The first of them that wait for a collector, for which `oldest` is the oldest batch that waits.
    pub(super) fn run_ends_that_wait(
        &self,
        collector: &CollectorName,
        oldest: Option<ParcelId>,
    ) -> rusqlite::Result<Vec<ParcelId>> {
        let mut found = Vec::new();
        let ends = self.run_ends.get(collector).into_iter().flatten();
        // What the bounds have dropped needs no look.
        for end in ends.skip_while(|end| oldest.is_none_or(|oldest| **end < oldest)) {
            if found.len() == NAMED_MAX {
                break;
            }
            if self.waits(collector, *end)? {
                found.push(*end);
            }
        }
        Ok(found)
    }

    /// A batch no longer waits for a collector. If it was the last of its run, another may stand in its place.
    pub(super) fn run_end_settled(&mut self, collector: &CollectorName, id: ParcelId, instead: Option<ParcelId>) {
        let Some(ends) = self.run_ends.get_mut(collector) else { return };
        let Some(place) = ends.iter().position(|end| *end == id) else { return };
        match instead {
            Some(before) => ends[place] = before,
            None => drop(ends.remove(place)),
        }
    }
}

/// The batch before one that waits for a collector, of the same run.
pub(super) fn before(db: &Connection, collector: &CollectorName, id: ParcelId) -> rusqlite::Result<Option<ParcelId>> {
    db.prepare(BEFORE)?.query_row(params![collector.as_str(), id.0], |row| row.get(0).map(ParcelId)).optional()
}
