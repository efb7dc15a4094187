//! What senders over HTTP have in common: how much of an answer they read, and how they tell that there was none.

use std::error::Error;

/// The most of an answer that is read [bytes]; more has nothing to say to a sender.
const BYTES_MAX: usize = 64 * 1024;

/// The first part of a body, whose chunks come one by one. Where reading fails it ends as well: the status has said it all, the rest
/// is only words.
#[derive(Debug, Default)]
pub struct FirstPart(Vec<u8>);

impl FirstPart {
    /// Whether what comes next is of interest.
    pub fn wants_more(&self) -> bool {
        self.0.len() < BYTES_MAX
    }

    /// Takes of a chunk what there is room for.
    pub fn add(&mut self, chunk: &[u8]) {
        let room = BYTES_MAX - self.0.len();
        self.0.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }

    /// What has come.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// Why there is no answer, with all causes: the error's own words name only the URL.
pub fn no_answer(error: &dyn Error, in_time: bool) -> String {
    let mut text = if in_time { "cannot be reached".to_owned() } else { "no answer in time".to_owned() };
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// However long an answer is, a bounded first part of it is kept.
    #[test]
    fn answers_are_bounded() {
        let mut part = FirstPart::default();
        part.add(b"some");
        part.add(b" words");
        assert_eq!((part.as_slice(), part.wants_more()), (&b"some words"[..], true));
        part.add(&vec![7; 2 * BYTES_MAX]);
        assert_eq!((part.as_slice().len(), part.wants_more()), (BYTES_MAX, false));
        part.add(b"more");
        assert_eq!(part.as_slice().len(), BYTES_MAX);
    }

    /// The causes are told, the outermost words are not.
    #[test]
    fn causes_are_told() {
        #[derive(Debug, thiserror::Error)]
        #[error("the URL")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("refused"));
        assert_eq!(no_answer(&error, true), "cannot be reached: refused");
        assert_eq!(no_answer(&error, false), "no answer in time: refused");
    }
}
