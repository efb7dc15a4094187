//! Between agents and a collector: passes every body on, and knows what the collector acknowledged. Some of its acknowledgements it keeps
//! to itself, as a connection does that breaks at the wrong moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use flate2::read::MultiGzDecoder;
use lagmesh_model::catalogue::LINK_RTT;
use lagmesh_model::otlp::{ExportMetricsServiceRequest, Limits, decode};
use lagmesh_model::series::{Batch, Value};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::feed::{self, Posted};
use crate::wan::random::Random;

/// The longest body [bytes].
const BODY_BYTES_MAX: usize = 4 << 20;

/// What was delivered of one run of one agent.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The batches that the collector acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// How many round trips the newest of them has counted.
    pub values: u64,
    /// How many the newest that was sent has counted, acknowledged or not.
    pub values_sent: u64,
    /// Its number.
    pub newest_sent: u64,
}

/// What was delivered, by agent and boot.
pub type Runs = BTreeMap<(String, u64), Run>;

#[derive(Debug)]
struct Shared {
    /// Where bodies go; nowhere until it is known.
    target: Mutex<Option<String>>,
    client: reqwest::Client,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    runs: Runs,
    random: Random,
    /// The share of acknowledgements that do not reach the agent.
    share_kept_back: f64,
    kept_back: u64,
    twice: u64,
}

/// A running witness. Dropping it ends it.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Witness {
    /// Passes on to nobody yet, and lets a share of the acknowledgements get lost on their way back.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn unaimed(share_kept_back: f64, seed: u64) -> Result<Witness> {
        let begun = Seen { runs: Runs::new(), random: Random::new(seed), share_kept_back, kept_back: 0, twice: 0 };
        let shared = Arc::new(Shared { target: Mutex::new(None), client: feed::client()?, seen: Mutex::new(begun) });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen as a witness")?;
        let address = listener.local_addr()?;
        let routes = Router::new().route("/v1/metrics", post(pass)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
        let routes = routes.with_state(Arc::clone(&shared));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                eprintln!("the witness ended: {error}");
            }
        });
        Ok(Witness { address, shared, _serving: serving })
    }

    /// Passes on to a collector from now on.
    pub fn aim(&self, url: &str) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(url.to_owned());
    }

    /// Keeps no acknowledgement to itself any more.
    pub fn keep_nothing_back(&self) {
        self.shared.lock().share_kept_back = 0.0;
    }

    /// Its address, as a fleet file has it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was delivered so far.
    pub fn runs(&self) -> Runs {
        self.shared.lock().runs.clone()
    }

    /// How many acknowledgements it has kept to itself, and how many batches came again after they were acknowledged.
    pub fn troubles(&self) -> (u64, u64) {
        let seen = self.shared.lock();
        (seen.kept_back, seen.twice)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pass(State(shared): State<Arc<Shared>>, body: Bytes) -> StatusCode {
    let Ok(batch) = read(&body) else { return StatusCode::BAD_REQUEST };
    let key = (batch.exporter.agent.to_string(), batch.exporter.boot.0);
    let values = values(&batch);
    {
        let mut seen = shared.lock();
        let run = seen.runs.entry(key.clone()).or_default();
        let again = run.acknowledged.contains(&batch.sequence);
        if batch.sequence > run.newest_sent {
            (run.newest_sent, run.values_sent) = (batch.sequence, values);
        }
        seen.twice += u64::from(again);
    }
    let target = shared.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(target) = target else { return StatusCode::SERVICE_UNAVAILABLE };
    match feed::post(&shared.client, &target, body.to_vec()).await {
        Posted::Acknowledged => {
            let mut seen = shared.lock();
            let run = seen.runs.entry(key).or_default();
            if run.acknowledged.last().is_none_or(|newest| *newest < batch.sequence) {
                run.values = values;
            }
            run.acknowledged.insert(batch.sequence);
            if seen.random.unit() < seen.share_kept_back {
                seen.kept_back += 1;
                return StatusCode::BAD_GATEWAY;
            }
            StatusCode::OK
        }
        Posted::Later => StatusCode::SERVICE_UNAVAILABLE,
        Posted::Refused(status) => StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
    }
}

fn read(body: &[u8]) -> Result<Batch> {
    let mut message = Vec::new();
    MultiGzDecoder::new(body).take(16 << 20).read_to_end(&mut message).context("unpack a batch")?;
    let request = ExportMetricsServiceRequest::decode(message.as_slice()).context("read a batch")?;
    let mut batches = decode(request, &Limits::default()).context("read a batch")?.batches;
    ensure!(batches.len() == 1, "a body holds one batch");
    batches.pop().context("a body holds a batch")
}

/// How many round trips a batch has counted.
fn values(batch: &Batch) -> u64 {
    let counts = batch.series.iter().map(|series| match &series.value {
        Value::Histogram(rtts) if *series.metric == LINK_RTT => rtts.count(),
        _ => 0,
    });
    counts.sum()
}
