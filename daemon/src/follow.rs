//! Files that somebody else replaces while we run: certificates, keys, tokens. Whether one has changed is seen by looking, which works
//! for files that are written in place, renamed over, or reached through links that are turned elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::Hangups;

/// How often files are looked at: a certificate is renewed days before its end, a token that was taken back should be gone soon.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How some files looked when they were last looked at.
#[derive(Debug, Clone)]
pub struct Followed {
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// What changes with a file's content: which file it is, its length, when it was written [s, ns].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Followed {
    /// Looks at the files. To be done before they are read: a change between the two is then noticed.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Followed {
        let look = |path: PathBuf| {
            let stamp = look(&path);
            (path, stamp)
        };
        Followed { files: paths.into_iter().map(look).collect() }
    }

    /// Whether any of them looks otherwise than the last time. Waits for the disk.
    pub fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.files {
            let stamp = look(path);
            changed |= stamp != std::mem::replace(seen, stamp);
        }
        changed
    }
}

/// `None`: there is no such file for us.
fn look(path: &PathBuf) -> Option<Stamp> {
    let facts = fs::metadata(path).ok()?;
    let modified = (facts.mtime(), facts.mtime_nsec());
    Some(Stamp { device: facts.dev(), inode: facts.ino(), length: facts.len(), modified })
}

/// Why to look at files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// SIGHUP.
    Hangup,
    /// It is time.
    Time,
}

impl Occasion {
    /// Whether somebody asks for it.
    pub fn is_hangup(self) -> bool {
        self == Occasion::Hangup
    }
}

/// When to look at files: every ten seconds, and when SIGHUP comes.
#[derive(Debug)]
pub struct Occasions {
    hangups: Hangups,
    ticks: Interval,
}

impl Occasions {
    /// From now on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(hangups: Hangups) -> Occasions {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Occasions { hangups, ticks }
    }

    /// Waits for the next one. The first comes at once.
    pub async fn next(&mut self) -> Occasion {
        tokio::select! {
            () = self.hangups.next() => Occasion::Hangup,
            _ = self.ticks.tick() => Occasion::Time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way in which a file is replaced is noticed once, and so is that it is gone and that it is back.
    #[test]
    fn changes_are_noticed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("one"), "a").unwrap();
        fs::write(path("two"), "bb").unwrap();
        std::os::unix::fs::symlink(path("one"), path("link")).unwrap();
        let mut followed = Followed::new([path("link"), path("other")]);
        let mut changes: Vec<Box<dyn FnOnce()>> = Vec::new();
        let (one, two, link, other, turned) = (path("one"), path("two"), path("link"), path("other"), path("turned"));
        let again = one.clone();
        changes.push(Box::new(move || fs::write(again, "aa").unwrap()));
        changes.push(Box::new(move || fs::rename(two, one).unwrap()));
        let (target, new) = (path("three"), link.clone());
        changes.push(Box::new(move || {
            fs::write(&target, "bb").unwrap();
            std::os::unix::fs::symlink(target, &turned).unwrap();
            fs::rename(turned, new).unwrap();
        }));
        changes.push(Box::new(move || fs::write(other, "").unwrap()));
        changes.push(Box::new(move || fs::remove_file(link).unwrap()));
        assert!(!followed.has_changed());
        for (index, change) in changes.into_iter().enumerate() {
            change();
            assert!(followed.has_changed(), "change {index}");
            assert!(!followed.has_changed(), "change {index} once");
        }
        assert!(!Followed::new([]).has_changed());
    }
}
