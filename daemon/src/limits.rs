//! How many files a process may have open; a connection is one of them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets the process open so many files, as far as it may allow that to itself; returns how many it may open.
///
/// Many systems start programs with 1024 and allow them more if they ask.
pub fn open_files(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    let asked = wanted.min(hard);
    if asked > soft && setrlimit(Resource::RLIMIT_NOFILE, asked, hard).is_ok() { asked } else { soft }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It never takes away what there is, and gets what the system allows.
    #[test]
    fn asks_for_more_and_never_for_less() {
        let before = open_files(1);
        assert_eq!(open_files(1), before);
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(open_files(before + 1), hard.min(before + 1));
    }
}
