//! The collector of the measured agent: it takes everything, keeps it as it came, and reads it only when it is asked, so that it
//! takes no time while something is measured.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use flate2::read::MultiGzDecoder;
use lagmesh_model::catalogue::{Attribute, LINK_PROBES, LINK_RTT};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::otlp::{ExportMetricsServiceRequest, Limits, decode};
use lagmesh_model::series::{Batch, Series, Value};
use lagmesh_model::state::{Outcome, ProbeKind};
use prost::Message as _;
use tokio::net::TcpListener;

use crate::wan::host::Host;

const PORT: u16 = 4318;
/// The longest batch that is taken [octets], packed and unpacked.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How many are kept until they are asked for; a part of the bench makes a few hundred.
const BATCHES_MAX: usize = 10_000;

type Kept = Arc<Mutex<Vec<Bytes>>>;

/// The receiving end.
#[derive(Debug)]
pub(super) struct Receiver {
    kept: Kept,
}

/// What the agent had counted at one moment, of its own kind of probes.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    /// The number of the batch, from 1.
    pub(super) sequence: u64,
    /// Round-trip times by peer since the start.
    pub(super) rtts: BTreeMap<String, Exponential>,
    /// Fates since the start.
    pub(super) outcomes: BTreeMap<Outcome, u64>,
}

impl Receiver {
    /// Listens on the loopback of a host.
    ///
    /// # Errors
    /// If it cannot.
    pub(super) async fn start(host: &Host) -> Result<Receiver> {
        let kept = Kept::default();
        let state = Arc::clone(&kept);
        host.run(move || async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).await.context("listen for batches")?;
            let router = Router::new().route("/v1/metrics", post(take)).layer(DefaultBodyLimit::max(BATCH_BYTES_MAX));
            let serving = axum::serve(listener, router.with_state(state));
            tokio::spawn(async move { serving.await });
            Ok(())
        })
        .await?;
        Ok(Receiver { kept })
    }

    /// Where the agent finds it.
    #[expect(clippy::unused_self, reason = "only one that was started has an address")]
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
    }

    /// Forgets what came so far: another agent is to be measured.
    pub(super) fn forget(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The newest of what came, and forgets the rest.
    ///
    /// # Errors
    /// If something is no batch.
    pub(super) fn newest(&self) -> Result<Option<Counted>> {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        let mut newest: Option<Counted> = None;
        for body in &kept {
            for batch in read(body)? {
                if newest.as_ref().is_none_or(|newest| newest.sequence < batch.sequence) {
                    newest = Some(counted(&batch));
                }
            }
        }
        Ok(newest)
    }
}

async fn take(State(kept): State<Kept>, body: Bytes) -> StatusCode {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() < BATCHES_MAX {
        kept.push(body);
    }
    StatusCode::OK
}

fn read(body: &[u8]) -> Result<Vec<Batch>> {
    let mut message = Vec::new();
    MultiGzDecoder::new(body).take(BATCH_BYTES_MAX as u64).read_to_end(&mut message).context("unpack a batch")?;
    let request = ExportMetricsServiceRequest::decode(message.as_slice()).context("read a batch")?;
    Ok(decode(request, &Limits::default()).context("read a batch")?.batches)
}

fn counted(batch: &Batch) -> Counted {
    let mut counted = Counted { sequence: batch.sequence, rtts: BTreeMap::new(), outcomes: BTreeMap::new() };
    let stamp = |series: &&Series| series.attributes.get(Attribute::Kind) == Some(ProbeKind::Stamp.as_str());
    for Series { metric, attributes, value } in batch.series.iter().filter(stamp) {
        match value {
            Value::Histogram(rtts) if **metric == LINK_RTT => {
                let peer = attributes.get(Attribute::Peer).unwrap_or_default().to_owned();
                counted.rtts.insert(peer, (**rtts).clone());
            }
            Value::Counter(count) if **metric == LINK_PROBES => {
                if let Some(outcome) = attributes.get(Attribute::Outcome).and_then(Outcome::from_word) {
                    *counted.outcomes.entry(outcome).or_default() += count;
                }
            }
            _ => {}
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use lagmesh_model::ids::BootId;
    use lagmesh_model::otlp::encode;
    use lagmesh_model::series::{Attributes, Exporter};
    use lagmesh_model::time::WallNanos;

    use super::*;

    /// What an agent counted is found as it was packed: fates over all peers, round-trip times by peer, other kinds left out.
    #[test]
    fn batches_are_read() {
        let link = |peer: &str, kind| {
            Attributes::new().with(Attribute::Region, "meter").with(Attribute::Peer, peer).with(Attribute::Kind, kind)
        };
        let fate =
            |peer, kind, count| Series::counter(&LINK_PROBES, link(peer, kind).with(Attribute::Outcome, Outcome::InTime), count);
        let mut rtts = Exponential::new();
        rtts.record_ns(40_123_456);
        let series = vec![
            fate("p00", ProbeKind::Stamp, 3),
            fate("p01", ProbeKind::Stamp, 4),
            fate("p01", ProbeKind::Icmp, 50),
            Series::histogram(&LINK_RTT, link("p01", ProbeKind::Stamp), rtts.clone()),
        ];
        let exporter = Exporter {
            fleet: "bench".to_owned(),
            region: "meter".parse().unwrap(),
            agent: "meter".parse().unwrap(),
            boot: BootId(1),
            version: "1".to_owned(),
        };
        let batch = Batch { exporter, sequence: 7, start: WallNanos(1), time: WallNanos(2), series };
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&encode(&batch).encode_to_vec()).unwrap();
        let batches = read(&packed.finish().unwrap()).unwrap();
        let counted = counted(&batches[0]);
        assert_eq!(counted.sequence, 7);
        assert_eq!(counted.outcomes, BTreeMap::from([(Outcome::InTime, 7)]));
        assert_eq!(counted.rtts, BTreeMap::from([("p01".to_owned(), rtts)]));
        assert_eq!(counted.rtts["p01"].sum_ns(), 40_123_456);
    }
}
