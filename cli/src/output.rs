//! How commands show what a program says.

/// How to show an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Tables for people.
    Table,
    /// The answer as it came, one document each time.
    Json,
}
