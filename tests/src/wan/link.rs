//! What happens to a packet on one direction between two regions. Pure: packets and moments in, verdicts out; the same seed and the
//! same packets give the same verdicts.

use std::collections::{BTreeSet, HashMap};

use super::log::Fate;
use super::packet::{Header, TCP};
use super::path::{Cut, Jitter, LinkSettings};
use super::random::Random;
use crate::real::Real;

/// The most that jitter adds [ns].
const MOST_JITTER_NS: f64 = 10e9;
/// How many flows with packets under way are kept in order.
const MOST_FLOWS: usize = 16_384;

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The path that its flow takes: an index into the paths, 0 if there is only one.
    pub path: u8,
    /// Whether it arrives.
    pub arrival: Arrival,
}

/// Whether a packet arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is handed over at a moment, and perhaps once more right after.
    At {
        /// The moment.
        at: Real,
        /// Whether it comes twice.
        twice: bool,
    },
    /// It is dropped, for this reason.
    Never(Fate),
}

/// One direction between two regions: settings, queue, order, chance.
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    random: Random,
    /// When the queue has sent all that it holds.
    busy_until: Real,
    /// When the last packet of each flow arrives.
    last_arrival: HashMap<u64, Real>,
}

impl Link {
    /// A link with settings that were checked.
    pub fn new(settings: LinkSettings, seed: u64) -> Link {
        Link { settings, random: Random::new(seed), busy_until: Real(i64::MIN), last_arrival: HashMap::new() }
    }

    /// Its settings.
    pub fn settings(&self) -> &LinkSettings {
        &self.settings
    }

    /// Changes the settings for all packets that leave from now on; those under way arrive as it was decided.
    pub fn set(&mut self, settings: LinkSettings) {
        self.settings = settings;
    }

    /// Decides on a packet that left its host at `left`.
    pub fn decide(&mut self, packet: &Header, database_ports: &BTreeSet<u16>, left: Real) -> Verdict {
        let path = match self.settings.paths.len() as u64 {
            0 => 0,
            count => u8::try_from(packet.flow(self.settings.path_salt) % count).unwrap_or(u8::MAX),
        };
        let arrival = match self.refuses(packet, database_ports, path) {
            Some(fate) => Arrival::Never(fate),
            None => self.arrival(packet, path, left),
        };
        Verdict { path, arrival }
    }

    fn refuses(&mut self, packet: &Header, database_ports: &BTreeSet<u16>, path: u8) -> Option<Fate> {
        let settings = &self.settings;
        let on_path = settings.paths.get(usize::from(path)).copied().unwrap_or_default();
        if settings.cut.holds(packet, database_ports) {
            Some(Fate::Cut)
        } else if settings.hops > 0 && packet.hop_limit <= settings.hops {
            Some(Fate::HopLimit)
        } else if settings.mtu_bytes.is_some_and(|mtu_bytes| packet.length_bytes > mtu_bytes) {
            Some(Fate::TooBig)
        } else if on_path.dead {
            Some(Fate::DeadPath)
        } else if self.random.happens(settings.loss) || self.random.happens(on_path.loss) {
            Some(Fate::Lost)
        } else {
            None
        }
    }

    fn arrival(&mut self, packet: &Header, path: u8, left: Real) -> Arrival {
        let extra_ns = self.settings.paths.get(usize::from(path)).map_or(0, |path| path.extra_delay_ns);
        let delay_ns = self.settings.delay_ns + extra_ns;
        let twice = self.random.happens(self.settings.duplicate);
        if self.random.happens(self.settings.reorder) {
            return Arrival::At { at: left + (delay_ns - self.settings.reorder_ahead_ns).max(0), twice };
        }
        let Some(sent) = self.queue(packet.length_bytes, left) else { return Arrival::Never(Fate::QueueFull) };
        let drawn = sent + (delay_ns + self.settings.jitter.draw(&mut self.random)).max(0);
        if self.settings.jitter_reorders {
            return Arrival::At { at: drawn, twice };
        }
        Arrival::At { at: self.after_its_flow(packet.flow(0), drawn, left), twice }
    }

    /// Not before the last packet of the same flow.
    fn after_its_flow(&mut self, flow: u64, drawn: Real, left: Real) -> Real {
        if self.last_arrival.len() >= MOST_FLOWS && !self.last_arrival.contains_key(&flow) {
            self.last_arrival.retain(|_, last| *last > left);
            if self.last_arrival.len() >= MOST_FLOWS {
                return drawn;
            }
        }
        let last = self.last_arrival.entry(flow).or_insert(drawn);
        *last = drawn.max(*last);
        *last
    }

    /// When the queue has sent a packet; `None` if there is no room for it.
    fn queue(&mut self, length_bytes: u16, left: Real) -> Option<Real> {
        let Some(bandwidth_bps) = self.settings.bandwidth_bps else { return Some(left) };
        let busy_ns = (self.busy_until.0.saturating_sub(left.0)).max(0);
        let waiting_bytes = i128::from(busy_ns) * i128::from(bandwidth_bps) / 8_000_000_000;
        if waiting_bytes + i128::from(length_bytes) > i128::from(self.settings.queue_bytes) {
            return None;
        }
        let takes_ns = (u64::from(length_bytes) * 8_000_000_000).div_ceil(bandwidth_bps);
        self.busy_until = left + busy_ns + i64::try_from(takes_ns).unwrap_or(i64::MAX / 4);
        Some(self.busy_until)
    }
}

impl Cut {
    /// Whether it holds a packet back.
    pub fn holds(self, packet: &Header, database_ports: &BTreeSet<u16>) -> bool {
        let is_database = |(from, to)| database_ports.contains(&from) || database_ports.contains(&to);
        let replication = packet.protocol == TCP && packet.ports.is_some_and(is_database);
        match self {
            Cut::None => false,
            Cut::All => true,
            Cut::Replication => replication,
            Cut::Mesh => !replication,
        }
    }
}

impl Jitter {
    #[expect(clippy::cast_possible_truncation, reason = "10 s at most, far below the range of nanoseconds")]
    fn draw(self, random: &mut Random) -> i64 {
        let drawn_ns = match self {
            Jitter::None => 0.0,
            Jitter::Uniform { width_ns } => random.unit() * width_ns as f64,
            Jitter::Normal { sd_ns } => random.normal() * sd_ns as f64,
            Jitter::Exponential { mean_ns } => random.exponential() * mean_ns as f64,
            Jitter::Pareto { scale_ns, shape } => random.lomax(shape) * scale_ns as f64,
        };
        drawn_ns.min(MOST_JITTER_NS) as i64
    }
}

#[cfg(test)]
mod tests;
