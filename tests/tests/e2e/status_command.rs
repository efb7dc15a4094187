//! `lagmesh status` against a live collector and a live agent.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use lagmesh_model::status::{AgentStatus, FleetStatus};
use lagmesh_tests::{files, wait};

use crate::support::ready_world;

fn status(args: &[&str]) -> Result<String> {
    let output = Command::new(files::program("lagmesh")?).arg("status").args(args).env_remove("LAGMESH_URL").output()?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Collector and agent are shown in words and as JSON, nothing measured looks like a zero, and everything that agents say is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shows_a_live_fleet() -> Result<()> {
    let world = ready_world("status").await?;
    let (collector, agent) = (world.page(), world.agent_page("tokyo")?);
    let (collector, agent) = (collector.trim_end_matches('/'), agent.trim_end_matches('/'));
    // Jitter takes some round trips of a flow: a second one that is shorter than the first has none.
    wait::until("everything is known", Duration::from_secs(20), || async {
        let text = status(&["--local", "--url", agent])?;
        ensure!(!text.contains("unknown") && !text.contains("0.00"), "{text}");
        Ok(())
    })
    .await?;
    let fleet = status(&["--url", collector])?;
    let own = status(&["--local", "--url", agent])?;
    for (text, wanted) in
        [(&fleet, "3 of 3 regions report"), (&fleet, "new-york-db -> tokyo-db"), (&own, "agent tokyo"), (&own, "EXPORT")]
    {
        ensure!(text.contains(wanted), "{wanted:?} is missing in\n{text}");
    }
    for text in [&fleet, &own] {
        ensure!(!text.contains("unknown") && !text.contains("0.00"), "{text}");
    }
    serde_json::from_str::<FleetStatus>(&status(&["--url", collector, "-o", "json"])?)?;
    serde_json::from_str::<AgentStatus>(&status(&["--local", "--url", agent, "-o", "json"])?)?;

    let metrics = world.get("metrics").await?;
    let rejected: Vec<&str> = metrics
        .lines()
        .filter(|line| {
            line.starts_with("lagmesh_collector_points_total{")
                && !line.contains("\"accepted\"")
                && !line.contains("\"duplicate\"")
        })
        .collect();
    ensure!(rejected.is_empty(), "the collector rejects what its own agents say: {rejected:?}");
    world.stop().await
}
