//! `lagmesh dead-letters`: what collectors refused for good, at the agent on this machine.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lagmesh_model::dead_letter::{CONTROL_SOCKET, DEAD_LETTERS, DeadLetter};
use reqwest::{Method, StatusCode};

use crate::Failure;
use crate::output::Output;
use crate::table::date as moment;

/// The folder in which an agent keeps its state, if nobody says otherwise.
const STATE_DIR: &str = "/var/lib/lagmesh-agent";
/// How long one request may take; the agent itself gives its disk 30 s.
const DEADLINE: Duration = Duration::from_secs(40);

/// List, export, drop or resend batches that a collector refused for good
///
/// The agent on this machine keeps them in its spool: at most 1,000 and 16 MiB, the oldest go first. It must be running, and only its
/// own user and root may ask.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  sudo lagmesh dead-letters list                    who refused what, when and why?
  sudo lagmesh dead-letters export /tmp/letters 17  one body, to look into
  sudo lagmesh dead-letters resend all              once the collector is mended
  sudo lagmesh dead-letters drop all

Exit codes: 0 done, 1 refused or not reached, 64 wrong command line, 78 what was named cannot be used.")]
pub(crate) struct Args {
    /// The state folder of the agent
    #[arg(long, env = "LAGMESH_STATE_DIR", value_name = "FOLDER", default_value = STATE_DIR, global = true)]
    state_dir: PathBuf,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Show them, oldest first
    List {
        /// How to show it
        #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
        output: Output,
    },
    /// Write their bodies into a folder, as they were sent: OTLP in protobuf, .gz or .zst if compressed
    Export {
        /// Where to; files that are there are not written over
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
        /// Which: numbers of the list, or "all"
        #[arg(value_name = "ID|all", required = true)]
        which: Vec<Which>,
    },
    /// Forget them
    Drop {
        /// Which: numbers of the list, or "all"
        #[arg(value_name = "ID|all", required = true)]
        which: Vec<Which>,
    },
    /// Put them among what waits for their collector again; what is older than the spool keeps goes with the next batch
    Resend {
        /// Which: numbers of the list, or "all"
        #[arg(value_name = "ID|all", required = true)]
        which: Vec<Which>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    One(i64),
    All,
}

impl std::str::FromStr for Which {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Which, Self::Err> {
        match text {
            "all" => Ok(Which::All),
            id => id.parse().map(Which::One).map_err(|_| "write a number of the list, or \"all\""),
        }
    }
}

pub(crate) async fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let agent = Agent::new(&args.state_dir)?;
    match &args.action {
        Action::List { output } => {
            let letters = agent.list().await?;
            out.write_all(show(&letters, *output).as_bytes())?;
        }
        Action::Export { folder, which } => {
            for letter in chosen(agent.list().await?, which)? {
                let body = agent.ask(Method::GET, &format!("/{}", letter.id)).await?;
                let file = folder.join(file_name(&letter));
                write_new(&file, &body).map_err(|error| Failure::Config(format!("{}: {error}", file.display())))?;
                writeln!(out, "{}", file.display())?;
            }
        }
        Action::Drop { which } => {
            for letter in chosen(agent.list().await?, which)? {
                agent.ask(Method::DELETE, &format!("/{}", letter.id)).await?;
                writeln!(out, "dropped {}", letter.id)?;
            }
        }
        Action::Resend { which } => {
            for letter in chosen(agent.list().await?, which)? {
                agent.ask(Method::POST, &format!("/{}/resend", letter.id)).await?;
                writeln!(out, "to be sent again {}", letter.id)?;
            }
        }
    }
    Ok(())
}

/// The agent behind a control socket.
struct Agent {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Agent {
    fn new(state_dir: &Path) -> Result<Agent, Failure> {
        let socket = state_dir.join(CONTROL_SOCKET);
        // Fails only if somebody has installed one before, which is then the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().unix_socket(socket.as_path()).tls_certs_only([]).no_proxy().timeout(DEADLINE);
        let http = client.build().map_err(|error| Failure::Broken(anyhow::Error::new(error).context("make a client")))?;
        Ok(Agent { http, socket })
    }

    async fn list(&self) -> Result<Vec<DeadLetter>, Failure> {
        let body = self.ask(Method::GET, "").await?;
        serde_json::from_slice(&body).map_err(|error| {
            Failure::Refused(format!("the answer is no list of dead letters ({error}); is the agent of this version?"))
        })
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Vec<u8>, Failure> {
        let failed = |error: reqwest::Error| {
            Failure::Refused(format!(
                "no answer at {}: {}\nCheck that the agent runs, that --state-dir names its folder, and that you are its user or root.",
                self.socket.display(),
                crate::fetch::chain(&error)
            ))
        };
        // The name of the host is not looked at.
        let request = self.http.request(method, format!("http://localhost{DEAD_LETTERS}{path}"));
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        // What comes is bounded by what the agent keeps.
        let body = response.bytes().await.map_err(failed)?.to_vec();
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(body),
            _ => Err(Failure::Refused(format!("the agent says {status}: {}", String::from_utf8_lossy(&body).trim()))),
        }
    }
}

/// Those of the list that were named; one that is not there is told before anything is done.
fn chosen(letters: Vec<DeadLetter>, which: &[Which]) -> Result<Vec<DeadLetter>, Failure> {
    for one in which {
        if let Which::One(id) = one
            && letters.iter().all(|letter| letter.id != *id)
        {
            return Err(Failure::Refused(format!("there is no dead letter {id}; `lagmesh dead-letters list` shows them")));
        }
    }
    let named = |letter: &DeadLetter| which.iter().any(|one| *one == Which::All || *one == Which::One(letter.id));
    Ok(letters.into_iter().filter(named).collect())
}

fn file_name(letter: &DeadLetter) -> String {
    let ending = match letter.encoding.as_str() {
        "gzip" => ".gz",
        "zstd" => ".zst",
        _ => "",
    };
    format!("dead-letter-{}-{}-{}-{}.pb{ending}", letter.id, letter.agent, letter.boot, letter.sequence)
}

fn write_new(file: &Path, body: &[u8]) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).open(file)?.write_all(body)
}

fn show(letters: &[DeadLetter], output: Output) -> String {
    if output == Output::Json {
        return format!("{:#}\n", serde_json::json!(letters));
    }
    if letters.is_empty() {
        return "no dead letters: no collector has refused a batch for good, or they were dropped or sent again\n".to_owned();
    }
    let mut text = String::new();
    for letter in letters {
        // Words of a collector are for people, and go to no terminal as they come.
        let reason = letter.reason.replace(char::is_control, " ");
        writeln!(
            text,
            "{}  collector {}  batch {} of {} (run {}), made {}, {} bytes\n    refused {}: {reason}",
            letter.id,
            letter.collector,
            letter.sequence,
            letter.agent,
            letter.boot,
            moment(letter.made),
            letter.bytes,
            moment(letter.refused),
        )
        .expect("text takes what is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use lagmesh_model::time::WallNanos;

    use super::*;

    fn letter(id: i64) -> DeadLetter {
        DeadLetter {
            id,
            collector: "c1".to_owned(),
            agent: "oslo".parse().unwrap(),
            boot: lagmesh_model::ids::BootId(7),
            sequence: 12,
            made: WallNanos(1_700_000_000_000_000_000),
            refused: WallNanos(1_700_000_005_000_000_000),
            reason: "HTTP status 400: no\u{1b}[2J".to_owned(),
            encoding: "zstd".to_owned(),
            bytes: 99,
        }
    }

    /// A number that is not in the list is told and nothing is done; "all" is all, and nothing twice.
    #[test]
    fn what_is_chosen() {
        let ids = |which: &[Which]| {
            chosen(vec![letter(1), letter(2)], which).map(|letters| letters.iter().map(|letter| letter.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(&[Which::One(2), Which::One(2)]).unwrap(), [2]);
        assert_eq!(ids(&[Which::All, Which::One(2)]).unwrap(), [1, 2]);
        assert!(ids(&[Which::One(1), Which::One(3)]).unwrap_err().to_string().contains("no dead letter 3"));
        assert_eq!("all".parse(), Ok(Which::All));
        assert!("some".parse::<Which>().is_err());
    }

    /// The list says who refused what, when and why, without control characters of the collector; a body's file says what it is.
    #[test]
    fn what_is_shown() {
        let text = show(&[letter(3)], Output::Table);
        assert!(text.starts_with("3  collector c1  batch 12 of oslo (run 0000000000000007), made "), "{text}");
        assert!(text.contains("HTTP status 400: no [2J\n") && !text.contains('\u{1b}'), "{text}");
        assert!(show(&[], Output::Table).starts_with("no dead letters"));
        assert_eq!(serde_json::from_str::<Vec<DeadLetter>>(&show(&[letter(3)], Output::Json)).unwrap(), [letter(3)]);
        assert_eq!(file_name(&letter(3)), "dead-letter-3-oslo-0000000000000007-12.pb.zst");
    }
}
