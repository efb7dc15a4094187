//! OTLP requests, good and bad.

use std::io::Write as _;

use lagmesh_model::catalogue::{self, Attribute};
use lagmesh_model::histogram::Exponential;
use lagmesh_model::ids::BootId;
use lagmesh_model::otlp::{self, ExportMetricsServiceRequest};
use lagmesh_model::series::{Attributes, Batch, Exporter, Series, push_states};
use lagmesh_model::state::LinkState;
use lagmesh_model::time::WallNanos;
use prost::Message as _;

/// Batch `sequence` of region a's agent: ten answered probes per batch towards b.
pub(crate) fn batch(boot: u64, sequence: u64) -> Batch {
    let link = Attributes::new().with(Attribute::Region, "a").with(Attribute::Peer, "b");
    let kind = link.clone().with(Attribute::Kind, "stamp");
    let mut rtt = Exponential::new();
    (0..sequence * 10).for_each(|_| rtt.record_ns(20_000_000));
    let mut series = vec![
        Series::counter(&catalogue::LINK_PROBES, kind.clone().with(Attribute::Outcome, "in-time"), sequence * 10),
        Series::histogram(&catalogue::LINK_RTT, kind, rtt),
    ];
    push_states(&mut series, &catalogue::LINK_STATE, &link, LinkState::ALL, LinkState::Ok);
    let exporter = Exporter {
        fleet: "demo".to_owned(),
        region: "a".parse().unwrap(),
        agent: "a".parse().unwrap(),
        boot: BootId(boot),
        version: "0.1.0".to_owned(),
    };
    let now = WallNanos(1_700_000_000_000_000_000);
    Batch { exporter, sequence, start: now, time: WallNanos(now.0 + sequence), series }
}

pub(crate) fn request(batch: &Batch) -> ExportMetricsServiceRequest {
    otlp::encode(batch)
}

pub(crate) fn body(batch: &Batch) -> Vec<u8> {
    request(batch).encode_to_vec()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(data, 3).unwrap()
}

/// A request that is well formed and far too large, but small when compressed.
pub(crate) fn bomb() -> ExportMetricsServiceRequest {
    let mut request = request(&batch(1, 1));
    request.resource_metrics[0].schema_url = "0".repeat(64 * 1024 * 1024);
    request
}
