//! What a target's answer means. Pure.

use std::time::Duration;

/// The longest wait that a target may ask for; a slip of its pen must not silence it for a day.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// The most of a target's words that is kept [characters].
const WORDS_MAX: usize = 200;

/// Why values do not reach a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The queue was full.
    QueueFull,
    /// They were in the queue for too long.
    QueueAge,
    /// The disk took no more.
    Disk,
    /// The queue could not be read.
    Corrupt,
    /// The wall clock went back behind what was taken down before.
    ClockBack,
    /// The target has newer values of these series, or calls them too old.
    OutOfOrder,
    /// A single value is too large for the target.
    TooLarge,
    /// The target refuses them for another reason.
    Refused,
    /// The target took the request and says that it did not keep them.
    Unwritten,
}

impl Reason {
    /// Every reason.
    pub(crate) const ALL: [Reason; 9] = [
        Reason::QueueFull,
        Reason::QueueAge,
        Reason::Disk,
        Reason::Corrupt,
        Reason::ClockBack,
        Reason::OutOfOrder,
        Reason::TooLarge,
        Reason::Refused,
        Reason::Unwritten,
    ];

    /// The word in metrics and in the queue.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::QueueFull => "queue-full",
            Reason::QueueAge => "queue-age",
            Reason::Disk => "disk",
            Reason::Corrupt => "corrupt",
            Reason::ClockBack => "clock-back",
            Reason::OutOfOrder => "out-of-order",
            Reason::TooLarge => "too-large",
            Reason::Refused => "refused",
            Reason::Unwritten => "unwritten",
        }
    }

    /// The reason of a word.
    pub(crate) fn from_word(word: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// What a target, or the way to it, made of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has it.
    Taken {
        /// How many values it says that it did not keep.
        unwritten: u64,
        /// What it says about that.
        why: Option<String>,
    },
    /// It will never take this.
    Refused {
        /// For what reason.
        reason: Reason,
        /// In which words.
        why: String,
    },
    /// It may take it in smaller parts.
    TooLarge {
        /// In which words.
        why: String,
    },
    /// It may take it later.
    Later {
        /// How long it asks us to wait.
        after: Option<Duration>,
        /// Why.
        why: String,
    },
    /// Address, credentials or protocol are wrong: nothing is wrong with the values.
    Misconfigured {
        /// Why.
        why: String,
    },
}

impl Answer {
    /// The meaning of a status with the text that came with it. `retry_after` is the header as it came.
    pub(crate) fn of(status: u16, retry_after: Option<&str>, text: &str) -> Answer {
        let why = match words(text) {
            Some(words) => format!("HTTP status {status}: {words}"),
            None => format!("HTTP status {status}"),
        };
        match status {
            200..=299 => Answer::Taken { unwritten: 0, why: None },
            413 => Answer::TooLarge { why },
            408 | 425 | 429 | 502..=504 => Answer::Later { after: retry_after.and_then(seconds), why },
            // Some say with 500 what no repetition mends.
            500..=599 if is_about_order(text) => Answer::Refused { reason: Reason::OutOfOrder, why },
            500..=599 => Answer::Later { after: retry_after.and_then(seconds), why },
            409 => Answer::Refused { reason: Reason::OutOfOrder, why },
            401 | 403 | 404 | 405 | 407 | 415 => Answer::Misconfigured { why },
            400..=499 if is_about_order(text) => Answer::Refused { reason: Reason::OutOfOrder, why },
            400..=499 => Answer::Refused { reason: Reason::Refused, why },
            // A redirect would lead to where the fleet file does not say.
            _ => Answer::Misconfigured { why },
        }
    }

    /// What went wrong, if anything did.
    pub(crate) fn trouble(&self) -> Option<&str> {
        match self {
            Answer::Taken { why, .. } => why.as_deref(),
            Answer::Refused { why, .. }
            | Answer::TooLarge { why }
            | Answer::Later { why, .. }
            | Answer::Misconfigured { why } => Some(why),
        }
    }
}

/// How Prometheus, Mimir, Thanos and Cortex say that a sample is older than what they have, or than what they take.
fn is_about_order(text: &str) -> bool {
    const SAYINGS: [&str; 7] =
        ["out of order", "out-of-order", "too old", "too-old", "out of bounds", "duplicate sample", "duplicate timestamp"];
    let text = text.to_ascii_lowercase();
    SAYINGS.iter().any(|saying| text.contains(saying))
}

/// The header in seconds; its other form, a date, needs a wall clock that both ends agree on and is left to our own back-off.
fn seconds(retry_after: &str) -> Option<Duration> {
    let seconds = retry_after.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The first words of a body, if they are words.
fn words(text: &str) -> Option<String> {
    let line = text.trim().lines().next()?;
    (!line.contains(|c: char| c.is_control() || c == '\u{fffd}')).then(|| line.chars().take(WORDS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only an answer about the values gives values up; one about the way, or about the moment, never does.
    #[test]
    fn statuses() {
        let kind = |status, text| match Answer::of(status, None, text) {
            Answer::Taken { .. } => "taken",
            Answer::Refused { reason, .. } => reason.as_str(),
            Answer::TooLarge { .. } => "split",
            Answer::Later { .. } => "later",
            Answer::Misconfigured { .. } => "misconfigured",
        };
        for (statuses, text, expected) in [
            (&[200, 202, 204][..], "", "taken"),
            (&[408, 425, 429, 500, 502, 503, 504, 507], "", "later"),
            (&[500, 400, 422], "user=1: err: Out of order sample, series={}", "out-of-order"),
            (&[500, 400], "the sample has been rejected because its timestamp is too old", "out-of-order"),
            (&[400], "out of bounds", "out-of-order"),
            (&[409], "", "out-of-order"),
            (&[400, 410, 422], "label name is not valid", "refused"),
            (&[413], "", "split"),
            (&[301, 308, 401, 403, 404, 405, 407, 415], "", "misconfigured"),
            // A gateway's busy page may hold any words.
            (&[503, 429], "too old", "later"),
        ] {
            for status in statuses {
                assert_eq!(kind(*status, text), expected, "{status} {text}");
            }
        }
    }

    /// A target steers by Retry-After, within bounds; what cannot be understood leaves it to us.
    #[test]
    fn retry_after() {
        let after = |status, header| match Answer::of(status, header, "") {
            Answer::Later { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(429, Some(" 7 ")), Some(Duration::from_secs(7)));
        assert_eq!(after(503, Some("999999999")), Some(RETRY_AFTER_MAX));
        assert_eq!(after(503, Some("Wed, 21 Oct 2015 07:28:00 GMT")), None);
        assert_eq!(after(500, None), None);
    }

    /// Every reason has a word of its own, and the word leads back to it.
    #[test]
    fn reasons_have_words() {
        assert!(Reason::ALL.into_iter().all(|reason| Reason::from_word(reason.as_str()) == Some(reason)));
    }
}
