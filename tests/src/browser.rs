//! A real headless browser: what a person would see.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// How long a browser may take for one page.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the page's own scripts may run before it is looked at [ms of the page's time].
const SETTLE_MS: u32 = 6_000;

async fn chromium(url: &str, profile: &Path, args: &[String]) -> Result<Vec<u8>> {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(format!("--virtual-time-budget={SETTLE_MS}"));
    command.args(args).arg(url).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.context("chromium takes too long")?;
    let output = output.context("run chromium (package chromium; `tests/setup.sh test` installs it)")?;
    ensure!(output.status.success(), "chromium ended with {}", output.status);
    Ok(output.stdout)
}

/// The page's document after its scripts have run.
///
/// # Errors
/// If the browser fails.
pub async fn document(url: &str, profile: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&chromium(url, profile, &["--dump-dom".to_owned()]).await?).into_owned())
}

/// A picture of the page [PNG], `width` by `height` pixels.
///
/// # Errors
/// If the browser fails.
pub async fn picture(url: &str, profile: &Path, (width, height): (u32, u32), to: &Path) -> Result<()> {
    chromium(url, profile, &[format!("--window-size={width},{height}"), format!("--screenshot={}", to.display())]).await?;
    ensure!(to.exists(), "chromium made no picture at {}", to.display());
    Ok(())
}
