//! How the ways out get on, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::ids::TargetName;
use lagmesh_model::series::{Attributes, Series, push_states};
use lagmesh_model::state::ForwardState;
use lagmesh_model::time::Reading;
use tokio::sync::watch;

use super::queue::{Level, Levels};

/// How the ways out get on; shared by those who tell and those who show.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Posts>>);

#[derive(Debug, Default)]
struct Posts {
    levels: Option<watch::Receiver<Levels>>,
    states: BTreeMap<TargetName, ForwardState>,
}

impl Board {
    /// Where the queue tells what waits.
    pub(super) fn show(&self, levels: watch::Receiver<Levels>) {
        self.lock().levels = Some(levels);
    }

    /// How one target gets on, and whether that is news.
    pub(super) fn tell(&self, target: &TargetName, state: ForwardState) -> bool {
        self.lock().states.insert(target.clone(), state) != Some(state)
    }

    /// As series; none without targets.
    pub fn series(&self, now: Reading) -> Vec<Series> {
        let posts = self.lock();
        let Some(levels) = &posts.levels else { return Vec::new() };
        let mut out = Vec::new();
        for (target, level) in levels.borrow().iter() {
            let state = posts.states.get(target).copied().unwrap_or(ForwardState::Waiting);
            series(target, level, state, now, &mut out);
        }
        out
    }

    fn lock(&self) -> MutexGuard<'_, Posts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn series(target: &TargetName, level: &Level, state: ForwardState, now: Reading, out: &mut Vec<Series>) {
    let attributes = Attributes::new().with(Attribute::Target, target);
    push_states(out, &catalogue::FORWARD_STATE, &attributes, ForwardState::ALL, state);
    out.push(Series::counter(&catalogue::FORWARD_POINTS, attributes.clone(), level.taken));
    out.extend(level.lost.iter().map(|(reason, points)| {
        Series::counter(&catalogue::FORWARD_LOST, attributes.clone().with(Attribute::Reason, reason.as_str()), *points)
    }));
    out.push(Series::gauge(&catalogue::FORWARD_PENDING, attributes.clone(), level.bytes as f64));
    if let Some(age_s) = level.newest.and_then(|newest| age_s(newest, now)) {
        out.push(Series::gauge(&catalogue::FORWARD_AGE, attributes, age_s));
    }
}

/// By the measuring clock; across a restart of the host only the labels are left.
fn age_s(newest: Reading, now: Reading) -> Option<f64> {
    if newest.epoch == now.epoch {
        return now.raw.checked_since(newest.raw).map(|age| age.as_secs_f64());
    }
    now.wall.0.checked_sub(newest.wall.0).map(|age_ns| age_ns as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use lagmesh_model::series::Value;

    use super::*;
    use crate::fixture::at;
    use crate::forward::answer::Reason;

    /// A target that has got nothing has no age; all else is told from the start. Without targets there is nothing.
    #[test]
    fn what_is_unknown_is_absent() {
        let board = Board::default();
        assert!(board.series(at(1)).is_empty());
        let target: TargetName = "a".parse().unwrap();
        let (told, levels) = watch::channel(Levels::from([(target.clone(), Level::default())]));
        board.show(levels);
        let of = |metric: &catalogue::Metric| -> Vec<Value> {
            board.series(at(9)).into_iter().filter(|series| series.metric == metric).map(|series| series.value).collect()
        };
        assert_eq!((of(&catalogue::FORWARD_AGE), of(&catalogue::FORWARD_PENDING)), (vec![], vec![Value::Gauge(0.0)]));
        assert!(board.tell(&target, ForwardState::Retrying) && !board.tell(&target, ForwardState::Retrying));
        let lost = BTreeMap::from([(Reason::QueueFull, 3)]);
        told.send_replace(Levels::from([(target, Level { newest: Some(at(2)), taken: 5, lost, ..Level::default() })]));
        assert_eq!(of(&catalogue::FORWARD_AGE), [Value::Gauge(7.0)]);
        assert_eq!(
            (of(&catalogue::FORWARD_POINTS), of(&catalogue::FORWARD_LOST)),
            (vec![Value::Counter(5)], vec![Value::Counter(3)])
        );
        assert!(board.series(at(9)).iter().all(|series| series.attributes.fit(series.metric)));
    }
}
