//! What happens to files that nobody looks after.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::wan::random::Random;

/// Disks lose whole sectors [bytes].
const SECTOR: usize = 512;
const SECTORS_MAX: u64 = 16;
/// So often a file is cut; else some of it is written over, with zeros or with noise.
const CUT_SHARE: f64 = 0.4;

/// Cuts a file or writes over some of its sectors; returns what was done, for messages.
///
/// # Errors
/// If it cannot be read or written.
pub fn damage_file(file: &Path, random: &mut Random) -> Result<String> {
    if !file.exists() {
        return Ok("not there".to_owned());
    }
    let mut bytes = fs::read(file)?;
    let length = bytes.len();
    let at = usize::try_from(random.bits() % (length as u64 + 1))? / SECTOR * SECTOR;
    let what = if random.happens(CUT_SHARE) {
        bytes.truncate(at);
        format!("cut at {at} of {length}")
    } else {
        let sectors = 1 + usize::try_from(random.bits() % SECTORS_MAX)?;
        let end = length.min(at + SECTOR * sectors);
        let zeros = random.happens(0.5);
        for byte in &mut bytes[at..end] {
            *byte = if zeros { 0 } else { random.bits().to_le_bytes()[0] };
        }
        format!("written over from {at} to {end} of {length}")
    };
    fs::write(file, bytes)?;
    Ok(what)
}
