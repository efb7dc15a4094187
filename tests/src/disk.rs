//! A disk of its own, of a given size, that can be filled and that is gone with the run.

mod trouble;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Place, Process, Program};
use crate::wait;
pub use trouble::TroubledDisk;

/// The file that takes what is left.
const FILLER: &str = "filler";

/// A disk in memory, mounted over a folder in a mount namespace of its own: nobody else sees it, and it goes when its keeper ends.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    keeper: Process,
}

impl Disk {
    /// Mounts `bytes` over `folder`.
    ///
    /// # Errors
    /// If we may not.
    pub async fn mount(name: &str, folder: &Path, bytes: u64) -> Result<Disk> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let script = format!("mount -t tmpfs -o size={bytes} none \"$0\" && echo mounted && exec sleep infinity");
        let program = Program {
            name: format!("disk-{name}"),
            path: "unshare".into(),
            args: ["--mount", "--propagation", "private", "sh", "-c", &script, &folder.display().to_string()]
                .map(str::to_owned)
                .to_vec(),
            env: Vec::new(),
            user: None,
            place: Place::default(),
        };
        let keeper = Process::start(program, folder.parent().context("a disk stands in a folder")?)?;
        wait::until("the disk is mounted", Duration::from_secs(10), || async {
            ensure!(keeper.output()?.contains("mounted"), "{}", keeper.last_words());
            Ok(())
        })
        .await?;
        Ok(Disk { folder: folder.to_owned(), keeper })
    }

    /// What comes before a command that is to see the disk.
    pub fn enter(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.keeper.pid()), "--".to_owned()]
    }

    fn run(&self, script: &str) -> Result<()> {
        let enter = self.enter();
        let output = Command::new(&enter[0]).args(&enter[1..]).args(["sh", "-c", script]).arg(&self.folder).output();
        let output = output.context("enter the disk's namespace")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// If there is still room afterwards.
    pub fn fill(&self) -> Result<()> {
        self.run(&format!("dd if=/dev/zero of=\"$0/{FILLER}\" bs=64k 2>/dev/null; ! dd if=/dev/zero of=\"$0/{FILLER}.more\" bs=4k count=1 2>/dev/null"))
    }

    /// Makes room again.
    ///
    /// # Errors
    /// If the filler cannot be removed.
    pub fn free(&self) -> Result<()> {
        self.run(&format!("rm -f \"$0/{FILLER}\" \"$0/{FILLER}.more\""))
    }
}
