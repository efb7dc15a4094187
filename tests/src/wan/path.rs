//! The settings of one direction between two regions.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// The longest that a packet is held, whatever is asked for [ns]: a minute.
pub const LONGEST_DELAY_NS: i64 = 60_000_000_000;
/// The most paths side by side.
pub const MOST_PATHS: usize = 256;
/// The smallest size that every link passes [octets]: what IPv6 asks for.
pub const SMALLEST_MTU_BYTES: u16 = 1280;

/// One direction between two regions. The default hands every packet over at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSettings {
    /// How long a packet travels at least [ns], [0, 60 s].
    pub delay_ns: i64,
    /// What comes on top of it, drawn for every packet.
    pub jitter: Jitter,
    /// Whether jitter may let a packet overtake another one of its flow. If not, a packet that drew a short delay waits for those of
    /// its flow that left before it, as in a real queue: at rates above one packet per jitter, delays then lie above the drawn ones.
    pub jitter_reorders: bool,
    /// The share of packets that get lost at the entrance of the link, [0, 1].
    pub loss: f64,
    /// The share of packets that arrive twice, the second right after the first, [0, 1].
    pub duplicate: f64,
    /// The share of packets that pass the queue and travel `reorder_ahead_ns` faster, [0, 1].
    pub reorder: f64,
    /// How much faster those travel [ns]; they overtake what left less than that before them.
    pub reorder_ahead_ns: i64,
    /// How many bits pass in a second, IP headers among them; none: any number.
    pub bandwidth_bps: Option<u64>,
    /// How much waits for its turn before more is dropped [octets]; without a bandwidth nothing waits.
    pub queue_bytes: u64,
    /// The longest IP packet that passes [octets], 1280 at least; none: any. Longer ones are dropped, also those of IPv4 that a router
    /// might have fragmented.
    pub mtu_bytes: Option<u16>,
    /// Whether longer packets vanish without the ICMP answer that tells their sender.
    pub mtu_blackhole: bool,
    /// How many hops the link counts as; what has no more left is dropped with an ICMP answer.
    pub hops: u8,
    /// What does not pass at all.
    pub cut: Cut,
    /// The paths side by side; none: one that adds nothing. Each packet takes the one that its flow (addresses, protocol, ports)
    /// is hashed to.
    pub paths: Vec<PathSettings>,
    /// Another salt sends flows over other paths: a route shift.
    pub path_salt: u64,
}

/// What comes on top of the delay. It never shortens it, except for `Normal`, where the sum is 0 at least; 10 s at most.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Jitter {
    /// Nothing.
    #[default]
    None,
    /// Evenly spread over [0, width).
    Uniform {
        /// The width [ns].
        width_ns: i64,
    },
    /// Normal around the delay.
    Normal {
        /// The standard deviation [ns].
        sd_ns: i64,
    },
    /// Exponential.
    Exponential {
        /// The mean [ns].
        mean_ns: i64,
    },
    /// Heavy-tailed: Pareto of the second kind (Lomax). More than x with probability (1 + x / scale)^-shape; the median is
    /// scale * (2^(1/shape) - 1), the mean scale / (shape - 1) for a shape above 1.
    Pareto {
        /// The scale [ns].
        scale_ns: i64,
        /// The shape, above 0; the smaller, the heavier the tail.
        shape: f64,
    },
}

/// Which packets a link does not pass, in its one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cut {
    /// All pass.
    #[default]
    None,
    /// None passes.
    All,
    /// TCP from or to a database port does not pass.
    Replication,
    /// Only TCP from or to a database port passes.
    Mesh,
}

/// One of several paths side by side.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathSettings {
    /// What this path takes longer than the link's delay [ns], 0 at least.
    pub extra_delay_ns: i64,
    /// The share of packets that get lost here, after the link's own loss, [0, 1].
    pub loss: f64,
    /// Whether nothing comes through.
    pub dead: bool,
}

impl Default for LinkSettings {
    fn default() -> LinkSettings {
        LinkSettings {
            delay_ns: 0,
            jitter: Jitter::None,
            jitter_reorders: false,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_ahead_ns: 0,
            bandwidth_bps: None,
            queue_bytes: 1_000_000,
            mtu_bytes: None,
            mtu_blackhole: false,
            hops: 0,
            cut: Cut::None,
            paths: Vec::new(),
            path_salt: 0,
        }
    }
}

impl LinkSettings {
    /// A link that only takes its time.
    pub fn delayed(delay_ns: i64) -> LinkSettings {
        LinkSettings { delay_ns, ..LinkSettings::default() }
    }

    /// Whether the settings can be.
    ///
    /// # Errors
    /// If one is outside its range; the message names it.
    pub fn check(&self) -> Result<()> {
        let times = [("delay_ns", self.delay_ns), ("reorder_ahead_ns", self.reorder_ahead_ns)];
        for (name, time_ns) in times.into_iter().chain(self.paths.iter().map(|path| ("extra_delay_ns", path.extra_delay_ns))) {
            ensure!((0..=LONGEST_DELAY_NS).contains(&time_ns), "{name} is {time_ns}: 0 to {LONGEST_DELAY_NS} is possible");
        }
        let shares = [("loss", self.loss), ("duplicate", self.duplicate), ("reorder", self.reorder)];
        for (name, share) in shares.into_iter().chain(self.paths.iter().map(|path| ("loss of a path", path.loss))) {
            ensure!((0.0..=1.0).contains(&share), "{name} is {share}: a share is 0 to 1");
        }
        ensure!(self.bandwidth_bps != Some(0), "bandwidth_bps is 0: cut the link instead");
        let mtu_bytes = self.mtu_bytes.unwrap_or(SMALLEST_MTU_BYTES);
        ensure!(mtu_bytes >= SMALLEST_MTU_BYTES, "mtu_bytes is {mtu_bytes}: at least {SMALLEST_MTU_BYTES} is possible");
        ensure!(self.paths.len() <= MOST_PATHS, "{} paths: at most {MOST_PATHS} are possible", self.paths.len());
        self.jitter.check()
    }
}

impl Jitter {
    fn check(self) -> Result<()> {
        let (width_ns, shape) = match self {
            Jitter::None => (0, 1.0),
            Jitter::Uniform { width_ns } => (width_ns, 1.0),
            Jitter::Normal { sd_ns } => (sd_ns, 1.0),
            Jitter::Exponential { mean_ns } => (mean_ns, 1.0),
            Jitter::Pareto { scale_ns, shape } => (scale_ns, shape),
        };
        ensure!((0..=LONGEST_DELAY_NS).contains(&width_ns), "jitter of {width_ns} ns: 0 to {LONGEST_DELAY_NS} is possible");
        ensure!(shape.is_finite() && shape > 0.0, "the shape of jitter is {shape}: it is above 0");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings are read from a file as they are written, and what a file says wrongly is refused.
    #[test]
    fn files() {
        let text = "delay_ns = 30_000_000\nloss = 0.01\ncut = \"mesh\"\njitter = { kind = \"pareto\", scale_ns = 1000, shape = 1.5 }\n\
                    paths = [{ extra_delay_ns = 5 }, { dead = true }]\n";
        let settings: LinkSettings = toml::from_str(text).unwrap();
        settings.check().unwrap();
        assert_eq!((settings.cut, settings.paths.len(), settings.paths[1].dead), (Cut::Mesh, 2, true));
        assert_eq!(settings.jitter, Jitter::Pareto { scale_ns: 1000, shape: 1.5 });
        assert!(toml::from_str::<LinkSettings>("delay_ms = 30").is_err());
    }

    /// What cannot be is refused, by name.
    #[test]
    fn ranges() {
        let wrong = |change: fn(&mut LinkSettings)| {
            let mut settings = LinkSettings::default();
            settings.check().unwrap();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(wrong(|link| link.delay_ns = -1).contains("delay_ns"));
        assert!(wrong(|link| link.loss = 1.1).contains("loss"));
        assert!(wrong(|link| link.duplicate = f64::NAN).contains("duplicate"));
        assert!(wrong(|link| link.bandwidth_bps = Some(0)).contains("bandwidth"));
        assert!(wrong(|link| link.mtu_bytes = Some(1000)).contains("mtu"));
        assert!(wrong(|link| link.jitter = Jitter::Pareto { scale_ns: 1, shape: 0.0 }).contains("shape"));
        assert!(wrong(|link| link.paths = vec![PathSettings { loss: -0.1, ..PathSettings::default() }]).contains("path"));
    }
}
