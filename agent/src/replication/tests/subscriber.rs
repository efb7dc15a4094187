use lagmesh_model::ids::SlotHash;
use lagmesh_postgres::discover::SubscriberSample;
use proptest::prelude::*;

use super::*;
use crate::slot::{REACH_HELD, SlotReach};

/// A publisher and its subscriber. What is committed arrives after a while, is on disk and confirmed later still, all in order.
#[derive(Debug, Clone)]
struct Plan {
    /// When something is committed that is no beat [ms], and how many bytes of log it takes.
    traffic: Vec<(u64, u64)>,
    /// From a commit to its application, from there to the subscriber's disk, and from there to the slot [ms].
    way_ms: [u64; 3],
    /// The subscriber applies nothing from then on.
    stops_ms: u64,
    /// How often the slot is looked at, how long that takes, and how long it takes over the mesh [ms].
    look_ms: [u64; 3],
    /// How often the subscriber is polled [ms].
    poll_ms: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { traffic: Vec::new(), way_ms: [40, 20, 30], stops_ms: u64::MAX, look_ms: [1_000, 2, 30], poll_ms: 250 }
    }
}

struct Subscribed {
    plan: Plan,
    /// When each commit was, and where its log ends.
    commits: Vec<(u64, u64)>,
    replications: Replications,
    view: PeerView,
    visible: usize,
    polled_ms: Option<u64>,
    /// The newest look of the publisher's that was told, and when it was made.
    looked_ms: Option<u64>,
}

impl Subscribed {
    fn new(plan: Plan, seconds: u64) -> Subscribed {
        let fleet = Fleet::parse("fleet.toml", FLEET).unwrap();
        // A beat's position is read when it is sent; its commit is there a millisecond later, when it returns.
        let beats = (1..=seconds).map(|n| (n * 1_000 + 1, 100));
        let mut commits: Vec<_> = beats.chain(plan.traffic.iter().copied()).collect();
        commits.sort_unstable();
        let mut end = 0;
        for (_, bytes) in &mut commits {
            end += *bytes;
            *bytes = end;
        }
        let mut replications = Replications::new(&fleet, &"west".parse().unwrap());
        let told = [
            NodeNews::State { state: NodeState::Ok, why: String::new() },
            NodeNews::Facts { facts: facts(false), role: NodeRole::Subscriber },
        ];
        for news in told {
            replications.record(of_subscriber(0, news), &PeerView::default());
        }
        Subscribed { plan, commits, replications, view: PeerView::default(), visible: 0, polled_ms: None, looked_ms: None }
    }

    /// How many commits have come so far at a moment: applied, on disk, confirmed.
    fn came(&self, ms: u64, stage: usize) -> usize {
        let [apply, more @ ..] = self.plan.way_ms;
        let later = more[..stage].iter().sum::<u64>();
        self.commits.partition_point(|(at, _)| at + apply < self.plan.stops_ms && at + apply + later <= ms)
    }

    fn end_of(&self, commits: usize) -> Position {
        let lsn = commits.checked_sub(1).map_or(0, |last| self.commits[last].1);
        Position { lsn: Lsn(lsn), ..position(1) }
    }

    /// Of what is not on disk by a moment, when the oldest was committed, if it was by another.
    fn oldest_missing(&self, disk_ms: u64, written_ms: u64) -> Option<u64> {
        self.commits.get(self.came(disk_ms, 1)).map(|(at, _)| *at).filter(|at| *at <= written_ms)
    }

    fn beat(&self, n: u64) -> Position {
        self.end_of(self.commits.partition_point(|(at, _)| *at <= n * 1_000))
    }

    fn look(&self, ms: u64) -> SlotReach {
        let looked = |ms| RawNanos(at(ms).raw.0 + OFFSET_MS * 1_000_000);
        let [_, took, _] = self.plan.look_ms;
        let confirmed = self.end_of(self.came(ms + took / 2, 2));
        SlotReach { epoch: Epoch(2), began: looked(ms), ended: looked(ms + took), confirmed }
    }

    fn step(&mut self, ms: u64) {
        let [every, took, way] = self.plan.look_ms;
        let far: AgentName = "east".parse().unwrap();
        if ms % 50 == 10 {
            let offset = Interval::new(ns(OFFSET_MS) - 3_000_000, ns(OFFSET_MS) + 900_000, ns(OFFSET_MS) + 1_000_000).unwrap();
            self.view.clocks.insert(far.clone(), PeerClock { epoch: Epoch(2), own_epoch: OWN, offset, at: at(ms).raw });
            self.view.heard.insert(far.clone(), at(ms).raw);
        }
        if ms % 1_000 == 1 + way && ms > 1_000 {
            let n = ms / 1_000;
            let what = Announcement { position: self.beat(n), ..announcement(n) };
            self.view.announcements.insert("east-db".parse().unwrap(), Heard { what, from: far.clone(), at: at(ms).raw });
        }
        if let Some(began) = ms.checked_sub(took + way).filter(|began| *began > 0 && began % every == 0) {
            let heard = Heard { what: self.look(began), from: far, at: at(ms).raw };
            self.view.reaches.insert(("east-db".parse().unwrap(), SlotHash::of("reader")), heard);
            self.looked_ms = Some(began);
        }
        if ms % self.plan.poll_ms == 100 {
            self.poll(ms);
        }
        if ms.is_multiple_of(1_000) {
            let sample =
                SubscriberSample { carries_beats: true, apply_errors: None, slots: vec!["other".into(), "reader".into()] };
            self.tell(ms, NodeNews::Subscriber(sample));
        }
    }

    fn poll(&mut self, ms: u64) {
        let came = self.came(ms, 0);
        let beats: Vec<u64> =
            self.commits[self.visible..came].iter().filter(|(at, _)| at % 1_000 == 1).map(|(at, _)| at / 1_000).collect();
        self.visible = came;
        self.tell(ms, NodeNews::Polled { started: at(ms).raw, ended: at(ms).raw });
        for n in beats {
            let absent = self.polled_ms.map(|ms| at(ms).raw);
            let row = BeatRow { position: self.beat(n), ..row(n) };
            let (asked, present) = (at(ms).raw, at(ms).raw);
            let sighting = Sighting { row, absent, asked, present, guess: None, own_wall: None, polls: None };
            self.tell(ms, NodeNews::Sighting(sighting));
        }
        self.polled_ms = Some(ms);
    }

    fn tell(&mut self, ms: u64, news: NodeNews) {
        self.replications.record(of_subscriber(ms, news), &self.view);
    }

    fn only(&mut self, ms: u64) -> status::Replication {
        let mut links = self.replications.status(at(ms), &self.view);
        assert_eq!(links.len(), 1, "{links:?}");
        links.remove(0)
    }

    fn run(&mut self, ms: std::ops::RangeInclusive<u64>) -> status::Replication {
        let last = *ms.end();
        ms.for_each(|ms| self.step(ms));
        self.only(last)
    }
}

fn of_subscriber(ms: u64, news: NodeNews) -> NodeEvent {
    NodeEvent { cluster: "orders".parse().unwrap(), node: "west-db".parse().unwrap(), at: at(ms), news }
}

fn seconds(known: &Known<status::Seconds>) -> (f64, f64) {
    let value = known.current().copied().unwrap_or_else(|| panic!("{known:?}"));
    (value.lower_s, value.upper_s)
}

fn plans() -> impl Strategy<Value = Plan> {
    let traffic = prop::collection::vec((1_u64..12, 2_u64..1_000, 1_u64..9_000), 0..60);
    let traffic = traffic.prop_map(|all| all.into_iter().map(|(s, ms, bytes)| (s * 1_000 + ms, bytes)).collect());
    let way = [1_u64..900, 0..700, 0..900];
    let look = [20_u64..1_500, 0..40, 5..400];
    let poll = 101_u64..3_000;
    (traffic, way, 1_u64..20_000, look, poll).prop_map(|(traffic, way_ms, stops_ms, look_ms, poll_ms)| Plan {
        traffic,
        way_ms,
        stops_ms,
        look_ms,
        poll_ms,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is written, however long it takes to come, to reach the disk and to be confirmed, and whether it stops: the bounds hold what is
    /// really missing on the subscriber's disk. The upper end goes by the publisher's look, the lower one by the newest poll.
    #[test]
    fn bounds_hold_what_is_missing(plan in plans()) {
        let mut sim = Subscribed::new(plan, 12);
        for ms in 1..12_000 {
            sim.step(ms);
            let (Some(looked), Some(polled), true) = (sim.looked_ms, sim.polled_ms, ms > 2_000 && ms % 50 == 30) else { continue };
            let link = sim.only(ms);
            let s = |ms: u64| ms as f64 / 1e3;
            let Some(_) = link.log.flushed.delay.current() else { continue };
            let (lower, upper) = seconds(&link.log.flushed.delay);
            let waited = |ms: u64| sim.oldest_missing(ms, ms).map_or(0.0, |at| s(ms - at));
            prop_assert!(upper + 1e-9 >= waited(looked), "{upper} {} {link:?}", waited(looked));
            prop_assert!(lower <= waited(polled) + 1e-9, "{lower} {} {link:?}", waited(polled));
            let (lower, upper) = seconds(&link.loss);
            let newest = sim.commits.iter().rev().map(|(at, _)| *at).find(|at| *at <= ms).unwrap_or(0);
            let lost = |disk_ms: u64| sim.oldest_missing(disk_ms, ms).map_or(0.0, |at| s(newest - at));
            prop_assert!(upper + 1e-9 >= lost(ms), "{upper} {} {link:?}", lost(ms));
            prop_assert!(lower <= lost(polled) + 1e-9, "{lower} {} {link:?}", lost(polled));
        }
    }
}

/// A subscriber that keeps up has confirmed about everything; one that stops is behind by no less than what it does not show, second by second. How
/// far it has received or replayed nobody says.
#[test]
fn a_subscriber_that_stops() {
    let mut sim = Subscribed::new(Plan { stops_ms: 6_000, ..Plan::default() }, 40);
    let link = sim.run(1..=5_900);
    let (delay, loss) = (seconds(&link.log.flushed.delay), seconds(&link.loss));
    assert!(delay.0 == 0.0 && delay.1 < 1.1 && loss.0 == 0.0 && loss.1 < 1.1, "{delay:?} {loss:?}");
    assert_eq!(link.log.flushed.backlog_bytes.current(), Some(&0));
    assert!(link.log.received.delay.current().is_none() && link.log.replayed.backlog_bytes.current().is_none());
    let link = sim.run(5_901..=25_900);
    let (delay, loss) = (seconds(&link.log.flushed.delay), seconds(&link.loss));
    assert!(delay.0 > 18.0 && delay.1 < 21.0 && loss.0 > 18.0 && loss.1 < 21.0, "{delay:?} {loss:?}");
    assert_eq!(link.log.flushed.backlog_bytes.current(), Some(&1_900));
}

/// What the publisher's agents do not say any more stays true, but is called old; what they never said is unknown, as is what a slot of
/// another server or name says.
#[test]
fn nobody_says_how_far_a_slot_is() {
    let mut sim = Subscribed::new(Plan::default(), 40);
    sim.run(1..=5_900);
    let heard = sim.view.reaches.clone();
    let reach = heard.values().next().unwrap().clone();
    let of = |node: &str, slot| [((node.parse().unwrap(), SlotHash::of(slot)), reach.clone())].into();
    for reaches in [BTreeMap::new(), of("west-db", "reader"), of("east-db", "somebody")] {
        sim.view.reaches = reaches;
        let link = sim.only(5_900);
        assert!(matches!((&link.log.flushed.delay, &link.loss), (Known::Unknown { .. }, Known::Unknown { .. })), "{link:?}");
    }
    sim.view.reaches = heard;
    sim.plan.look_ms = [u64::MAX, 0, 1];
    let quiet_ms = 5_900 + u64::try_from(REACH_HELD.as_millis()).unwrap() + 100;
    let link = sim.run(5_901..=quiet_ms);
    let (Known::Stale { age_s, .. }, Known::Stale { value, .. }) = (&link.log.flushed.delay, &link.loss) else {
        panic!("{link:?}")
    };
    assert!((15.0..17.0).contains(age_s) && value.lower_s == 0.0 && value.upper_s > 15.0, "{link:?}");
}

/// What came after the newest poll is not called missing: nobody has looked for it.
#[test]
fn who_does_not_look_misses_nothing() {
    let mut sim = Subscribed::new(Plan::default(), 40);
    sim.run(1..=5_900);
    (sim.plan.poll_ms, sim.plan.look_ms) = (u64::MAX, [u64::MAX, 0, 1]);
    let (lower, upper) = seconds(&sim.run(5_901..=8_900).loss);
    assert!(lower == 0.0 && upper > 3.0, "{lower} {upper}");

    // Four seconds behind, it is known to miss something; until the slot says that this has come.
    let mut sim = Subscribed::new(Plan { way_ms: [4_000, 20, 30], ..Plan::default() }, 40);
    assert!(seconds(&sim.run(1..=8_900).loss).0 > 2.9);
    sim.plan.poll_ms = u64::MAX;
    let (lower, upper) = seconds(&sim.run(8_901..=10_900).loss);
    assert!(lower == 0.0 && upper > 4.0, "{lower} {upper}");
}

/// Of several subscriptions to one publisher the one counts that has least.
#[test]
fn of_several_slots_the_last_counts() {
    let mut sim = Subscribed::new(Plan::default(), 20);
    sim.run(1..=9_900);
    let mut behind = sim.view.reaches.values().next().unwrap().clone();
    behind.what.confirmed.lsn = Lsn(450);
    sim.view.reaches.insert(("east-db".parse().unwrap(), SlotHash::of("other")), behind);
    assert_eq!(sim.only(9_900).log.flushed.backlog_bytes.current(), Some(&350));
}

/// Where one agent watches both, it needs nobody to tell it.
#[test]
fn publisher_and_subscriber_of_one_region() {
    let fleet = FLEET.replace("region = \"east\"\ndsn", "region = \"west\"\ndsn");
    let mut sim = Subscribed::new(Plan::default(), 20);
    sim.replications = Replications::new(&Fleet::parse("fleet.toml", &fleet).unwrap(), &"west".parse().unwrap());
    sim.tell(0, NodeNews::State { state: NodeState::Ok, why: String::new() });
    sim.tell(0, NodeNews::Facts { facts: facts(false), role: NodeRole::Subscriber });
    let publisher = |ms, news| NodeEvent { node: "east-db".parse().unwrap(), ..of_subscriber(ms, news) };
    let facts = NodeNews::Facts { facts: facts(false), role: NodeRole::Writer };
    sim.replications.record(publisher(0, facts), &sim.view);
    sim.run(1..=3_900);
    sim.view.reaches.clear();
    let confirmed = vec![("reader".to_owned(), Lsn(300))];
    let sample = WriterSample { in_recovery: false, inserted: Some(Lsn(300)), flushed: None, senders: Vec::new(), confirmed };
    sim.replications.record(publisher(3_900, NodeNews::Writer { sample, began: at(3_890) }), &sim.view);
    let link = sim.only(3_900);
    assert_eq!((link.node.as_str(), link.log.flushed.backlog_bytes.current()), ("west-db", Some(&0)));
    assert!(seconds(&link.loss).1 < 1.0, "{link:?}");
}
