//! What a node says of its writes: its slots and its ledger, out of what its agents export.

use std::cmp::Reverse;

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::series::Attributes;
use lagmesh_model::state::{CommitLevel, SlotState, WriteOutcome};
use lagmesh_model::status::{Ledger, Slot, Slots};

use crate::merge::{Witness, named};

/// The slots of a node in the order of its agent; `None` if it does not tell how many there are.
pub(super) fn slots(witness: &Witness<'_>, node: &Attributes) -> Option<Slots> {
    let all = whole(witness.gauge(&catalogue::NODE_SLOTS, node)?);
    let name: String = named(node, Attribute::Node)?;
    let told = witness.having(&catalogue::SLOT_ACTIVE, Attribute::Node, &name);
    let mut slots: Vec<Slot> = told.filter_map(|attributes| slot(witness, attributes)).collect();
    slots.sort_by_key(|slot| (slot.state != SlotState::Lost, Reverse(slot.retained_bytes), slot.slot.clone()));
    Some(Slots { more: all.saturating_sub(slots.len() as u64), slots })
}

fn slot(witness: &Witness<'_>, attributes: &Attributes) -> Option<Slot> {
    let gauge = |metric| witness.gauge(metric, attributes);
    Some(Slot {
        slot: named(attributes, Attribute::Slot)?,
        logical: None,
        active: gauge(&catalogue::SLOT_ACTIVE)? > 0.5,
        state: witness.state(&catalogue::SLOT_STATE, attributes, SlotState::ALL)?,
        retained_bytes: gauge(&catalogue::SLOT_RETAINED).map(whole),
        #[expect(clippy::cast_possible_truncation, reason = "bytes of log; hostile values saturate")]
        safe_bytes: gauge(&catalogue::SLOT_SAFE).map(|bytes| bytes as i64),
        exhaustion_s: gauge(&catalogue::SLOT_EXHAUSTION),
        inactive_s: None,
        invalidation_reason: None,
    })
}

/// What the newest row of the ledger says; `None` if the agent tells of none.
pub(super) fn ledger(witness: &Witness<'_>, node: &Attributes) -> Option<Ledger> {
    let (level, outcome) = CommitLevel::ALL.iter().find_map(|level| {
        let at_level = node.clone().with(Attribute::Level, level);
        Some((*level, witness.word(&catalogue::HEARTBEAT_LEDGER, &at_level, Attribute::Outcome, WriteOutcome::ALL)?))
    })?;
    Some(Ledger { outcome, level, why: why(outcome, level), acknowledged: None, acknowledged_age_s: age_s(witness, node) })
}

/// The agent's own words stay with the agent.
fn why(outcome: WriteOutcome, level: CommitLevel) -> String {
    let trouble = match outcome {
        WriteOutcome::Acknowledged => return String::new(),
        WriteOutcome::InDoubt => "hang",
        WriteOutcome::Failed => "fail",
    };
    let explained = outcome.explain();
    format!("writes {trouble} as applications get them, at level {level}: {explained}; the agent's own status says more")
}

/// Since the newest row was acknowledged that the agent knew of when it exported [s].
fn age_s(witness: &Witness<'_>, node: &Attributes) -> Option<f64> {
    Some(witness.gauge(&catalogue::HEARTBEAT_LEDGER_AGE, node)? + witness.age.seconds?)
}

/// Why nothing is known of the ledger of a node that is not silent.
pub(super) fn no_ledger(witness: Option<&Witness<'_>>, node: &Attributes) -> &'static str {
    match witness.and_then(|witness| age_s(witness, node)) {
        Some(_) => "the agent has not been able to write it of late: its own status says why",
        None => "its agents write none there, or have not been able to: their own status says why",
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count or bytes; hostile values saturate")]
fn whole(value: f64) -> u64 {
    value as u64
}
