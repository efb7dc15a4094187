//! What a process has used.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::real::cpu_ns;

/// The processor time of a process with all its threads, in user space and in the kernel [s].
///
/// # Errors
/// If there is no such process.
pub(super) fn cpu_s(pid: Pid) -> Result<f64> {
    let ns = cpu_ns(pid).with_context(|| format!("read the processor time of process {pid}"))?;
    Ok(ns as f64 / 1e9)
}

/// What of a process is in memory [MiB].
///
/// # Errors
/// If there is no such process.
pub fn rss_mib(pid: Pid) -> Result<f64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    rss_kib(&text).map(|kib| kib as f64 / 1024.0).with_context(|| format!("{file} is not as expected"))
}

fn rss_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory that is really there, in the kernel's own unit.
    #[test]
    fn status() {
        assert_eq!(rss_kib("Name:\ta\nVmSize:\t  9999 kB\nVmRSS:\t   2048 kB\n"), Some(2048));
        assert_eq!(rss_kib("Name:\ta\n"), None);
    }
}
