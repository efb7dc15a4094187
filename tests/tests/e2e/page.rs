//! The status page as a person sees it, in a real browser.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::WriteOutcome;
use lagmesh_tests::plan::REGIONS;
use lagmesh_tests::{browser, files, wait};

use crate::support::ready_world;

/// The start tags of the document that carry every one of `attributes`.
fn tags<'a>(document: &'a str, attributes: &[(&str, &str)]) -> Vec<&'a str> {
    let wanted: Vec<String> = attributes.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    document.split('<').filter(|tag| wanted.iter().all(|attribute| tag.contains(attribute))).collect()
}

/// The page shows every link and every replication with its state; a picture of it stays in the build folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_shows_matrix_and_states() -> Result<()> {
    let world = ready_world("page").await?;
    wait::until("the collector knows that writes work", Duration::from_secs(30), || async {
        let status = world.fleet_status().await?;
        let writer = status.nodes.iter().find(|node| node.node.as_str() == "new-york-db").context("the writer")?;
        let ledger = writer.ledger.current().with_context(|| format!("{:?}", writer.ledger))?;
        ensure!(ledger.outcome == WriteOutcome::Acknowledged && ledger.acknowledged_age_s.is_some(), "{ledger:?}");
        ensure!(writer.slots.current().is_some_and(|slots| slots.slots.len() == 2), "{:?}", writer.slots);
        Ok(())
    })
    .await?;
    let profile = tempfile::tempdir()?;
    let document = browser::document(&world.page(), profile.path()).await?;
    for from in REGIONS {
        ensure!(!tags(&document, &[("data-region", from), ("data-axis", "reads")]).is_empty(), "no verdict about {from}");
        for to in REGIONS.iter().filter(|to| **to != from) {
            let cells = tags(&document, &[("data-region", from), ("data-peer", to), ("data-state", "ok")]);
            ensure!(!cells.is_empty(), "the cell {from} -> {to} is not ok");
        }
    }
    for standby in &REGIONS[1..] {
        let row =
            tags(&document, &[("data-origin", "new-york-db"), ("data-node", &format!("{standby}-db")), ("data-state", "ok")]);
        ensure!(!row.is_empty(), "the lag towards {standby} is not ok");
    }
    let writes = tags(&document, &[("data-writes", "acknowledged")]);
    ensure!(writes.len() == 1, "one node is written to, and its writes work: {writes:?}");
    let slots = tags(&document, &[("data-node", "new-york-db"), ("data-state", "reserved")]);
    ensure!(slots.iter().filter(|slot| slot.contains("data-slot")).count() == 2, "the slots of both standbys: {slots:?}");
    let picture = files::build_folder()?.join("status-page.png");
    drop(fs::remove_file(&picture));
    browser::picture(&world.page(), profile.path(), (1400, 1600), &picture).await?;
    let size = fs::metadata(&picture).context("look at the picture")?.len();
    ensure!(size > 20_000, "the picture has only {size} bytes: it is probably empty");
    world.stop().await
}
