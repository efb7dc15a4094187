//! What a collector's answer to an OTLP/HTTP request means. Pure.

use std::fmt;
use std::time::Duration;

/// The longest wait that a collector may ask for; a slip of its pen must not silence it for a day.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What a collector, or the way to it, made of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has the batch.
    Accepted {
        /// What it says that it dropped of it, if it did.
        partial: Option<String>,
    },
    /// It will never take this batch.
    Refused {
        /// Why.
        why: String,
    },
    /// It may take the batch later.
    Later {
        /// How long it asks us to wait.
        after: Option<Duration>,
        /// Why.
        why: String,
    },
    /// It failed in a way that may be the batch's fault.
    Failed {
        /// How.
        why: String,
    },
}

impl Answer {
    /// The meaning of a status code with the text that came with it. `retry_after` is the header as it came.
    pub fn of(status: u16, retry_after: Option<&str>, text: &str) -> Answer {
        let why = format!("HTTP status {status}{}", Excerpt(text));
        match status {
            200..=299 => Answer::Accepted { partial: None },
            // OTLP says when to try again; 408 is every proxy's way to say the same.
            408 | 429 | 502 | 503 | 504 => Answer::Later { after: retry_after.and_then(seconds), why },
            500..=599 => Answer::Failed { why },
            400 | 413 | 422 => Answer::Refused { why },
            // A wrong address, credential or proxy speaks about the way, not about the batch: a misrouted minute must lose nothing.
            _ => Answer::Later { after: None, why },
        }
    }

    /// What went wrong, if anything did.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Answer::Accepted { partial } => partial.as_deref(),
            Answer::Refused { why } | Answer::Later { why, .. } | Answer::Failed { why } => Some(why),
        }
    }
}

/// The header in seconds; its other form, a date, needs a wall clock that both ends agree on and is left to our own back-off.
fn seconds(retry_after: &str) -> Option<Duration> {
    let seconds = retry_after.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The first words of a body, if they are words.
struct Excerpt<'a>(&'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LENGTH_MAX: usize = 200;
        let line = self.0.trim().lines().next().filter(|line| !line.contains(|c: char| c.is_control() || c == '\u{fffd}'));
        match line {
            Some(line) => write!(f, ": {}", line.chars().take(LENGTH_MAX).collect::<String>()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only an answer about the batch itself gives it up; what speaks about the way to the collector is tried again.
    #[test]
    fn statuses() {
        let kind = |status| match Answer::of(status, None, "") {
            Answer::Accepted { .. } => "accepted",
            Answer::Refused { .. } => "refused",
            Answer::Later { .. } => "later",
            Answer::Failed { .. } => "failed",
        };
        for (statuses, expected) in [
            (&[200, 202, 204][..], "accepted"),
            (&[400, 413, 422], "refused"),
            (&[301, 401, 403, 404, 405, 408, 415, 429, 502, 503, 504], "later"),
            (&[500, 501, 507], "failed"),
        ] {
            for status in statuses {
                assert_eq!(kind(*status), expected, "{status}");
            }
        }
    }

    /// A collector steers by Retry-After, within bounds; what cannot be understood leaves it to us.
    #[test]
    fn retry_after() {
        let after = |header| match Answer::of(503, header, "") {
            Answer::Later { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(Some(" 7 ")), Some(Duration::from_secs(7)));
        assert_eq!(after(Some("999999999")), Some(RETRY_AFTER_MAX));
        assert_eq!(after(Some("Wed, 21 Oct 2015 07:28:00 GMT")), None);
        assert_eq!(after(None), None);
    }

    /// The reason holds the collector's own words if they are words, and never a page of them.
    #[test]
    fn reasons() {
        let why = |text: &str| Answer::of(400, None, text).trouble().unwrap().to_owned();
        assert_eq!(why("no exporter\nat all"), "HTTP status 400: no exporter");
        assert_eq!(why("\u{8}\u{fffd}"), "HTTP status 400");
        assert_eq!(why(""), "HTTP status 400");
        assert_eq!(why(&"x".repeat(1000)).len(), "HTTP status 400: ".len() + 200);
    }
}
