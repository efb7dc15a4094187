//! Agents without a mesh: batches as agents send them, of any size and number, for a real collector.

mod bed;
mod deaths;

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::BootId;
use lagmesh_model::otlp;
use lagmesh_model::series::{Attributes, Batch, Exporter, Series, push_states};
use lagmesh_model::state::{Bound, LinkState, ProbeKind};
use lagmesh_model::time::WallNanos;
use prost::Message as _;

use crate::real::{Real, wall_minus_real_ns};

pub use bed::{CollectorBed, Posted};
pub(crate) use bed::{acknowledged, client, post};
pub use deaths::{Death, Survived, survive};

/// The fleet's name.
const FLEET: &str = "feed";
/// The time between two batches of one agent [ns].
pub const INTERVAL_NS: u64 = 5_000_000_000;
/// How long before now the first batch of a boot was made, so that the last one is not of the future [ns].
const BEFORE_NS: u64 = 3_600_000_000_000;
/// The kinds of probe whose round trips a batch holds.
const KINDS: [ProbeKind; 2] = [ProbeKind::Stamp, ProbeKind::Tcp];
/// The current values of each link that a batch holds.
pub const GAUGES_PER_PEER: usize = LinkState::ALL.len() + Bound::ALL.len();
/// The distributions of each link that a batch holds.
pub const HISTOGRAMS_PER_PEER: usize = KINDS.len();

/// What a batch holds of each link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Whether it holds current values.
    pub gauges: bool,
    /// The occupied buckets of each distribution; 0: it holds none.
    pub buckets: u32,
}

/// A region name by number.
pub fn region(number: usize) -> String {
    format!("r{number:04}")
}

/// A fleet of so many regions, each with one agent; the first `hubs` measure links to all others and are measured by them.
pub fn fleet_text(regions: usize, hubs: usize) -> String {
    let mut text = format!("name = \"{FLEET}\"\n");
    for number in 0..regions {
        let port = 1024 + number;
        // A string takes any text.
        write!(text, "[[region]]\nname = \"{}\"\n[[region.agent]]\nmesh = \"127.0.0.1:{port}\"\n", region(number)).ok();
    }
    let hubs: Vec<String> = (0..hubs).map(|hub| format!("\"{}\"", region(hub))).collect();
    write!(
        text,
        "[[collector]]\nname = \"main\"\notlp = \"http://127.0.0.1:8622\"\n[mesh]\nplan = \"hub\"\nhubs = [{}]\n",
        hubs.join(", ")
    )
    .ok();
    text
}

/// One run of one agent that makes batch after batch.
#[derive(Debug)]
pub struct Feed {
    exporter: Exporter,
    peers: Vec<String>,
    content: Content,
    sequence: u64,
    start: WallNanos,
    /// What every distribution holds.
    rtt: Exponential,
}

impl Feed {
    /// The agent of region `number`, which measures links to `peers`.
    ///
    /// # Errors
    /// If a name is none.
    pub fn new(number: usize, boot: u64, peers: impl IntoIterator<Item = usize>, content: Content) -> Result<Feed> {
        let name = region(number);
        let exporter = Exporter {
            fleet: FLEET.to_owned(),
            region: name.parse()?,
            agent: name.parse()?,
            boot: BootId(boot),
            version: "0.1.0".to_owned(),
        };
        let peers = peers.into_iter().map(region).collect();
        let now_ns = Real::now().0 + wall_minus_real_ns();
        let start = WallNanos(u64::try_from(now_ns)?.saturating_sub(BEFORE_NS));
        Ok(Feed { exporter, peers, content, sequence: 0, start, rtt: Exponential::new() })
    }

    /// The number of the last batch.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How many values all distributions of the last batch hold together.
    pub fn values(&self) -> u64 {
        self.rtt.count() * (self.peers.len() * KINDS.len()) as u64
    }

    /// The next batch: every count has grown, every current value has changed.
    pub fn next_batch(&mut self) -> Batch {
        self.sequence += 1;
        // One value into each bucket of the range, from 1 ms on.
        for bucket in 0..self.content.buckets {
            self.rtt.record_ns(bucket_ns(bucket));
        }
        let mut series = Vec::new();
        for (place, peer) in self.peers.iter().enumerate() {
            let link = Attributes::new().with(Attribute::Region, &self.exporter.region).with(Attribute::Peer, peer);
            if self.content.gauges {
                let state = LinkState::ALL[(place + usize::try_from(self.sequence).unwrap_or(0)) % LinkState::ALL.len()];
                push_states(&mut series, &catalogue::LINK_STATE, &link, LinkState::ALL, state);
                for bound in Bound::ALL {
                    let offset_s = (self.sequence * 7919 + place as u64) as f64 / 1e9;
                    series.push(Series::gauge(&catalogue::CLOCK_OFFSET, link.clone().with(Attribute::Bound, bound), offset_s));
                }
            }
            if self.content.buckets > 0 {
                for kind in KINDS {
                    let of_kind = link.clone().with(Attribute::Kind, kind);
                    series.push(Series::histogram(&catalogue::LINK_RTT, of_kind, self.rtt.clone()));
                }
            }
        }
        let time = WallNanos(self.start.0 + self.sequence * INTERVAL_NS);
        Batch { exporter: self.exporter.clone(), sequence: self.sequence, start: self.start, time, series }
    }

    /// The next batch as the body of a request: OTLP in protobuf, gzip.
    ///
    /// # Errors
    /// If the compressor fails, which it does not when it writes to memory.
    pub fn next_body(&mut self) -> Result<Vec<u8>> {
        let message = otlp::encode(&self.next_batch()).encode_to_vec();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&message)?;
        Ok(gzip.finish()?)
    }
}

/// A duration in the middle of a bucket of scale 5, the first of which holds 1 ms [ns].
fn bucket_ns(bucket: u32) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^53 and not negative")]
    let ns = (1e6 * (f64::from(bucket) / 32.0).exp2()) as u64;
    ns
}

/// The number of values that a collector shows for all round trips together.
///
/// # Errors
/// If its page of metrics is not as expected.
pub fn values_shown(metrics: &str) -> Result<u64> {
    let counts = metrics.lines().filter_map(|line| line.strip_prefix("lagmesh_link_rtt_seconds_count"));
    let mut sum = 0;
    for line in counts {
        let value = line.rsplit(' ').next().context("a sample has a value")?;
        sum += value.parse::<u64>().with_context(|| format!("{value} is no count"))?;
    }
    ensure!(!metrics.is_empty(), "the collector shows no metrics");
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch holds what was asked for, each distribution has the buckets that were asked for, and it comes back as it was.
    #[test]
    fn batches_are_as_asked() {
        let mut feed = Feed::new(0, 1, 1..101, Content { gauges: true, buckets: 60 }).unwrap();
        feed.next_batch();
        let mut batch = feed.next_batch();
        // As they travel.
        batch.series.sort_by_key(|series| series.metric.name);
        assert_eq!(batch.series.len(), 100 * (GAUGES_PER_PEER + HISTOGRAMS_PER_PEER));
        assert_eq!(GAUGES_PER_PEER * 100, 800);
        assert_eq!(feed.rtt.buckets().count(), 60);
        assert_eq!(feed.values(), 2 * 60 * 200);
        let decoded = otlp::decode(otlp::encode(&batch), &otlp::Limits::default()).unwrap();
        assert_eq!(decoded.batches, [batch]);
    }

    /// The fleet file that goes with it is one.
    #[test]
    fn the_fleet_is_a_fleet() {
        let text = fleet_text(12, 2);
        let fleet = lagmesh_model::fleet::Fleet::parse("fleet.toml", &text).unwrap();
        assert_eq!(fleet.peers_of(&region(0).parse().unwrap()).count(), 11);
        assert_eq!(fleet.peers_of(&region(5).parse().unwrap()).count(), 2);
    }
}
