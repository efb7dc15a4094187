use lagmesh_model::time::RawNanos;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::*;

const S: i64 = 1_000_000_000;
const MS: i64 = 1_000_000;
/// Every true moment is beyond that, so that no clock runs below zero [ns].
const BEGIN: i64 = 100 * S;
/// The clocks of the tests are read to a nanosecond, and a difference of two differences has four roundings.
const ROUNDED: i128 = 4;

/// A host: when its measuring clock began, how fast it and the wall clock run, and when its agent reports having read for how long; for the
/// report before it had read for `read_before` until then, if at all.
#[derive(Debug, Clone)]
struct Host {
    start: i64,
    drift_ppb: i64,
    wall_start: i64,
    wall_ppb: i64,
    reports: i64,
    reads_for: i64,
    read_before: i64,
}

impl Host {
    fn raw(&self, at: i64) -> i64 {
        self.start + running(at, self.drift_ppb)
    }

    fn wall(&self, at: i64) -> i64 {
        self.wall_start + running(at, self.wall_ppb)
    }

    fn told(&self, name: usize, epoch: Epoch) -> ToldClocks {
        let [before, began] = self.begins();
        ToldClocks {
            agent: agent(name),
            epoch,
            newest: self.readings(began, self.reports),
            before: (self.read_before > 0).then(|| self.readings(before, began)),
            peers: BTreeMap::new(),
        }
    }

    fn readings(&self, began: i64, ended: i64) -> WallReadings {
        let ahead = |at| self.wall(at) - self.raw(at);
        // Both run evenly, so the ends are at the ends; a nanosecond is lost to rounding.
        let (first, last) = (ahead(began), ahead(ended));
        WallReadings {
            since: RawNanos(self.raw(began).unsigned_abs()),
            at: RawNanos(self.raw(ended).unsigned_abs()),
            wall: Interval::between(first.min(last) - 2, first.max(last) + 2).unwrap(),
        }
    }

    /// When the readings for its reports began.
    fn begins(&self) -> [i64; 2] {
        let began = self.reports - self.reads_for;
        [began - self.read_before, began]
    }
}

fn running(at: i64, ppb: i64) -> i64 {
    i64::try_from(i128::from(at) * i128::from(1_000_000_000 + ppb) / 1_000_000_000).unwrap()
}

fn agent(name: usize) -> AgentName {
    format!("agent-{name:02}").parse().unwrap()
}

fn epoch(name: usize) -> Epoch {
    Epoch(1000 + name as u64)
}

fn host() -> impl Strategy<Value = Host> {
    (0..1_i64 << 60, -50_000..=50_000_i64, 0..1_i64 << 60, -500_000..=500_000_i64, 0..30 * S, 9 * S..30 * S, 0..20 * S).prop_map(
        |(start, drift_ppb, wall_start, wall_ppb, reports, reads_for, read_before)| Host {
            start,
            drift_ppb,
            wall_start,
            wall_ppb,
            reports: BEGIN + reports,
            reads_for,
            read_before,
        },
    )
}

/// Hosts and what their agents measured of some others, with how far each end is off.
#[derive(Debug, Clone)]
struct World {
    hosts: Vec<Host>,
    /// Those that are silent: others tell of them, they tell nothing.
    silent: Vec<usize>,
    measured: Vec<(usize, usize, i64, i64)>,
}

impl World {
    fn told(&self) -> Vec<ToldClocks> {
        let mut told: Vec<ToldClocks> = self.hosts.iter().enumerate().map(|(name, host)| host.told(name, epoch(name))).collect();
        for (by, of, below, above) in self.measured.iter().filter(|(by, of, ..)| by != of) {
            let truth = self.ahead(*of, *by, self.hosts[*by].reports);
            let offset = Interval::between(truth - below, truth + above).unwrap();
            told[*by].peers.insert(agent(*of), (epoch(*of), offset));
        }
        for name in &self.silent {
            told.retain(|one| one.agent != agent(*name));
        }
        told
    }

    /// How far the one measuring clock is ahead of the other.
    fn ahead(&self, of: usize, by: usize, at: i64) -> i64 {
        self.hosts[of].raw(at) - self.hosts[by].raw(at)
    }

    fn name(&self, agent_name: &AgentName) -> usize {
        (0..self.hosts.len()).find(|name| agent(*name) == *agent_name).unwrap()
    }
}

fn world() -> impl Strategy<Value = World> {
    vec(host(), 2..7).prop_flat_map(|hosts| {
        let count = hosts.len();
        let all: Vec<usize> = (0..count).collect();
        let measured = vec((0..count, 0..count, 2..50 * MS, 2..50 * MS), 0..=2 * count * count);
        (Just(hosts), subsequence(all, 0..count.div_ceil(2)), measured).prop_map(|(hosts, silent, measured)| World {
            hosts,
            silent,
            measured,
        })
    })
}

/// The true moment that is the common one of a group: that of the report from which it begins.
fn common_moment(world: &World, compared: &Compared<'_>, group: usize) -> Option<i64> {
    let known = compared.known.as_ref().unwrap();
    let is_first = |(at, place): &(usize, &Place)| {
        place.group == group && compared.clocks[*at].told.is_some_and(|told| place.showed == Span::at(told.newest.at))
    };
    let (at, _) = known.places.iter().enumerate().find(is_first)?;
    Some(world.hosts[world.name(compared.clocks[at].agent)].reports)
}

fn holds(span: Span, truth: i64) -> bool {
    span.lower - ROUNDED <= i128::from(truth) && i128::from(truth) <= span.upper + ROUNDED
}

proptest! {
    /// Whatever the clocks show, however they drift, whoever measures whom and reports when: the truth is inside, no interval is wider
    /// than what was measured directly, nobody is accused, and there is nothing left to gain.
    #[test]
    fn the_truth_is_inside(world in world()) {
        let told = world.told();
        let compared = compare(&told);
        prop_assert_eq!(&compared.contradictions, &vec![]);
        let known = compared.known.as_ref().unwrap();
        let mut again = known.bounds.clone();
        again.close().unwrap();
        prop_assert_eq!(&again, &known.bounds);
        for (from, one) in compared.clocks.iter().enumerate() {
            let place = known.places[from];
            let Some(moment) = common_moment(&world, &compared, place.group) else { continue };
            let host = &world.hosts[world.name(one.agent)];
            prop_assert!(holds(place.showed, host.raw(moment)));
            prop_assert!(place.reported.is_none_or(|reported| holds(reported, host.reports - moment)));
            for (to, other) in compared.clocks.iter().enumerate() {
                let Some(offset) = known.offset(from, to) else { continue };
                prop_assert!(holds(offset, world.ahead(world.name(other.agent), world.name(one.agent), moment)));
                let direct = one.told.and_then(|told| told.peers.get(other.agent));
                if let Some((_, direct)) = direct {
                    let direct = Span::of(*direct).drifted(place.reported.unwrap().farthest());
                    prop_assert!(direct.lower <= offset.lower && offset.upper <= direct.upper);
                }
            }
        }
    }

    /// The interval of two wall clocks holds their true distance at a moment at which both were read. Where it is not known, that is
    /// because one is silent, nothing connects the two, or their readings may not have met.
    #[test]
    fn wall_offsets_hold_the_truth(world in world()) {
        let told = world.told();
        let compared = compare(&told);
        for (one, other) in (0..world.hosts.len()).flat_map(|one| (0..world.hosts.len()).map(move |other| (one, other))) {
            let (a, b) = (&world.hosts[one], &world.hosts[other]);
            let (name, peer) = (agent(one), agent(other));
            let is_silent = world.silent.contains(&one) || world.silent.contains(&other);
            let met = a.reports.min(b.reports) - a.begins()[0].max(b.begins()[0]);
            match compared.wall_offset(&name, &peer) {
                Ok(offset) => {
                    prop_assert!(!is_silent && met >= 0);
                    // The moment is a little before the end of readings, by no more than is unsure about the two reports.
                    let unsure = 2 * S;
                    let apart = |at| b.wall(at) - a.wall(at);
                    let holds = |at| offset.widen((apart(at) - apart(at - unsure)).unsigned_abs() + 20).contains(apart(at));
                    let both_read = |at: &i64| (*at <= a.reports.min(b.reports)) && *at >= a.begins()[0].max(b.begins()[0]);
                    let mut ends = [a.reports, b.reports, a.begins()[1], b.begins()[1]].into_iter().filter(both_read);
                    prop_assert!(ends.any(holds), "{:?}", offset);
                    if one == other {
                        prop_assert!(offset.contains(0));
                    }
                }
                Err(Missing::Untold(_)) => prop_assert!(is_silent),
                // Readings that met are cut in three at most.
                Err(Missing::NotTogether) => prop_assert!(met < 6 * S, "{} ns", met),
                Err(Missing::Apart) => prop_assert!(!compared.is_measured(&name, &peer)),
                Err(why) => prop_assert!(false, "{:?}", why),
            }
        }
    }

    /// One who lies about some clocks stands in every set that is accused.
    #[test]
    fn a_liar_is_in_every_set(world in world(), liar in any::<Index>(), lies in vec(-10 * S..10 * S, 1..7)) {
        let mut told = world.told();
        let liar = liar.index(told.len());
        for ((_, offset), lie) in told[liar].peers.values_mut().zip(lies) {
            *offset = *offset + Interval::exact(lie);
        }
        let compared = compare(&told);
        let liar = &told[liar].agent;
        prop_assert!(compared.contradictions.iter().all(|set| set.contains(liar)), "{} {:?}", liar, compared.contradictions);
    }

    /// Whatever is told, nothing overflows and nothing hangs.
    #[test]
    fn anything_may_be_told(
        agents in vec((0..1_u64 << 62, 0..1_u64 << 62, vec((0..6_usize, 0..3_u64, -(1_i64 << 62)..1 << 62, -(1_i64 << 62)..1 << 62), 0..6)), 1..6),
    ) {
        let ends = |a: i64, b: i64| Interval::between(a.min(b), a.max(b)).unwrap();
        let told: Vec<ToldClocks> = agents.iter().enumerate().map(|(name, (a, b, peers))| ToldClocks {
            agent: agent(name),
            epoch: Epoch(0),
            newest: WallReadings {
                since: RawNanos(*a.min(b)),
                at: RawNanos(*a.max(b)),
                wall: ends(a.cast_signed(), -b.cast_signed()),
            },
            before: None,
            peers: peers.iter().map(|(of, epoch, a, b)| (agent(*of), (Epoch(*epoch), ends(*a, *b)))).collect(),
        }).collect();
        let compared = compare(&told);
        for (one, other) in told.iter().flat_map(|one| told.iter().map(move |other| (one, other))) {
            compared.wall_offset(&one.agent, &other.agent).ok();
        }
    }
}

/// Three hosts in a row, whose clocks show the same and do not drift; the first and the last do not measure each other.
fn row() -> World {
    let host = Host { start: 0, drift_ppb: 0, wall_start: 5 * S, wall_ppb: 0, reports: BEGIN, reads_for: 10 * S, read_before: 0 };
    let ms = |by, of| (by, of, 10 * MS, 10 * MS);
    World { hosts: vec![host; 3], silent: Vec::new(), measured: vec![ms(0, 1), ms(1, 0), ms(1, 2), ms(2, 1)] }
}

fn ends(compared: &Compared<'_>, one: usize, other: usize) -> Option<(i64, i64)> {
    let offset = compared.wall_offset(&agent(one), &agent(other)).ok()?;
    Some((offset.lower_ns(), offset.upper_ns()))
}

/// Whether both ends are there, or a little outside: who has reported when is known as well as the clocks, and they drift meanwhile.
fn are_about(found: Option<(i64, i64)>, lower: i64, upper: i64) -> bool {
    found.is_some_and(|found| (0..5_000).contains(&(lower - found.0)) && (0..5_000).contains(&(found.1 - upper)))
}

/// Two that do not measure each other are bounded by the sum of what was measured on the way where all report at once; also
/// when the one in between does not report itself.
#[test]
fn through_a_hub() {
    let mut world = row();
    world.hosts[2].wall_start += 300 * MS;
    for silent in [vec![], vec![1]] {
        world.silent = silent;
        let told = world.told();
        let compared = compare(&told);
        assert!(are_about(ends(&compared, 0, 2), 280 * MS, 320 * MS), "{:?}", ends(&compared, 0, 2));
        assert!(are_about(ends(&compared, 2, 0), -320 * MS, -280 * MS));
        assert!(!compared.is_measured(&agent(0), &agent(2)) && compared.is_measured(&agent(2), &agent(1)));
    }
}

/// A report that is ten seconds older costs what two clocks may drift apart in that time, a millisecond, and no wall clock is compared
/// across it once its host's readings do not reach so far back.
#[test]
fn older_reports_cost_their_drift() {
    let mut world = row();
    world.hosts[2].reports -= 9 * S;
    let told = world.told();
    let (lower, upper) = ends(&compare(&told), 0, 2).unwrap();
    let drifted_ns = (upper - lower - 40 * MS) / 2;
    assert!((899_000..2_000_000).contains(&drifted_ns), "{drifted_ns}");
    world.hosts[2].reports -= 2 * S;
    let told = world.told();
    assert_eq!(compare(&told).wall_offset(&agent(0), &agent(2)), Err(Missing::NotTogether));
    assert!(ends(&compare(&told), 0, 1).is_some());
}

/// Where all agents report at once, a report that has not come yet hides no wall clock: the other's readings of before met those that are there.
#[test]
fn a_report_on_its_way_hides_nothing() {
    let mut world = row();
    world.hosts[2].reports -= 10 * S + MS;
    let told = world.told();
    assert_eq!(compare(&told).wall_offset(&agent(0), &agent(2)), Err(Missing::NotTogether));
    for host in &mut world.hosts {
        host.read_before = 10 * S;
    }
    // Since then the first has moved its wall clock, and what is told is how far the two were apart before.
    let mut told = world.told();
    told[0].newest.wall = told[0].newest.wall + Interval::exact(S);
    let found = ends(&compare(&told), 0, 2);
    assert!(found.is_some_and(|(lower, upper)| lower < -20 * MS && upper > 20 * MS && upper - lower < 44 * MS), "{found:?}");
}

/// What is told of another run of a clock than its own agent tells of is of another clock.
#[test]
fn runs_are_not_mixed() {
    let told = |epochs: [u64; 2]| {
        let mut told = row().told();
        for (by, epoch) in [0, 2].into_iter().zip(epochs) {
            told[by].peers.get_mut(&agent(1)).unwrap().0 = Epoch(epoch);
        }
        // Only the others tell of the one in the middle.
        told.remove(1);
        told
    };
    let apart = |told: Vec<ToldClocks>| ends(&compare(&told), 0, 2).is_none();
    assert!(!apart(told([7, 7])) && apart(told([7, 8])));
    let mut all = row().told();
    all[0].peers.get_mut(&agent(1)).unwrap().0 = Epoch(7);
    let compared = compare(&all);
    assert!(compared.contradictions.is_empty() && ends(&compared, 0, 1).is_some(), "by what the other told");
}

/// Two that contradict each other are named; what the rest measured stays, and the two are bounded by nothing that they told of each other.
#[test]
fn a_contradiction_spares_the_rest() {
    let mut world = row();
    world.measured.extend([(0, 2, 10 * MS, 10 * MS), (2, 0, 10 * MS, 10 * MS)]);
    let mut told = world.told();
    let lie = |told: &mut Vec<ToldClocks>, of: usize| {
        let (_, offset) = told[0].peers.get_mut(&agent(of)).unwrap();
        *offset = *offset + Interval::exact(S);
    };
    lie(&mut told, 2);
    let compared = compare(&told);
    assert_eq!(compared.contradictions, [BTreeSet::from([&agent(0), &agent(2)])]);
    assert!(are_about(ends(&compared, 1, 2), -10 * MS, 10 * MS));
    assert!(are_about(ends(&compared, 0, 2), -20 * MS, 20 * MS));
    lie(&mut told, 1);
    let compared = compare(&told);
    assert_eq!(compared.contradictions.len(), 2);
    assert_eq!(compared.wall_offset(&agent(0), &agent(2)), Err(Missing::Apart));
}

/// Three of whom only each one's own report tells of the next are named together, and the fourth is not.
#[test]
fn a_round_of_three() {
    let mut world = row();
    world.hosts.push(world.hosts[0].clone());
    world.measured = [(0, 1), (1, 2), (2, 0), (3, 0), (0, 3)].map(|(by, of)| (by, of, 10 * MS, 10 * MS)).to_vec();
    let mut told = world.told();
    let (_, offset) = told[1].peers.get_mut(&agent(2)).unwrap();
    *offset = *offset + Interval::exact(-100 * MS);
    let compared = compare(&told);
    assert_eq!(compared.contradictions, [[0, 1, 2].map(agent).iter().collect::<BTreeSet<_>>()]);
    assert!(ends(&compared, 0, 3).is_some());
}

/// A hundred agents that all measure each other are brought together whole.
#[test]
fn a_hundred_agents() {
    let host = row().hosts.remove(0);
    let measured =
        (0..100).flat_map(|by| (0..100).map(move |of| (by, of, MS * (1 + i64::try_from(by + of).unwrap() % 7), 5 * MS)));
    let world = World { hosts: vec![host; 100], silent: Vec::new(), measured: measured.collect() };
    let told = world.told();
    let compared = compare(&told);
    assert!(compared.contradictions.is_empty());
    assert_eq!(ends(&compared, 0, 99).map(|(lower, upper)| lower <= 0 && upper >= 0), Some(true));
}
