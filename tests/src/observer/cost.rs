//! What looking costs the server that is looked at, and how narrow it came out.

use std::fmt;
use std::fs;

use serde::Serialize;

use super::truth::Window;
use crate::real::Real;

/// After how many looks processor times are read.
const READ_EVERY: u64 = 512;

/// What looking at one server has cost.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cost {
    /// How many looks were answered.
    pub looks: u64,
    /// For how long the server was looked at [ns].
    pub watched_ns: i64,
    /// How many connections were made; more than one says that the server or the connection broke in between.
    pub sessions: u64,
    /// How many of them run without priority over other programs, for want of the permission: their windows are wide on a busy machine.
    pub without_priority: u64,
    /// The processor time of the server's process for it [ns].
    pub server_cpu_ns: i64,
    /// The processor time of the observer's own thread [ns].
    pub observer_cpu_ns: i64,
    /// Beats that were not kept for want of room.
    pub not_kept: u64,
    /// The last trouble with the connection.
    pub trouble: Option<String>,
}

impl Cost {
    pub(super) fn connected(&mut self, goes_first: bool) {
        self.sessions += 1;
        self.without_priority += u64::from(!goes_first);
    }
}

/// Reads processor times during one connection.
#[derive(Debug)]
pub(super) struct Meter {
    pid: i32,
    looks: u64,
    at: Real,
    server_ns: i64,
    own_ns: i64,
}

impl Meter {
    pub(super) fn start(pid: i32) -> Meter {
        let (server_ns, own_ns) = (server_cpu_ns(pid).unwrap_or_default(), own_cpu_ns().unwrap_or_default());
        Meter { pid, looks: 0, at: Real::now(), server_ns, own_ns }
    }

    /// Counts a look; `true` when it is time to read.
    pub(super) fn count(&mut self) -> bool {
        self.looks += 1;
        self.looks >= READ_EVERY
    }

    /// Adds what has been used since the last reading. A server's process that is gone took its last share with it.
    pub(super) fn read(&mut self, cost: &mut Cost) {
        let now = Real::now();
        let server_ns = server_cpu_ns(self.pid).unwrap_or(self.server_ns);
        let own_ns = own_cpu_ns().unwrap_or(self.own_ns);
        cost.looks += self.looks;
        cost.watched_ns += now - self.at;
        cost.server_cpu_ns += server_ns - self.server_ns;
        cost.observer_cpu_ns += own_ns - self.own_ns;
        *self = Meter { pid: self.pid, looks: 0, at: now, server_ns, own_ns };
    }
}

fn server_cpu_ns(pid: i32) -> Option<i64> {
    cpu_ns(&format!("/proc/{pid}/schedstat"))
}

fn own_cpu_ns() -> Option<i64> {
    cpu_ns("/proc/thread-self/schedstat")
}

/// The first number is the time on a processor [ns]; `stat` has only hundredths of a second.
fn cpu_ns(file: &str) -> Option<i64> {
    fs::read_to_string(file).ok()?.split_whitespace().next()?.parse().ok()
}

/// What looking at one server cost and how narrow the windows came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The node.
    pub node: String,
    /// The cost.
    pub cost: Cost,
    /// How many beats became visible while it was looked at.
    pub beats: usize,
    /// How many of their windows are wider than was asked for.
    pub wide: usize,
    /// The widths of the windows at the median, at 99 % and at the most [ns].
    pub width_p50_p99_max_ns: Option<(i64, i64, i64)>,
    /// How many of the node's own commits were seen returning on the wire.
    pub commits_on_wire: usize,
    /// Why commits are not looked for on the wire, if they are not.
    pub no_wire: Option<String>,
}

impl Report {
    pub(super) fn new(node: &str, cost: Cost, windows: &[Window], resolution_ns: i64) -> Report {
        let mut widths: Vec<i64> = windows.iter().map(Window::width_ns).collect();
        widths.sort_unstable();
        let at = |percent: usize| widths.get((widths.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        let width_p50_p99_max_ns = at(50).zip(at(99)).zip(at(100)).map(|((p50, p99), max)| (p50, p99, max));
        let wide = widths.iter().filter(|width| **width > resolution_ns).count();
        let (node, beats) = (node.to_owned(), widths.len());
        Report { node, cost, beats, wide, width_p50_p99_max_ns, commits_on_wire: 0, no_wire: None }
    }

    /// Looks per second.
    pub fn looks_per_s(&self) -> f64 {
        self.cost.looks as f64 * 1e9 / self.cost.watched_ns.max(1) as f64
    }

    /// What the server pays [percent of one core].
    pub fn server_cpu_percent(&self) -> f64 {
        100.0 * self.cost.server_cpu_ns as f64 / self.cost.watched_ns.max(1) as f64
    }

    /// What the observer pays [percent of one core].
    pub fn observer_cpu_percent(&self) -> f64 {
        100.0 * self.cost.observer_cpu_ns as f64 / self.cost.watched_ns.max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:.0} looks/s cost the server {:.1} % of a core (the observer {:.1} %); {} beats",
            self.node,
            self.looks_per_s(),
            self.server_cpu_percent(),
            self.observer_cpu_percent(),
            self.beats
        )?;
        if let Some((p50, p99, max)) = self.width_p50_p99_max_ns {
            let ms = |ns: i64| ns as f64 / 1e6;
            write!(f, ", seen to {:.3}/{:.3}/{:.3} ms (p50/p99/max), {} too wide", ms(p50), ms(p99), ms(max), self.wide)?;
        }
        match &self.no_wire {
            Some(why) => write!(f, "; no commits on the wire: {why}")?,
            None => write!(f, "; {} commits on the wire", self.commits_on_wire)?,
        }
        if self.cost.without_priority > 0 {
            write!(f, "; without priority")?;
        }
        if self.cost.not_kept > 0 {
            write!(f, "; {} beats not kept", self.cost.not_kept)?;
        }
        if let Some(trouble) = &self.cost.trouble {
            write!(f, "; {} connections, last trouble: {trouble}", self.cost.sessions)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percentiles are of the windows themselves (nearest rank), and a window is too wide only beyond the resolution.
    #[test]
    fn widths_are_summed_up() {
        let windows: Vec<Window> = (1..=200).map(|width| Window { after: Real(0), by: Real(width) }).collect();
        let report = Report::new("n", Cost::default(), &windows, 190);
        assert_eq!((report.beats, report.wide), (200, 10));
        assert_eq!(report.width_p50_p99_max_ns, Some((100, 198, 200)));
        assert_eq!(Report::new("n", Cost::default(), &[], 190).width_p50_p99_max_ns, None);
    }
}
