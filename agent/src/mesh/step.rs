//! Attempts that take several steps: how one fails, and how an operator hears why.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use lagmesh_model::state::Outcome;

use crate::mesh::opinion::End;

/// How a step of an attempt ended: with what was wanted, or not.
pub type Step<T> = Result<T, Failure>;

/// Why an attempt got no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What that means for the attempt.
    pub end: End,
    /// In words.
    pub why: String,
}

impl Failure {
    /// Nothing could be sent.
    pub fn ours(why: impl Display) -> Failure {
        Failure { end: End::Failed(Outcome::SendError), why: why.to_string() }
    }

    /// Nothing could be sent, because a name does not resolve.
    pub fn unresolved(why: impl Display) -> Failure {
        Failure { end: End::Failed(Outcome::Unresolved), why: why.to_string() }
    }

    /// Something answered, but not what was asked for.
    pub fn corrupt(why: impl Display) -> Failure {
        Failure { end: End::Failed(Outcome::Corrupt), why: why.to_string() }
    }

    /// Nothing came.
    pub fn silence(why: impl Display) -> Failure {
        Failure { end: End::Silence, why: why.to_string() }
    }
}

/// What was wrong the last time: an error is logged when it is new, not again and again.
#[derive(Debug)]
pub struct Told {
    probe: String,
    before: Mutex<Option<String>>,
}

impl Told {
    /// Nothing was wrong yet with the probe of this name.
    pub fn new(probe: String) -> Told {
        Told { probe, before: Mutex::default() }
    }

    /// Logs what is wrong when it is new, and when it is over.
    pub fn tell(&self, step: Result<(), &Failure>) {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        match step {
            Ok(()) if before.take().is_some() => tracing::info!(probe = self.probe, "answered again"),
            Ok(()) => {}
            Err(failure) => {
                if before.as_deref() != Some(&failure.why) {
                    tracing::warn!(probe = self.probe, error = failure.why, "no answer");
                }
                *before = Some(failure.why.clone());
            }
        }
    }

    /// What is wrong now.
    pub fn trouble(&self) -> Option<String> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
