//! The file by which running programs are told what their clocks show. Its layout is that of `clock/clock.c`.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use super::scale::{PIECES, Piece};

const MAGIC: &[u8; 8] = b"lagclock";
const VERSION: u32 = 1;
const SEQUENCE_AT: u64 = 16;
const STATES_AT: u64 = 24;
const STATE_BYTES: usize = 400;
const FILE_BYTES: u32 = 24 + 2 * 400;

/// Kernel stamps of packets stay on the true clock.
const STAMPS_TRUE: u64 = 1;
/// The host claims that its clock is synchronised.
const SYNCHRONISED: u64 = 2;

/// All that programs are told at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// Wall, monotonic, raw and boot clock, each by its last pieces.
    pub clocks: [[Piece; PIECES]; 4],
    /// Whether kernel stamps of packets stay on the true clock.
    pub kernel_stamps_true: bool,
    /// Whether the host claims that its clock is synchronised.
    pub synchronised: bool,
    /// How far off the host claims its wall clock to be at most [ns].
    pub max_error_ns: u64,
}

/// The file, open for writing. Two states are written in turn and a sequence number says which of them is whole, so that a program
/// never waits for us and never reads a state that is half old and half new.
#[derive(Debug)]
pub(super) struct ControlFile {
    file: File,
    sequence: u64,
}

impl ControlFile {
    /// A new file that any account may read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn create(path: &Path, state: &State) -> Result<ControlFile> {
        let file = File::options().write(true).create_new(true).open(path).with_context(|| format!("make {}", path.display()))?;
        let mut bytes = Vec::with_capacity(FILE_BYTES as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_ne_bytes());
        bytes.extend_from_slice(&FILE_BYTES.to_ne_bytes());
        bytes.extend_from_slice(&0_u64.to_ne_bytes());
        bytes.extend_from_slice(&encode(state));
        bytes.extend_from_slice(&encode(state));
        file.write_all_at(&bytes, 0).with_context(|| format!("write {}", path.display()))?;
        file.set_permissions(Permissions::from_mode(0o644)).with_context(|| format!("open {} to all", path.display()))?;
        Ok(ControlFile { file, sequence: 0 })
    }

    /// Tells running programs a new state.
    ///
    /// # Errors
    /// If it cannot be written; programs then still read the old one.
    pub(super) fn write(&mut self, state: &State) -> Result<()> {
        let sequence = self.sequence + 1;
        let at = STATES_AT + (sequence & 1) * STATE_BYTES as u64;
        self.file.write_all_at(&encode(state), at).context("write a host's clocks")?;
        self.file.write_all_at(&sequence.to_ne_bytes(), SEQUENCE_AT).context("write a host's clocks")?;
        self.sequence = sequence;
        Ok(())
    }
}

fn encode(state: &State) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(STATE_BYTES);
    for piece in state.clocks.iter().flatten() {
        for number in [piece.anchor_ns, piece.offset_ns, piece.rate_ppb] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
    }
    let stamps = if state.kernel_stamps_true { STAMPS_TRUE } else { 0 };
    let synchronised = if state.synchronised { SYNCHRONISED } else { 0 };
    bytes.extend_from_slice(&(stamps | synchronised).to_ne_bytes());
    bytes.extend_from_slice(&state.max_error_ns.div_ceil(1000).to_ne_bytes());
    bytes
}
