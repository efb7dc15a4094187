//! What the parts that work on one node share: where it is, whom to tell, and how every statement is bounded and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lagmesh_daemon::{Alarm, Clock};
use lagmesh_model::fleet;
use lagmesh_model::ids::{ClusterName, NodeName, SlotHash};
use lagmesh_model::state::NodeState;
use lagmesh_model::time::{RawNanos, Reading};
use lagmesh_postgres::discover::is_refusal;
use lagmesh_postgres::{CancelOnDrop, ConnInfo, Connection, PgError, QueryError, connect, with_deadline};

use crate::database::DatabaseContext;
use crate::database::health::{Condition, Health, Part};
use crate::database::trouble::Trouble;
use crate::measurement::{NodeEvent, NodeNews, Observation, Outbox};
use crate::slot::SlotReach;

/// How long a connection may take: names, sockets, handshakes, login.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a statement may take: the beat interval, or that of the ledger, within these bounds.
const STATEMENT_DEADLINE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// One node and whom to tell of it.
#[derive(Debug)]
pub(super) struct Site {
    cluster: ClusterName,
    /// Its name.
    pub(super) node: NodeName,
    /// The interval between beats.
    pub(super) interval: Duration,
    /// The interval between rows of the ledger.
    pub(super) ledger_interval: Duration,
    info: ConnInfo,
    context: Arc<DatabaseContext>,
    queries: AtomicU64,
    health: Mutex<Health>,
}

impl Site {
    pub(super) fn new(context: &Arc<DatabaseContext>, cluster: &fleet::Cluster, node: &fleet::Node, info: ConnInfo) -> Site {
        Site {
            cluster: cluster.name.clone(),
            node: node.name.clone(),
            interval: cluster.beat_interval,
            ledger_interval: cluster.ledger_interval,
            info,
            context: Arc::clone(context),
            queries: AtomicU64::new(0),
            health: Mutex::default(),
        }
    }

    /// The clock.
    pub(super) fn clock(&self) -> &Clock {
        &self.context.clock
    }

    /// The nodes of its cluster, by the fleet file in force.
    pub(super) fn members(&self) -> BTreeSet<NodeName> {
        let fleet = self.context.fleets.borrow();
        let cluster = fleet.clusters.iter().find(|cluster| cluster.name == self.cluster);
        cluster.into_iter().flat_map(|cluster| &cluster.nodes).map(|node| node.name.clone()).collect()
    }

    /// A new session with the given settings, for reading.
    pub(super) async fn connect(&self, settings: &str) -> Result<Connection, Trouble> {
        let connection = self.open().await?;
        self.prepare(connection, settings).await
    }

    /// A new session with the given settings, for writing: with the server itself. Through a pooler the election lock would belong to a
    /// session that others get as well, and the settings would be theirs.
    pub(super) async fn connect_directly(&self, settings: &str) -> Result<Connection, Trouble> {
        let connection = self.open().await?;
        match self.path(&connection).await? {
            Condition::Trouble(pooled) => Err(pooled),
            Condition::Starting | Condition::Fine => self.prepare(connection, settings).await,
        }
    }

    /// Whether the server itself answers on a connection.
    pub(super) async fn path(&self, connection: &Connection) -> Result<Condition, Trouble> {
        let pooled = self.query(connection, "ask which process answers", connection.is_pooled()).await?;
        Ok(if pooled { Condition::Trouble(Trouble::pooled(connection.host())) } else { Condition::Fine })
    }

    async fn open(&self) -> Result<Connection, Trouble> {
        connect(&self.info, CONNECT_DEADLINE).await.map_err(|error| Trouble::connect(&error))
    }

    async fn prepare(&self, connection: Connection, settings: &str) -> Result<Connection, Trouble> {
        self.query(&connection, "prepare session", connection.client().batch_execute(settings)).await?;
        Ok(connection)
    }

    /// Runs a statement under a deadline that holds on both sides. After a deadline the connection must go.
    pub(super) async fn query<T>(
        &self,
        connection: &Connection,
        doing: &str,
        work: impl Future<Output = Result<T, PgError>>,
    ) -> Result<T, Trouble> {
        self.bounded(connection, work).await.map_err(|error| Trouble::query(doing, &error))
    }

    /// The same for what a managed service may refuse: that is `None`, and stays unknown.
    pub(super) async fn offered<T>(
        &self,
        connection: &Connection,
        doing: &str,
        work: impl Future<Output = Result<T, PgError>>,
    ) -> Result<Option<T>, Trouble> {
        match self.bounded(connection, work).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.code().is_some_and(is_refusal) => {
                tracing::debug!(node = %self.node, %error, "could not {doing}");
                Ok(None)
            }
            Err(error) => Err(Trouble::query(doing, &error)),
        }
    }

    /// The same with the error as it came.
    pub(super) async fn bounded<T>(
        &self,
        connection: &Connection,
        work: impl Future<Output = Result<T, PgError>>,
    ) -> Result<T, QueryError> {
        self.within(connection, self.interval, work).await
    }

    /// The same for a commit that may wait for a synchronous standby: it has as long as the ledger leaves it, and is cancelled if nobody
    /// waits for it any more. Says beside it whether somebody cut that wait short: then it stands here, and nobody knows where else.
    pub(super) async fn commit<T>(
        &self,
        connection: &Connection,
        work: impl Future<Output = Result<T, PgError>>,
    ) -> (Result<T, QueryError>, bool) {
        let cut_before = connection.cut_waits();
        let guard = CancelOnDrop::new(connection);
        let written = self.within(connection, self.ledger_interval, work).await;
        guard.disarm();
        (written, connection.cut_waits() > cut_before)
    }

    async fn within<T>(
        &self,
        connection: &Connection,
        limit: Duration,
        work: impl Future<Output = Result<T, PgError>>,
    ) -> Result<T, QueryError> {
        self.count(1);
        with_deadline(connection, limit.clamp(STATEMENT_DEADLINE.0, STATEMENT_DEADLINE.1), work).await
    }

    /// Counts statements.
    pub(super) fn count(&self, statements: u64) {
        self.queries.fetch_add(statements, Ordering::Relaxed);
    }

    /// Tells news of the node that were learnt just now; says whether they were taken.
    pub(super) fn tell(&self, news: NodeNews) -> bool {
        self.tell_of(self.clock().now(), news)
    }

    /// Tells news of the node that hold stamps of the clock: `at` belongs to the same epoch as they do.
    pub(super) fn tell_of(&self, at: Reading, news: NodeNews) -> bool {
        let event = NodeEvent { cluster: self.cluster.clone(), node: self.node.clone(), at, news };
        self.context.observations.tell(Observation::Node(event))
    }

    /// Tells how many statements were sent since the last time.
    pub(super) fn tell_queries(&self) {
        let queries = self.queries.swap(0, Ordering::Relaxed);
        if queries > 0 && !self.tell(NodeNews::Queries(queries)) {
            self.count(queries);
        }
    }

    /// Takes note of how a part gets on, and tells if that changes the node's state.
    pub(super) fn report(&self, part: Part, condition: Condition) {
        // Nothing panics while it is held, so what a panicking task left behind is whole.
        let changed = self.health.lock().unwrap_or_else(PoisonError::into_inner).set(part, condition);
        let Some(Trouble { state, why }) = changed else { return };
        if matches!(state, NodeState::Ok | NodeState::StandingBy | NodeState::Unknown) {
            tracing::info!(node = %self.node, %state, why, "node state");
        } else {
            tracing::warn!(node = %self.node, %state, why, "node state");
        }
        if !self.tell(NodeNews::State { state, why }) {
            self.health.lock().unwrap_or_else(PoisonError::into_inner).say_again();
        }
    }

    /// Whether a part works.
    pub(super) fn is_fine(&self, part: Part) -> bool {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).is_fine(part)
    }

    /// Forgets how parts got on that no longer run.
    pub(super) fn clear(&self, parts: &[Part]) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clear(parts);
    }

    /// Changes what the mesh tells the peers.
    pub(super) fn post(&self, change: impl FnOnce(&mut Outbox)) {
        self.context.outbox.send_modify(|outbox| change(Arc::make_mut(outbox)));
    }

    /// A timer for the moments at which beats are written and looked for.
    pub(super) fn alarm() -> Result<Alarm, Trouble> {
        Alarm::new().map_err(|error| Trouble::new(NodeState::Unknown, format!("set a timer: {error}")))
    }

    /// Tells the peers which slots of the node are lost, if those are others than the last time.
    pub(super) fn post_lost_slots(&self, lost: &BTreeSet<SlotHash>) {
        self.context.outbox.send_if_modified(|outbox| {
            let told = outbox.lost_slots.iter().filter(|(node, _)| *node == self.node).map(|(_, slot)| *slot);
            if told.eq(lost.iter().copied()) {
                return false;
            }
            let outbox = Arc::make_mut(outbox);
            outbox.lost_slots.retain(|(node, _)| *node != self.node);
            outbox.lost_slots.extend(lost.iter().map(|slot| (self.node.clone(), *slot)));
            true
        });
    }

    /// Tells the peers how far the node's logical slots are confirmed, if there are any or were any the last time.
    pub(super) fn post_reaches(&self, reaches: BTreeMap<SlotHash, SlotReach>) {
        self.context.outbox.send_if_modified(|outbox| {
            let of_node = |(node, _): &(NodeName, SlotHash)| *node == self.node;
            if reaches.is_empty() && !outbox.reaches.keys().any(of_node) {
                return false;
            }
            let outbox = Arc::make_mut(outbox);
            outbox.reaches.retain(|slot, _| !of_node(slot));
            outbox.reaches.extend(reaches.into_iter().map(|(slot, reach)| ((self.node.clone(), slot), reach)));
            true
        });
    }

    /// Sleeps until a moment of the measuring clock; at once if it is past. Nothing here is due later than in one interval: what seems to
    /// be was planned before the clock began a new epoch.
    pub(super) async fn sleep_until(&self, alarm: &mut Alarm, due: RawNanos) -> Result<(), Trouble> {
        let Some(wait) = due.checked_since(self.clock().now().raw) else { return Ok(()) };
        alarm
            .sleep(wait.min(self.interval))
            .await
            .map_err(|error| Trouble::new(NodeState::Unknown, format!("wait for a timer: {error}")))
    }
}
