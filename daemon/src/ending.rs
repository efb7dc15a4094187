//! Why a program ended, and with which code.

use std::io;

use crate::exit;
use crate::supervise::Ended;

/// Why a program ended other than by an orderly shutdown.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not start.
    #[error("cannot start: {0:#}")]
    Start(anyhow::Error),
    /// It could not go on, or not end in order.
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl RunError {
    /// The code with which the process should end.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Start(error) if is_denied(error) => exit::NOPERM,
            RunError::Start(_) => exit::SOFTWARE,
            RunError::Ended(ended) => ended.exit_code(),
        }
    }
}

fn is_denied(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    /// What the operating system refused is told from what is broken, however deep the refusal lies.
    #[test]
    fn refusals_have_a_code_of_their_own() {
        let start = |kind: io::ErrorKind| {
            let failed: io::Result<()> = Err(kind.into());
            RunError::Start(failed.context("open the file").context("open the store").expect_err("it failed"))
        };
        assert_eq!(start(io::ErrorKind::PermissionDenied).exit_code(), exit::NOPERM);
        assert_eq!(start(io::ErrorKind::NotFound).exit_code(), exit::SOFTWARE);
    }
}
