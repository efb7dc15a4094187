//! `[[link]]` and changes of links: which keys there are and what they do to a link's settings.

use lagmesh_model::document::{Found, Section, number, text};
use toml::de::DeValue;

use super::value::span_ns;
use crate::wan::path::{Cut, Jitter, LONGEST_DELAY_NS, LinkSettings, PathSettings, SMALLEST_MTU_BYTES};

/// The keys that describe a link, in `[[link]]` and in `[[fault]]` with `do = "link"`.
macro_rules! link_keys {
    ($($more:literal),*) => {
        &[
            $($more,)*
            "delay", "jitter", "jitter_kind", "loss", "duplicate", "reorder", "reorder_ahead", "jitter_reorders", "bandwidth_mbps", "queue_bytes", "mtu",
            "mtu_blackhole", "hops", "paths", "path", "cut", "salt",
        ]
    };
}
pub(super) use link_keys;

const PATH: &[&str] = &["number", "extra", "loss", "dead"];
/// Parallel paths of one link at most.
const PATHS_MAX: u64 = 64;

/// Applies every key that is written to `settings`.
pub(super) fn apply(section: &Section<'_>, settings: &mut LinkSettings) -> Found<()> {
    let told = [
        delay(section, settings),
        shares(section, settings),
        queue(section, settings),
        size(section, settings),
        paths(section, settings),
        cut(section, settings),
    ];
    told.into_iter().collect()
}

fn delay(section: &Section<'_>, settings: &mut LinkSettings) -> Found<()> {
    if let Some(delay_ns) = section.get("delay", time_ns)? {
        settings.delay_ns = delay_ns;
    }
    let kind = section.get("jitter_kind", text)?;
    match (section.get("jitter", time_ns)?, kind.as_deref()) {
        (None, None) => {}
        (None, Some(_)) => return Err(section.tell("jitter_kind", "needs jitter: how much of it")),
        (Some(0), _) => settings.jitter = Jitter::None,
        (Some(width_ns), Some("uniform")) => settings.jitter = Jitter::Uniform { width_ns },
        (Some(sd_ns), None | Some("normal")) => settings.jitter = Jitter::Normal { sd_ns },
        (Some(mean_ns), Some("exponential")) => settings.jitter = Jitter::Exponential { mean_ns },
        (Some(_), Some(_)) => {
            return Err(section.tell(
                "jitter_kind",
                "must be \"normal\" (jitter is the standard deviation), \"uniform\" (the width) or \"exponential\" (the mean)",
            ));
        }
    }
    settings.jitter_reorders = section.switch("jitter_reorders", settings.jitter_reorders)?;
    Ok(())
}

/// A time that packets are held [ns].
fn time_ns(value: &DeValue<'_>) -> Result<i64, String> {
    let ns = span_ns(value)?;
    if (0..=LONGEST_DELAY_NS).contains(&ns) { Ok(ns) } else { Err("must be from \"0s\" to \"1m\"".to_owned()) }
}

fn share(value: &DeValue<'_>) -> Result<f64, String> {
    number(value, 0.0..=1.0)
}

fn shares(section: &Section<'_>, settings: &mut LinkSettings) -> Found<()> {
    if let Some(loss) = section.get("loss", share)? {
        settings.loss = loss;
    }
    if let Some(duplicate) = section.get("duplicate", share)? {
        settings.duplicate = duplicate;
    }
    if let Some(reorder) = section.get("reorder", share)? {
        settings.reorder = reorder;
    }
    if let Some(ahead_ns) = section.get("reorder_ahead", time_ns)? {
        settings.reorder_ahead_ns = ahead_ns;
    }
    Ok(())
}

fn queue(section: &Section<'_>, settings: &mut LinkSettings) -> Found<()> {
    if let Some(mbps) = section.get("bandwidth_mbps", |value| number(value, 0.001..=100_000.0))? {
        settings.bandwidth_bps = Some(whole(mbps * 1e6));
    }
    settings.queue_bytes = section.integer("queue_bytes", 1500..=1_000_000_000, settings.queue_bytes)?;
    Ok(())
}

fn size(section: &Section<'_>, settings: &mut LinkSettings) -> Found<()> {
    let before = settings.mtu_bytes.map_or(0, u64::from);
    let mtu = section.integer("mtu", u64::from(SMALLEST_MTU_BYTES)..=u64::from(u16::MAX), before)?;
    settings.mtu_bytes = u16::try_from(mtu).ok().filter(|mtu| *mtu > 0);
    settings.mtu_blackhole = section.switch("mtu_blackhole", settings.mtu_blackhole)?;
    let hops = section.integer("hops", 0..=200, u64::from(settings.hops))?;
    settings.hops = u8::try_from(hops).unwrap_or(u8::MAX);
    Ok(())
}

fn paths(section: &Section<'_>, settings: &mut LinkSettings) -> Found<()> {
    settings.path_salt = section.integer("salt", 0..=u64::MAX, settings.path_salt)?;
    let count = section.integer("paths", 0..=PATHS_MAX, settings.paths.len() as u64)?;
    settings.paths.resize_with(usize::try_from(count).unwrap_or_default(), PathSettings::default);
    for path in section.sections("path", PATH) {
        let number = path.require("number", |value| number(value, 1.0..=PATHS_MAX as f64))?;
        let index = whole(number) - 1;
        let Some(chosen) = usize::try_from(index).ok().and_then(|index| settings.paths.get_mut(index)) else {
            return Err(path.tell("number", format!("there are only {count} paths; raise paths")));
        };
        if let Some(extra_ns) = path.get("extra", time_ns)? {
            chosen.extra_delay_ns = extra_ns;
        }
        if let Some(loss) = path.get("loss", share)? {
            chosen.loss = loss;
        }
        chosen.dead = path.switch("dead", chosen.dead)?;
    }
    Ok(())
}

fn cut(section: &Section<'_>, settings: &mut LinkSettings) -> Found<()> {
    let word = section.get("cut", |value| {
        cut_word(&text(value)?).ok_or_else(|| "must be \"none\", \"all\", \"mesh\" or \"replication\"".to_owned())
    })?;
    if let Some(cut) = word {
        settings.cut = cut;
    }
    Ok(())
}

/// What a word of `cut` or `only` cuts.
pub(super) fn cut_word(word: &str) -> Option<Cut> {
    match word {
        "none" => Some(Cut::None),
        "all" => Some(Cut::All),
        "mesh" => Some(Cut::Mesh),
        "replication" => Some(Cut::Replication),
        _ => None,
    }
}

/// A number from a file that was checked to be within a `u64`, to the nearest whole.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranges were checked when it was read")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}
