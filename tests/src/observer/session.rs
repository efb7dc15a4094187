//! A connection over a Unix socket that asks one prepared question again and again, as cheaply as the protocol allows: two system
//! calls here, no runtime and no timer of a millisecond's grain.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::truth::{BeatId, Stream};

/// Rows of the table that are not among those named by `$1`: one number for each beat, for an incarnation is random.
const LOOK_SQL: &str = "SELECT origin, incarnation, stream, seq FROM lagmesh.beat WHERE seq IS NOT NULL \
                        AND NOT ((incarnation # (seq * 2 + (stream = 'ledger')::int)) = ANY ($1))";

/// The session is planned once and runs nothing but the look.
const OPTIONS: &str = "-c plan_cache_mode=force_generic_plan -c jit=off -c search_path=pg_catalog";

/// How often a wait for the server's answer asks whether to go on.
const PATIENCE: Duration = Duration::from_millis(100);

/// The longest answer that is believed [bytes]; a table of hundreds of incarnations needs less.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The type `bigint[]`.
const INT8_ARRAY: i32 = 1016;

/// The type `bigint`.
const INT8: i32 = 20;

/// The session.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    /// The server's process for it.
    pub(super) pid: i32,
    answer: Vec<u8>,
}

/// What one message from the server means here.
enum Part {
    Ready,
    Backend(i32),
    Row(BeatId),
    Other,
}

impl Session {
    /// Connects as the superuser and prepares the look. `go_on` is asked while the server does not answer.
    pub(super) fn open(socket: &Path, database: &str, go_on: &dyn Fn() -> bool) -> Result<Session> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut session = Session { stream, pid: 0, answer: Vec::new() };
        let mut startup = 196_608_i32.to_be_bytes().to_vec();
        for text in ["user", "postgres", "database", database, "application_name", "testbed-observer", "options", OPTIONS, ""] {
            put_text(&mut startup, text);
        }
        let mut bytes = length_of(&startup).to_vec();
        bytes.extend(startup);
        session.stream.write_all(&bytes)?;
        session.parts(go_on, |session, part| {
            if let Part::Backend(pid) = part {
                session.pid = pid;
            }
        })?;
        let mut parse = Vec::new();
        put_text(&mut parse, "look");
        put_text(&mut parse, LOOK_SQL);
        parse.extend(1_i16.to_be_bytes());
        parse.extend(INT8_ARRAY.to_be_bytes());
        let mut bytes = message(b'P', &parse);
        bytes.extend(message(b'S', &[]));
        session.stream.write_all(&bytes)?;
        session.parts(go_on, |_, _| {})?;
        Ok(session)
    }

    /// Sends a look made by [`look`] and returns the beats that it found.
    pub(super) fn ask(&mut self, look: &[u8], go_on: &dyn Fn() -> bool) -> Result<Vec<BeatId>> {
        self.stream.write_all(look)?;
        let mut found = Vec::new();
        self.parts(go_on, |_, part| {
            if let Part::Row(beat) = part {
                found.push(beat);
            }
        })?;
        Ok(found)
    }

    /// Reads messages until the server is ready for the next.
    fn parts(&mut self, go_on: &dyn Fn() -> bool, mut each: impl FnMut(&mut Session, Part)) -> Result<()> {
        self.answer.clear();
        let mut at = 0;
        loop {
            while let Some((tag, body)) = next_message(&self.answer, at)? {
                at += 5 + body.len();
                let part = part(tag, body)?;
                if matches!(part, Part::Ready) {
                    return Ok(());
                }
                each(self, part);
            }
            let mut piece = [0; 8192];
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => self.answer.extend_from_slice(&piece[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                    ensure!(go_on(), "told to stop while the server did not answer");
                }
                Err(error) => return Err(error.into()),
            }
            ensure!(self.answer.len() <= ANSWER_BYTES_MAX, "the server's answer is too long");
        }
    }
}

/// The bytes of a look for beats that are not among `seen` (by [`number`]).
pub(super) fn look(seen: &[i64]) -> Vec<u8> {
    let mut array = Vec::new();
    let dimensions = i32::from(!seen.is_empty());
    for word in [dimensions, 0, INT8] {
        array.extend(word.to_be_bytes());
    }
    if dimensions == 1 {
        array.extend(i32::try_from(seen.len()).unwrap_or(i32::MAX).to_be_bytes());
        array.extend(1_i32.to_be_bytes());
        for number in seen {
            array.extend(8_i32.to_be_bytes());
            array.extend(number.to_be_bytes());
        }
    }
    let mut bind = Vec::new();
    put_text(&mut bind, "");
    put_text(&mut bind, "look");
    // One parameter format for all: binary.
    for word in [1_i16, 1, 1] {
        bind.extend(word.to_be_bytes());
    }
    bind.extend(i32::try_from(array.len()).unwrap_or(i32::MAX).to_be_bytes());
    bind.extend(array);
    // Results as text.
    bind.extend(0_i16.to_be_bytes());
    let mut execute = Vec::new();
    put_text(&mut execute, "");
    execute.extend(0_i32.to_be_bytes());
    let mut bytes = message(b'B', &bind);
    bytes.extend(message(b'E', &execute));
    bytes.extend(message(b'S', &[]));
    bytes
}

/// The number that stands for a beat in a look.
pub(super) fn number(beat: &BeatId) -> i64 {
    beat.incarnation ^ (beat.sequence.wrapping_mul(2) + i64::from(beat.stream == Stream::Ledger))
}

fn part(tag: u8, body: &[u8]) -> Result<Part> {
    Ok(match tag {
        b'Z' => Part::Ready,
        b'K' => Part::Backend(i32::from_be_bytes(body.get(..4).context("a short key")?.try_into()?)),
        b'D' => Part::Row(row(body)?),
        b'R' if body != [0, 0, 0, 0] => bail!("the server asks for a password"),
        b'E' => bail!("the server says: {}", error_text(body)),
        _ => Part::Other,
    })
}

fn row(body: &[u8]) -> Result<BeatId> {
    let mut rest = body.get(2..).context("a short row")?;
    let mut column = || -> Result<&str> {
        let (length, after) = rest.split_at_checked(4).context("a short row")?;
        let length = usize::try_from(i32::from_be_bytes(length.try_into()?)).context("a null")?;
        let (value, after) = after.split_at_checked(length).context("a short row")?;
        rest = after;
        Ok(std::str::from_utf8(value)?)
    };
    Ok(BeatId {
        origin: column()?.to_owned(),
        incarnation: column()?.parse()?,
        stream: if column()? == "ledger" { Stream::Ledger } else { Stream::Beat },
        sequence: column()?.parse()?,
    })
}

fn error_text(body: &[u8]) -> String {
    let field = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'M'));
    field.map_or_else(|| "nothing".to_owned(), |field| String::from_utf8_lossy(&field[1..]).into_owned())
}

/// The message that starts at `at`, if it is there as a whole.
pub(super) fn next_message(bytes: &[u8], at: usize) -> Result<Option<(u8, &[u8])>> {
    let Some(head) = bytes.get(at..at + 5) else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    ensure!((4..=ANSWER_BYTES_MAX).contains(&length), "that is not PostgreSQL's protocol");
    Ok(bytes.get(at + 5..at + 1 + length).map(|body| (head[0], body)))
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(length_of(body));
    bytes.extend_from_slice(body);
    bytes
}

fn length_of(body: &[u8]) -> [u8; 4] {
    u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes()
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message is taken only as a whole, and what is no such protocol is an error and no endless wait.
    #[test]
    fn messages_are_whole() {
        let mut bytes = message(b'C', b"UPDATE 1\0");
        assert_eq!(next_message(&bytes[..7], 0).unwrap(), None);
        bytes.push(b'Z');
        assert_eq!(next_message(&bytes, 0).unwrap(), Some((b'C', b"UPDATE 1\0".as_slice())));
        assert!(next_message(b"HTTP/1.1", 0).is_err());
    }
}
