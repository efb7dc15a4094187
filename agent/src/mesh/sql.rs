//! Login and query at a peer region's database, as applications do it: on a new connection each time, in phases, and on one that
//! is kept. Reads nothing of anybody, writes nothing, and leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use lagmesh_daemon::{Clock, Shutdown};
use lagmesh_model::state::{Outcome, Phase, ProbeKind};
use lagmesh_model::stopwatch::Stopwatch;
use lagmesh_model::time::Reading;
use lagmesh_postgres::conninfo::Host;
use lagmesh_postgres::deadline::words;
use lagmesh_postgres::{ConnInfo, ConnectError, Connection, QueryError, prepare, with_deadline};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::SimpleQueryMessage;

use crate::mesh::line::outcome_of;
use crate::mesh::opinion::{Attempt, End, Opinion};
use crate::mesh::rotation::Rotation;
use crate::mesh::step::{Failure, Step, Told};

/// The query: needs no table, no right and no disk.
const QUERY: &str = "SELECT 1";
/// How the server shows who is there.
const APPLICATION: &str = "lagmesh-probe";
/// The longest wait for a goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where a region is asked.
#[derive(Debug)]
pub struct Target {
    info: ConnInfo,
    hosts: Rotation<Host>,
    clock: Clock,
    give_up: Duration,
    told: Told,
}

impl Target {
    /// The database of a connection string.
    pub fn of(info: ConnInfo, opinion: &Opinion) -> Target {
        Target::new(info, format!("{} {}", opinion.kind, opinion.peer), &opinion.clock, opinion.timing.give_up)
    }

    fn new(mut info: ConnInfo, name: String, clock: &Clock, give_up: Duration) -> Target {
        // What the string asks for itself stands behind and wins.
        let limits = format!("-c statement_timeout={} -c default_transaction_read_only=on", give_up.as_millis().max(1));
        info.options = Some(info.options.map_or(limits.clone(), |own| format!("{limits} {own}")));
        info.application_name = Some(APPLICATION.to_owned());
        let hosts = Rotation::new(info.hosts.clone());
        Target { info, hosts, clock: clock.clone(), give_up, told: Told::new(name) }
    }

    fn watch(&self) -> Stopwatch {
        let clock = self.clock.clone();
        Stopwatch::start(Arc::new(move || clock.now().raw))
    }

    /// A session by the deadline. Says when it began to ask the host: names are resolved and files are read before.
    async fn connect(&self, until: Instant) -> (Reading, Stopwatch, Step<(u64, Connection)>) {
        let (number, host) = self.hosts.next();
        let prepared = timeout_at(until, prepare(&self.info, host)).await;
        let (started, watch) = (self.clock.now(), self.watch());
        let prepared = match prepared {
            Ok(Ok(prepared)) => prepared,
            // Nothing was asked yet: it is the name.
            Ok(Err(error @ ConnectError::Unreachable { .. })) => return (started, watch, Err(Failure::unresolved(error))),
            Ok(Err(error)) => return (started, watch, Err(Failure::ours(error))),
            Err(_) => return (started, watch, Err(Failure::ours(format!("{host}: its name or a file took too long")))),
        };
        let connected = match timeout_at(until, prepared.connect(&watch)).await {
            Ok(Ok(connection)) => Ok((number, connection)),
            Ok(Err(error)) => Err(Failure { end: end_of(&error, !watch.phases().is_empty()), why: error.to_string() }),
            Err(_) => Err(Failure::silence(format!("{host} gave no session in time"))),
        };
        (started, watch, connected)
    }

    /// One attempt on a connection of its own.
    async fn fresh(&self) -> Attempt {
        let until = Instant::now() + self.give_up;
        let (started, watch, connected) = self.connect(until).await;
        let mut open = None;
        let step = match connected {
            Ok((number, connection)) => {
                let step = ask(&connection, until).await;
                if step.is_ok() {
                    watch.end(Phase::Query);
                    self.hosts.answered(number);
                }
                open = Some(connection);
                step
            }
            Err(failure) => Err(failure),
        };
        let attempt = self.attempt(started, watch.phases(), step);
        if let Some(connection) = open.filter(|_| attempt.end == End::Answered) {
            connection.close(GOODBYE).await;
        }
        attempt
    }

    /// One attempt on the kept connection; makes one, unmeasured, where there is none. What was not answered is not kept.
    async fn kept(&self, kept: &mut Option<Connection>) -> Attempt {
        let until = Instant::now() + self.give_up;
        let connection = match kept.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => match self.connect(until).await {
                (_, _, Ok((number, connection))) => {
                    self.hosts.answered(number);
                    connection
                }
                (started, _, Err(failure)) => return self.attempt(started, Vec::new(), Err(failure)),
            },
        };
        let (started, watch) = (self.clock.now(), self.watch());
        let step = ask(&connection, until).await;
        if step.is_ok() {
            watch.end(Phase::Query);
            *kept = Some(connection);
        }
        self.attempt(started, watch.phases(), step)
    }

    fn attempt(&self, started: Reading, phases: Vec<(Phase, u64)>, step: Step<()>) -> Attempt {
        let ended = self.clock.now();
        self.told.tell(step.as_ref().copied());
        let end = step.map_or_else(|failure| failure.end, |()| End::Answered);
        Attempt { started, ended, end, phases }
    }
}

/// Probes a region until shutdown.
///
/// # Errors
/// Never: a region that cannot be reached is data.
pub async fn run(opinion: Opinion, target: Target, shutdown: Shutdown) -> anyhow::Result<()> {
    let target = Arc::new(target);
    let kept = Arc::new(tokio::sync::Mutex::new(None));
    let attempt = || {
        let (target, kept, kind) = (Arc::clone(&target), Arc::clone(&kept), opinion.kind);
        async move {
            match kind {
                ProbeKind::SqlKept => target.kept(&mut *kept.lock().await).await,
                _ => target.fresh().await,
            }
        }
    };
    opinion.run(attempt, &shutdown).await;
    if let Some(connection) = kept.lock().await.take() {
        connection.close(GOODBYE).await;
    }
    Ok(())
}

/// Asks, and cancels on the server what is not answered in time.
async fn ask(connection: &Connection, until: Instant) -> Step<()> {
    let limit = until.saturating_duration_since(Instant::now());
    match with_deadline(connection, limit, connection.client().simple_query(QUERY)).await {
        Ok(answer) if is_one(&answer) => Ok(()),
        Ok(_) => Err(Failure::corrupt(format!("{QUERY} gave something else"))),
        Err(QueryError::DeadlineExceeded(exceeded)) => Err(Failure::silence(exceeded)),
        Err(QueryError::Failed(error)) => Err(Failure::corrupt(words(&error))),
    }
}

fn is_one(answer: &[SimpleQueryMessage]) -> bool {
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| row.get(0)).eq([Some("1")])
}

/// What it means that there is no session. `open`: the port was, so whatever came after is an answer, if not the wanted one.
fn end_of(error: &ConnectError, open: bool) -> End {
    End::Failed(match error {
        ConnectError::Timeout { .. } => return End::Silence,
        ConnectError::Unreachable { source, .. } if !open => match source.downcast_ref::<std::io::Error>() {
            Some(error) if error.kind() == std::io::ErrorKind::TimedOut => return End::Silence,
            Some(error) => outcome_of(error),
            None => Outcome::SendError,
        },
        ConnectError::BadSettings { .. } | ConnectError::NoHosts if !open => Outcome::SendError,
        // The host is there and says that it takes nobody.
        ConnectError::StartingUp { .. } | ConnectError::TooManyConnections { .. } => Outcome::Refused,
        _ => Outcome::Corrupt,
    })
}

#[cfg(test)]
mod tests;
