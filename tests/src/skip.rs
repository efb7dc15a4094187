//! What is not run for want of privilege or of a program is counted and printed, never passed over in silence.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Notes that a test was skipped: in the file that `LAGMESH_SKIPPED` names, which `make test` prints, and on standard error.
///
/// # Panics
/// If the file cannot be written: a skip that nobody hears of would be a pass.
pub fn skip(what: &str) {
    eprintln!("skipped: {what}");
    if let Some(list) = std::env::var_os("LAGMESH_SKIPPED") {
        let file = OpenOptions::new().create(true).append(true).open(list);
        file.and_then(|mut file| writeln!(file, "{what}")).expect("the list of skipped tests can be written");
    }
}
