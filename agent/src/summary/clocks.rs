//! What collectors are told of clocks, so that they can bound the offsets of hosts that do not measure each other. Pure.
//!
//! Wall clocks are moved at will, so an offset between two of them is worth nothing later, and cannot be added to another of another
//! moment. Measuring clocks only drift. So each batch tells, for its own moment on our measuring clock, how far the measuring clocks of
//! peers are from ours; and, apart from that, within which bounds our wall clock was ahead of our measuring clock since the batch
//! before. Numbers are whole nanoseconds, signed ones: an epoch is the same 64 bits.

use lagmesh_daemon::clock::Bracket;
use lagmesh_model::catalogue::{Attribute, CLOCK_EPOCH, CLOCK_PEER_EPOCH, CLOCK_RAW, CLOCK_RAW_OFFSET, CLOCK_WALL, Metric};
use lagmesh_model::ids::{AgentName, RegionName};
use lagmesh_model::interval::Interval;
use lagmesh_model::series::{Attributes, Series};
use lagmesh_model::state::Bound;
use lagmesh_model::time::{Epoch, RawNanos, Reading};

use crate::measurement::PeerView;
use crate::wall::WallClock;

/// Our wall clock against our measuring clock, since the last batch.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    read: Option<Read>,
}

/// Readings of one epoch: the first, the newest, and the ends of all.
#[derive(Debug, Clone, Copy)]
struct Read {
    epoch: Epoch,
    since: RawNanos,
    lower_ns: i64,
    upper_ns: i64,
    newest: Interval,
    newest_at: RawNanos,
}

impl Clocks {
    /// Both clocks were read. A new epoch begins anew, and so does what follows on a time that cannot be.
    pub(super) fn read(&mut self, reading: &Bracket) {
        let Some(WallClock { difference: newest, .. }) = WallClock::of(reading, None) else {
            self.read = None;
            return;
        };
        let (epoch, at) = (reading.epoch, reading.before);
        let (lower_ns, upper_ns) = (newest.lower_ns(), newest.upper_ns());
        self.read = Some(match self.read.filter(|read| read.epoch == epoch) {
            Some(read) => Read {
                lower_ns: read.lower_ns.min(lower_ns),
                upper_ns: read.upper_ns.max(upper_ns),
                newest,
                newest_at: at,
                ..read
            },
            None => Read { epoch, since: at, lower_ns, upper_ns, newest, newest_at: at },
        });
    }

    /// A batch was made: the next one tells of what comes from the newest reading on.
    pub(super) fn batched(&mut self) {
        self.read = self.read.map(|read| {
            let (lower_ns, upper_ns) = (read.newest.lower_ns(), read.newest.upper_ns());
            Read { since: read.newest_at, lower_ns, upper_ns, ..read }
        });
    }

    /// What to export at `now`, at which the clocks were just read: of our own, and of those of these peers that are known.
    pub(super) fn series<'a>(
        &self,
        now: Reading,
        own: &Attributes,
        peers: impl Iterator<Item = (&'a RegionName, &'a AgentName)>,
        view: &PeerView,
        out: &mut Vec<Series>,
    ) {
        let Some(read) = self.read.filter(|read| read.epoch == now.epoch) else { return };
        out.push(Series::whole(&CLOCK_EPOCH, own.clone(), now.epoch.0.cast_signed()));
        push_ends(&CLOCK_RAW, own, [read.since.0.cast_signed(), now.raw.0.cast_signed()], out);
        push_ends(&CLOCK_WALL, own, [read.lower_ns, read.upper_ns], out);
        for (peer, agent) in peers {
            let Some(clock) = view.clocks.get(agent).filter(|clock| clock.own_epoch == now.epoch) else { continue };
            let pair = own.clone().with(Attribute::Peer, peer).with(Attribute::PeerAgent, agent);
            let offset = clock.offset_at(now.raw);
            out.push(Series::whole(&CLOCK_PEER_EPOCH, pair.clone(), clock.epoch.0.cast_signed()));
            push_ends(&CLOCK_RAW_OFFSET, &pair, [offset.lower_ns(), offset.upper_ns()], out);
        }
    }
}

fn push_ends(metric: &'static Metric, attributes: &Attributes, ends: [i64; 2], out: &mut Vec<Series>) {
    for (bound, end) in [Bound::Lower, Bound::Upper].into_iter().zip(ends) {
        out.push(Series::whole(metric, attributes.clone().with(Attribute::Bound, bound), end));
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::series::Value;
    use lagmesh_model::time::WallNanos;

    use super::*;
    use crate::measurement::PeerClock;

    fn bracket(epoch: u64, raw: u64, wall: u64) -> Bracket {
        Bracket { epoch: Epoch(epoch), before: RawNanos(raw), wall: WallNanos(wall), after: RawNanos(raw + 10) }
    }

    fn told(clocks: &Clocks, now: Reading, view: &PeerView) -> Vec<(&'static str, i64)> {
        let (region, agent) = ("tokyo".parse().unwrap(), "tokyo-a".parse().unwrap());
        let own = Attributes::new().with(Attribute::Region, "oslo").with(Attribute::Agent, "oslo-a");
        let mut out = Vec::new();
        clocks.series(now, &own, [(&region, &agent)].into_iter(), view, &mut out);
        assert!(out.iter().all(|one| one.attributes.fit(one.metric)));
        let value = |one: &Series| if let Value::Whole(value) = one.value { value } else { panic!("{one:?}") };
        out.iter().map(|one| (one.metric.name, value(one))).collect()
    }

    /// All readings since the last batch lie within what is told, to the nanosecond, and the newest one of the last batch does; of
    /// another epoch, or of a time that cannot be, nothing is told.
    #[test]
    fn every_reading_is_within() {
        let raw = 10_000_000_000_000_001;
        let mut clocks = Clocks::default();
        assert_eq!(told(&clocks, bracket(1, raw, 0).into(), &PeerView::default()), []);
        for (after, ahead) in [(0, 500), (1_000, 700), (2_000, 400)] {
            clocks.read(&bracket(1, raw + after, raw + after + ahead));
        }
        let now = bracket(1, raw + 2_000, 0);
        let of = |since: u64, lower: i64, upper: i64| {
            let [since, until] = [raw + since, now.before.0].map(u64::cast_signed);
            [("epoch", 1), ("raw", since), ("raw", until), ("wall", lower), ("wall", upper)]
        };
        let shown = |clocks: &Clocks| -> Vec<_> {
            let told = told(clocks, now.into(), &PeerView::default());
            told.into_iter().map(|(name, value)| (name.strip_prefix("lagmesh.clock.").unwrap(), value)).collect()
        };
        assert_eq!(shown(&clocks), of(0, 390, 700));
        clocks.batched();
        assert_eq!(shown(&clocks), of(2_000, 390, 400));
        assert_eq!(told(&clocks, bracket(2, raw, 0).into(), &PeerView::default()), []);
        clocks.read(&bracket(1, raw + 3_000, u64::MAX));
        assert_eq!(told(&clocks, now.into(), &PeerView::default()), []);
    }

    /// A peer's measuring clock is told for the moment of the batch, widened until then; not that of another epoch of ours.
    #[test]
    fn offsets_hold_for_the_moment_of_the_batch() {
        let mut clocks = Clocks::default();
        clocks.read(&bracket(1, 5_000_000_000, 5_000_000_000));
        let clock = PeerClock {
            epoch: Epoch(u64::MAX),
            own_epoch: Epoch(1),
            offset: Interval::new(-30, 0, 10).unwrap(),
            at: RawNanos(4_000_000_000),
        };
        let agent: AgentName = "tokyo-a".parse().unwrap();
        let view = |clock| PeerView { clocks: [(agent.clone(), clock)].into(), ..PeerView::default() };
        let now = bracket(1, 5_000_000_000, 0).into();
        let peers = told(&clocks, now, &view(clock)).split_off(5);
        let offset = "lagmesh.clock.raw_offset";
        assert_eq!(peers, [("lagmesh.clock.peer_epoch", -1), (offset, -100_030), (offset, 100_010)]);
        assert_eq!(told(&clocks, now, &view(PeerClock { own_epoch: Epoch(2), ..clock })).len(), 5);
    }
}
