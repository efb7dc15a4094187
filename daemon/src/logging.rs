//! Structured logs on standard error, as text for people or as JSON, one object per line, for machines.

use std::any::Any;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text per event, coloured only on a terminal.
    #[default]
    Text,
    /// One JSON object per event and line.
    Json,
}

/// The level that is used when the given one is wrong.
const LEVEL_FALLBACK: &str = "info";

/// Sends the logs of this process to standard error from now on, and panics with them.
///
/// `level` is a level (`warn`) or a list of directives (`info,lagmesh_agent=debug`); [`check_level`] tells whether it is
/// right. A wrong one is logged and `info` is used: a daemon that cannot log as it was told must still log. Only the
/// first call in a process has an effect, so that several daemons can live in one test.
pub fn init(format: LogFormat, level: &str) {
    let checked = check_level(level);
    let filter = if checked.is_ok() { EnvFilter::new(level) } else { EnvFilter::new(LEVEL_FALLBACK) };
    // Where standard error is a file on a full disk, to complain there about that would end the process.
    let lines = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_writer(std::io::stderr);
    let first = match format {
        LogFormat::Text => lines.with_ansi(colour()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
    };
    if first.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
    if let Err(e) = checked {
        tracing::warn!(level, error = %e, "log level not understood, using info");
    }
}

/// Why a log level was not understood.
#[derive(Debug, thiserror::Error)]
pub enum BadLevel {
    /// A word that is neither a level nor a directive.
    #[error("{0:?} is no log level; use off, error, warn, info, debug or trace, or directives such as lagmesh_agent=debug")]
    Word(String),
    /// A directive that cannot be parsed.
    #[error(transparent)]
    Directive(#[from] ParseError),
}

/// Tells whether [`init`] would take `level` as it stands.
///
/// # Errors
/// If a part is neither a level nor a directive. `EnvFilter` alone would take a mistyped level for the name of a module
/// and then log nothing at all.
pub fn check_level(level: &str) -> Result<(), BadLevel> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in level.split(',') {
        let is_directive = part.contains('=') || part.contains('[');
        if !is_directive && !LEVELS.contains(&part.to_ascii_lowercase().as_str()) {
            return Err(BadLevel::Word(part.to_owned()));
        }
    }
    EnvFilter::try_new(level)?;
    Ok(())
}

/// Colour helps a person and harms a file; `NO_COLOR` is the convention for switching it off.
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A panic is a log line like any other, so that JSON logs stay JSON to the last line.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(thread = thread.name(), place, message = panic_text(panic.payload()), "panicked");
}

/// What a panic said, if it said something in words.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::check_level;

    /// A mistyped level is refused instead of silencing the log.
    #[test]
    fn levels_are_checked() {
        let table = [
            ("info", true),
            ("WARN", true),
            ("info,lagmesh_agent=debug", true),
            ("off,lagmesh_daemon[task]=trace", true),
            ("info, warn", false),
            ("inof", false),
            ("", false),
            ("info,", false),
            ("lagmesh_agent=loud", false),
        ];
        for (level, right) in table {
            assert_eq!(check_level(level).is_ok(), right, "{level:?}");
        }
    }
}
