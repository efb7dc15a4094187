//! The table of what was set, what was measured, and whether they agree.

use super::MS;
use crate::wan::quality::{Quality, StallKind};

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// What was set, and what was looked at.
    pub(super) setting: String,
    /// What should come out.
    pub(super) wanted: String,
    /// What came out.
    pub(super) measured: String,
    /// By how much it is off.
    pub(super) error: String,
    /// Whether that is little enough.
    pub(super) pass: bool,
    /// Whether the machine stalled so much meanwhile that the row says nothing: printed as marked, and no failure.
    pub(super) marked: bool,
}

impl Row {
    /// A number of things that must be exactly so many.
    pub(super) fn exact(setting: &str, wanted: usize, measured: usize) -> Row {
        Row {
            setting: setting.to_owned(),
            wanted: wanted.to_string(),
            measured: measured.to_string(),
            error: wanted.abs_diff(measured).to_string(),
            pass: wanted == measured,
            marked: false,
        }
    }

    /// A share of some things: within four standard deviations of what chance gives.
    pub(super) fn share(setting: &str, share: f64, of: usize, measured: usize) -> Row {
        let (of, measured) = (of as f64, measured as f64);
        let four_deviations = 4.0 * (share * (1.0 - share) / of).sqrt();
        let error = measured / of - share;
        Row {
            setting: setting.to_owned(),
            wanted: format!("{:.2} +- {:.2} %", share * 100.0, four_deviations * 100.0),
            measured: format!("{:.2} %", measured / of * 100.0),
            error: format!("{:+.2} %", error * 100.0),
            pass: error.abs() <= four_deviations,
            marked: false,
        }
    }

    /// A value within a tolerance [both ns].
    pub(super) fn time(setting: &str, wanted_ns: i64, tolerance_ns: i64, measured_ns: i64) -> Row {
        let error_ns = measured_ns - wanted_ns;
        Row {
            setting: setting.to_owned(),
            wanted: format!("{} +- {}", time(wanted_ns), time(tolerance_ns)),
            measured: time(measured_ns),
            error: time(error_ns),
            pass: error_ns.abs() <= tolerance_ns,
            marked: false,
        }
    }

    /// The same row, of a run in which so many of so many samples were touched by a stall: with one in a hundred, the slowest of a
    /// hundred tell nothing.
    pub(super) fn of_run(self, touched: usize, of: usize) -> Row {
        Row { marked: touched * 100 > of, ..self }
    }

    /// What is said of it.
    pub(super) fn verdict(&self) -> &'static str {
        match (self.pass, self.marked) {
            (true, _) => "pass",
            (false, true) => "marked: the machine stalled",
            (false, false) => "FAIL",
        }
    }

    /// Whether the self-test fails by it.
    pub(super) fn failed(&self) -> bool {
        !self.pass && !self.marked
    }
}

/// A time in the unit in which it reads well.
pub(super) fn time(ns: i64) -> String {
    if ns.abs() < MS { format!("{:.1} us", ns as f64 / 1e3) } else { format!("{:.3} ms", ns as f64 / 1e6) }
}

/// The value below which a share of values lies; 0 of none.
pub(super) fn quantile(values: &mut [i64], share: f64) -> i64 {
    values.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length is within it")]
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(0)
}

/// Whether the kernel stamped what left.
pub(super) fn taps(quality: &Quality) -> Row {
    let missed = usize::try_from(quality.tap_missed).unwrap_or(usize::MAX);
    Row::exact("packets without a kernel stamp of their leaving", 0, missed)
}

/// The table as text.
pub(super) fn print(rows: &[Row]) -> String {
    let cells = |row: &Row| [row.setting.clone(), row.wanted.clone(), row.measured.clone(), row.error.clone()];
    let head = ["setting", "wanted", "measured", "error"].map(str::to_owned);
    let mut widths = head.clone().map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [String; 4], end: &str| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(&padded.collect::<Vec<String>>().join("  "));
        for part in ["  ", end, "\n"] {
            text.push_str(part);
        }
    };
    line(head, "");
    for row in rows {
        line(cells(row), row.verdict());
    }
    text
}

/// The router's own error as text.
pub(crate) fn router(part: &str, quality: &Quality, run_ns: i64) -> String {
    let of_kind = |kind| quality.stalls.iter().filter(move |stall| stall.kind == kind);
    let (late, stolen) = (of_kind(StallKind::Late).count(), of_kind(StallKind::Stolen).count());
    let longest_ns = of_kind(StallKind::Late).map(|stall| stall.until - stall.from).max().unwrap_or(0);
    let [p50, p99, max] = [quality.lateness_p50_ns, quality.lateness_p99_ns, quality.lateness_max_ns]
        .map(|ns| time(i64::try_from(ns).unwrap_or(i64::MAX)));
    let priority = match &quality.no_priority {
        None => "ahead of everything else (SCHED_FIFO)".to_owned(),
        Some(why) => format!("at ordinary priority: {why}"),
    };
    format!(
        "router, {part}: {} packets in {:.1} s, handed over late by p50 {p50}, p99 {p99}, max {max}; it ran {priority}\n\
         router, {part}: {late} moments in which it was held up (longest {}), {stolen} in which the hypervisor took the processors; {} packets \
         not taken, {} for nobody",
        quality.handed_over,
        run_ns as f64 / 1e9,
        time(longest_ns),
        quality.not_taken,
        quality.stray,
    )
}
