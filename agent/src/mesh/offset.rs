//! How far a peer's measuring clock is from our own: an interval that always holds the truth. Pure.
//!
//! An exchange (t1 sent, t2 received, t3 answered, t4 back) with one-way floor f proves `t3 - t4 + f <= theta <= t2 - t1 - f`,
//! where theta is the peer's clock minus ours. The window keeps, per second, the exchange that proves most at either end. Each
//! proof is widened by what the two clocks may have gained on each other since, then all are intersected: the narrowest
//! exchanges win by themselves, there is no averaging.

use std::collections::VecDeque;
use std::time::Duration;

use lagmesh_model::directed::Directed;
use lagmesh_model::interval::{Interval, drift_ns};
use lagmesh_model::time::{Epoch, RawNanos};

/// How old a proof may be when a new one is there.
const WINDOW: Duration = Duration::from_secs(60);
/// One slot per second.
const SLOT_NS: u64 = 1_000_000_000;

/// The four stamps of an exchange: t1 and t4 on our clock, t2 and t3 on the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// The request was sent.
    pub t1: RawNanos,
    /// The peer received it.
    pub t2: RawNanos,
    /// The peer answered.
    pub t3: RawNanos,
    /// The answer was here.
    pub t4: RawNanos,
}

/// Two proofs had no point in common: a clock jumped unseen, or drifts beyond its allowance. The window started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction;

/// A bound without the floor, and the moment from which it ages.
#[derive(Debug, Clone, Copy)]
struct Bound {
    value_ns: i64,
    since: RawNanos,
}

impl Bound {
    /// What the clocks may have gained on each other since: twice the allowance of one, computed on a clock that itself drifts.
    fn aged_ns(&self, now: RawNanos) -> i64 {
        let age = Duration::from_nanos(now.0.abs_diff(self.since.0));
        let gained = 2 * drift_ns(age);
        (gained + 2 * drift_ns(Duration::from_nanos(gained))).cast_signed()
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    second: u64,
    lower: Bound,
    upper: Bound,
    narrowest: Narrowest,
}

#[derive(Debug, Clone, Copy)]
struct Narrowest {
    width_ns: i64,
    middle_ns: i64,
}

/// The window of one peer agent.
#[derive(Debug)]
pub struct OffsetWindow {
    epochs: Option<(Epoch, Epoch)>,
    floor_ns: i64,
    slots: VecDeque<Slot>,
}

impl OffsetWindow {
    /// A window; `floor_ns` is the shortest time one way that bounds may rely on [ns, >= 0].
    pub fn new(floor_ns: i64) -> OffsetWindow {
        OffsetWindow { epochs: None, floor_ns, slots: VecDeque::new() }
    }

    /// Takes in an exchange. A new epoch on either side starts the window anew.
    ///
    /// # Errors
    /// If it contradicts the window; the window then holds this exchange alone.
    pub fn record(&mut self, own: Epoch, peer: Epoch, exchange: &Exchange) -> Result<(), Contradiction> {
        if self.epochs != Some((own, peer)) {
            self.slots.clear();
            self.epochs = Some((own, peer));
        }
        let Some(slot) = slot_of(exchange) else { return Ok(()) };
        if slot.narrowest.width_ns < 2 * self.floor_ns {
            // Faster than light: the coordinates are wrong, and every bound that relied on them with them.
            self.floor_ns = 0;
        }
        self.insert(slot);
        if self.bounds(exchange.t4).is_none() {
            self.slots.clear();
            self.insert(slot);
            return Err(Contradiction);
        }
        Ok(())
    }

    /// The offset at `now`, with our epoch and the peer's for which it holds; `None` before the first exchange.
    pub fn at(&self, now: RawNanos) -> Option<(Epoch, Epoch, Interval)> {
        let (own, peer) = self.epochs?;
        let (lower_ns, upper_ns) = self.bounds(now)?;
        let narrowest = self.slots.iter().map(|slot| slot.narrowest).min_by_key(|narrowest| narrowest.width_ns)?;
        let interval = Interval::new(lower_ns, narrowest.middle_ns.clamp(lower_ns, upper_ns), upper_ns)?;
        Some((own, peer, interval))
    }

    /// How long the request of an exchange took and how long its answer, by the offset of that very time; `None` before the first exchange.
    ///
    /// If the exchange itself was recorded the upper ends are never below zero: it bounds the offset by what makes its own delays
    /// zero. The guess may be, by no more than what the clocks may gain on each other during the exchange.
    pub fn one_way(&self, exchange: &Exchange) -> Option<Directed<Interval>> {
        let (_, _, theta) = self.at(exchange.t4)?;
        let elapsed = Duration::from_nanos(exchange.t4.0.abs_diff(exchange.t1.0));
        let theta = theta.widen_for_drift_of_pair(elapsed);
        let forward = Interval::exact(exchange.t2.since_ns(exchange.t1)) - theta;
        let backward = Interval::exact(exchange.t4.since_ns(exchange.t3)) + theta;
        Some(Directed { forward, backward })
    }

    /// The one-way floor in use [ns]: zero without coordinates, or once an answer came faster than light allows between them.
    pub fn floor_ns(&self) -> i64 {
        self.floor_ns
    }

    fn insert(&mut self, new: Slot) {
        match self.slots.iter_mut().rev().find(|slot| slot.second == new.second) {
            Some(slot) => slot.take_in(&new),
            None => self.slots.push_back(new),
        }
        let oldest = new.second.checked_sub(WINDOW.as_secs());
        self.slots.retain(|slot| oldest.is_none_or(|oldest| slot.second > oldest));
    }

    fn bounds(&self, now: RawNanos) -> Option<(i64, i64)> {
        let lower = self.slots.iter().map(|slot| slot.lower.value_ns - slot.lower.aged_ns(now)).max()?;
        let upper = self.slots.iter().map(|slot| slot.upper.value_ns + slot.upper.aged_ns(now)).min()?;
        let (lower, upper) = (lower + self.floor_ns, upper - self.floor_ns);
        (lower <= upper).then_some((lower, upper))
    }
}

impl Slot {
    /// Keeps the better end of both. Within a second the drift matters less than the age: compared at the later moment.
    fn take_in(&mut self, new: &Slot) {
        let now = RawNanos(self.lower.since.0.max(new.lower.since.0));
        let lower = |slot: &Slot| slot.lower.value_ns - slot.lower.aged_ns(now);
        let upper = |slot: &Slot| slot.upper.value_ns + slot.upper.aged_ns(now);
        if lower(new) > lower(self) {
            self.lower = new.lower;
        }
        if upper(new) < upper(self) {
            self.upper = new.upper;
        }
        if new.narrowest.width_ns < self.narrowest.width_ns {
            self.narrowest = new.narrowest;
        }
    }
}

/// What an exchange proves; `None` if its stamps are impossible. Both ends age from t1, before anything happened.
fn slot_of(exchange: &Exchange) -> Option<Slot> {
    let lower_ns = exchange.t3.since_ns(exchange.t4);
    let upper_ns = exchange.t2.since_ns(exchange.t1);
    let bound = |value_ns| Bound { value_ns, since: exchange.t1 };
    let width_ns = upper_ns - lower_ns;
    (width_ns >= 0).then(|| Slot {
        second: exchange.t4.0 / SLOT_NS,
        lower: bound(lower_ns),
        upper: bound(upper_ns),
        narrowest: Narrowest { width_ns, middle_ns: lower_ns.midpoint(upper_ns) },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A host's raw clock: true time, its start and its rate.
    #[derive(Debug, Clone, Copy)]
    struct Host {
        start_ns: i64,
        drift_ppb: i64,
    }

    impl Host {
        fn at(&self, true_ns: i64) -> RawNanos {
            let drifted = i128::from(true_ns) * i128::from(1_000_000_000 + self.drift_ppb) / 1_000_000_000;
            RawNanos(u64::try_from(drifted + i128::from(self.start_ns)).unwrap())
        }
    }

    fn host() -> impl Strategy<Value = Host> {
        (1_000_000_000_000_i64..1_000_000_000_000_000, -50_000_i64..=50_000)
            .prop_map(|(start_ns, drift_ppb)| Host { start_ns, drift_ppb })
    }

    proptest! {
        /// The true offset is always inside, whatever the clocks' distance and drift, the delays and their asymmetry.
        #[test]
        fn the_truth_is_inside(
            own in host(), peer in host(), floor_ns in 0_i64..10_000_000,
            exchanges in proptest::collection::vec((0_i64..2_000_000_000, 0_i64..200_000_000, 0_i64..5_000_000, 0_i64..200_000_000), 1..120),
            later_ns in 0_i64..300_000_000_000,
        ) {
            let mut window = OffsetWindow::new(floor_ns);
            let mut now_ns = 1_000_000_000;
            for (wait, out, dwell, back) in exchanges {
                let sent = now_ns + wait;
                let (received, answered) = (sent + floor_ns + out, sent + floor_ns + out + dwell);
                now_ns = answered + floor_ns + back;
                let exchange = Exchange { t1: own.at(sent), t2: peer.at(received), t3: peer.at(answered), t4: own.at(now_ns) };
                // Two nanoseconds of the simulated stamps are lost to rounding.
                window.record(Epoch(1), Epoch(2), &exchange).expect("no contradiction between honest clocks");
                let (own_now, peer_now) = (own.at(now_ns), peer.at(now_ns));
                let (_, _, theta) = window.at(own_now).unwrap();
                prop_assert!(theta.widen(2).contains(peer_now.since_ns(own_now)), "{:?}", theta);
                let Directed { forward, backward } = window.one_way(&exchange).unwrap();
                // The truth is measured on no clock of the two: each may be off by its drift during the way.
                let slack = |ns: i64| 2 + drift_ns(Duration::from_nanos(ns.unsigned_abs()));
                prop_assert!(forward.widen(slack(floor_ns + out)).contains(floor_ns + out), "{:?}", forward);
                prop_assert!(backward.widen(slack(floor_ns + back)).contains(floor_ns + back), "{:?}", backward);
                prop_assert!(forward.upper_ns() >= 0 && backward.upper_ns() >= 0);
            }
            let (own_later, peer_later) = (own.at(now_ns + later_ns), peer.at(now_ns + later_ns));
            let (_, _, theta) = window.at(own_later).unwrap();
            prop_assert!(theta.widen(2).contains(peer_later.since_ns(own_later)), "{:?}", theta);
            prop_assert!(window.slots.len() <= 61);
        }
    }

    fn exchange(ms: u64, theta_ms: i64, out_ms: i64, back_ms: i64) -> Exchange {
        let own = |after_ms: i64| RawNanos((ms.cast_signed() + after_ms + 1_000_000).unsigned_abs() * 1_000_000);
        let peer = |after_ms: i64| RawNanos(own(after_ms + theta_ms).0);
        Exchange { t1: own(0), t2: peer(out_ms), t3: peer(out_ms), t4: own(out_ms + back_ms) }
    }

    fn ends_ms(window: &OffsetWindow, exchange: &Exchange) -> (i64, i64) {
        let (_, _, interval) = window.at(exchange.t4).unwrap();
        (interval.lower_ns() / 1_000_000, interval.upper_ns() / 1_000_000)
    }

    /// Two lopsided exchanges prove more than either: each gives the end at which it was fast.
    #[test]
    fn ends_combine() {
        let mut window = OffsetWindow::new(0);
        window.record(Epoch(1), Epoch(2), &exchange(0, 500, 10, 90)).unwrap();
        let second = exchange(200, 500, 90, 10);
        window.record(Epoch(1), Epoch(2), &second).unwrap();
        assert_eq!(ends_ms(&window, &second), (489, 510));
    }

    /// The floor narrows both ends, until an answer comes faster than light.
    #[test]
    fn floor() {
        let mut window = OffsetWindow::new(30_000_000);
        let fair = exchange(0, 500, 40, 40);
        window.record(Epoch(1), Epoch(2), &fair).unwrap();
        assert_eq!(ends_ms(&window, &fair), (489, 510));
        let fast = exchange(5_000, 500, 25, 25);
        window.record(Epoch(1), Epoch(2), &fast).unwrap();
        assert_eq!((window.floor_ns(), ends_ms(&window, &fast)), (0, (474, 525)));
    }

    /// An unseen jump of a clock is a contradiction, reported once; the window then believes the new exchange.
    #[test]
    fn contradiction() {
        let mut window = OffsetWindow::new(0);
        window.record(Epoch(1), Epoch(2), &exchange(0, 500, 10, 10)).unwrap();
        let jumped = exchange(2_000, 900, 10, 10);
        assert_eq!(window.record(Epoch(1), Epoch(2), &jumped), Err(Contradiction));
        assert_eq!(ends_ms(&window, &jumped), (889, 910));
        assert_eq!(window.record(Epoch(1), Epoch(2), &exchange(4_000, 900, 10, 10)), Ok(()));
    }

    /// A new epoch on either side starts anew without a contradiction.
    #[test]
    fn epochs() {
        let mut window = OffsetWindow::new(0);
        window.record(Epoch(1), Epoch(2), &exchange(0, 500, 10, 10)).unwrap();
        window.record(Epoch(1), Epoch(3), &exchange(1_000, -700, 10, 10)).unwrap();
        window.record(Epoch(4), Epoch(3), &exchange(2_000, 0, 10, 10)).unwrap();
        assert_eq!(window.at(RawNanos(0)).map(|(own, peer, _)| (own, peer)), Some((Epoch(4), Epoch(3))));
    }
}
