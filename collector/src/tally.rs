//! What the collector counts about itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lagmesh_model::catalogue::{self, Attribute, Metric};
use lagmesh_model::series::{Attributes, Series};
use lagmesh_model::time::Reading;

use crate::forward::Board;

/// The files that are read again when they change.
pub const FOLLOWED: [&str; 2] = ["certificates", "tokens"];

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP.
    Http,
}

impl Transport {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Grpc => "grpc",
            Transport::Http => "http",
        }
    }
}

/// What the history lacks, or has at a coarser resolution or another time than it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HistoryLoss {
    /// Batches that it was too slow for: their counts came with the next batch of the same boot.
    Behind,
    /// Batches that the disk did not take: likewise.
    Unwritten,
    /// Batches that came when too many later starts of their agent had been heard of.
    Retired,
    /// Gaps that were given up because there were too many: what still comes for them changes nothing.
    Gap,
    /// Batches with an impossible time, put down for their arrival.
    ImpossibleTime,
    /// Values of series beyond the number that is kept.
    TooManySeries,
    /// Values that came when even the coarsest buckets of their time were gone.
    TooOld,
    /// Rows of buckets of one series that went before their time because the file was too large.
    NoRoom,
    /// Files that could not be read and were set aside.
    SetAside,
}

impl HistoryLoss {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            HistoryLoss::Behind => "behind",
            HistoryLoss::Unwritten => "unwritten",
            HistoryLoss::Retired => "retired",
            HistoryLoss::Gap => "gap",
            HistoryLoss::ImpossibleTime => "impossible-time",
            HistoryLoss::TooManySeries => "too-many-series",
            HistoryLoss::TooOld => "too-old",
            HistoryLoss::NoRoom => "no-room",
            HistoryLoss::SetAside => "set-aside",
        }
    }
}

/// Counters, shared by those who count.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Counts>>, Board);

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(Transport, &'static str), u64>,
    points: BTreeMap<&'static str, u64>,
    stores_set_aside: u64,
    store_rows_left_out: u64,
    refusals: BTreeMap<&'static str, u64>,
    reload_failures: BTreeMap<&'static str, u64>,
    history_lost: BTreeMap<HistoryLoss, u64>,
    history_bytes: Option<u64>,
    certificate_not_after_s: Option<u64>,
}

impl Tally {
    /// One request and what became of it.
    pub fn request(&self, transport: Transport, outcome: &'static str) {
        *self.lock().requests.entry((transport, outcome)).or_insert(0) += 1;
    }

    /// So many points and what became of them.
    pub fn points(&self, outcome: &'static str, count: u64) {
        if count > 0 {
            *self.lock().points.entry(outcome).or_insert(0) += count;
        }
    }

    /// A store file that could not be read was set aside.
    pub fn store_set_aside(&self) {
        self.lock().stores_set_aside += 1;
    }

    /// So many rows of the store could not be read.
    pub fn store_rows_left_out(&self, rows: u64) {
        self.lock().store_rows_left_out += rows;
    }

    /// How the ways out get on.
    pub fn board(&self) -> &Board {
        &self.1
    }

    /// Somebody was refused at the door.
    pub fn refusal(&self, reason: &'static str) {
        *self.lock().refusals.entry(reason).or_insert(0) += 1;
    }

    /// Files that were replaced are no good; the old ones stay in force.
    pub fn reload_failure(&self, what: &'static str) {
        *self.lock().reload_failures.entry(what).or_insert(0) += 1;
    }

    /// The certificate that is shown from now on ends then [s since 1970], if that can be told.
    pub fn certificate_not_after(&self, not_after_s: Option<u64>) {
        self.lock().certificate_not_after_s = not_after_s;
    }

    /// So much is missing of the history.
    pub fn history_lost(&self, why: HistoryLoss, count: u64) {
        if count > 0 {
            *self.lock().history_lost.entry(why).or_insert(0) += count;
        }
    }

    /// The history takes so much of the disk.
    pub fn history_bytes(&self, bytes: u64) {
        self.lock().history_bytes = Some(bytes);
    }

    /// As series.
    pub fn series(&self, now: Reading) -> Vec<Series> {
        let counts = self.lock();
        let counter = |metric: &'static Metric, attributes, count: u64| Series::counter(metric, attributes, count);
        let outcome = |word: &str| Attributes::new().with(Attribute::Outcome, word);
        let requests = counts.requests.iter().map(|((transport, word), count)| {
            let attributes = outcome(word).with(Attribute::Transport, transport.as_str());
            counter(&catalogue::COLLECTOR_REQUESTS, attributes, *count)
        });
        let points = counts.points.iter().map(|(word, count)| counter(&catalogue::COLLECTOR_POINTS, outcome(word), *count));
        let stores = counter(&catalogue::COLLECTOR_STORES_SET_ASIDE, Attributes::new(), counts.stores_set_aside);
        let rows = counter(&catalogue::COLLECTOR_STORE_ROWS_LEFT_OUT, Attributes::new(), counts.store_rows_left_out);
        let reason = |word: &str| Attributes::new().with(Attribute::Reason, word);
        let refusals = counts.refusals.iter().map(|(word, count)| counter(&catalogue::COLLECTOR_REFUSALS, reason(word), *count));
        // From the start on, so that the first failure shows as an increase.
        let reloads = FOLLOWED.iter().map(|what| {
            let count = counts.reload_failures.get(what).copied().unwrap_or(0);
            counter(&catalogue::COLLECTOR_RELOAD_FAILURES, reason(what), count)
        });
        let lost = counts
            .history_lost
            .iter()
            .map(|(why, count)| counter(&catalogue::COLLECTOR_HISTORY_LOST, reason(why.as_str()), *count));
        let bytes = counts.history_bytes;
        let bytes = bytes.map(|bytes| Series::gauge(&catalogue::COLLECTOR_HISTORY_SIZE, Attributes::new(), bytes as f64));
        let certificate = counts.certificate_not_after_s;
        let certificate =
            certificate.map(|end_s| Series::gauge(&catalogue::COLLECTOR_CERTIFICATE, Attributes::new(), end_s as f64));
        requests
            .chain(points)
            .chain([stores, rows])
            .chain(refusals)
            .chain(reloads)
            .chain(certificate)
            .chain(lost)
            .chain(bytes)
            .chain(self.1.series(now))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
