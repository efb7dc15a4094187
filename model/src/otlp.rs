//! The wire: batches of series as OTLP metrics, and back. Every other module knows series only.
//!
//! Counts travel exactly. Sums and extremes travel as seconds in double precision: exact to the nanosecond up to 2^51 ns (26 days),
//! within a relative 2^-51 beyond, and never out of order, so that differences of cumulative sums stay non-negative.

mod decode;
mod encode;
mod refuse;

#[cfg(test)]
mod tests;

pub use decode::{Budget, Decoded, Limits, Misfit, Names, Opened, SERIES_MAX, Sealed, Sorted, decode, open};
pub use encode::{Relay, Said, encode, encode_relayed};
pub use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
pub use refuse::{Refusal, Rejection};

/// The instrumentation scope of everything that lagmesh exports.
pub const SCOPE: &str = "lagmesh";

/// `service.name` of the exporter.
pub const SERVICE_NAME: &str = "lagmesh-agent";

/// The resource attributes by which an exporter and its batch are known.
mod resource {
    pub(super) const SERVICE_NAME: &str = "service.name";
    pub(super) const SERVICE_INSTANCE: &str = "service.instance.id";
    pub(super) const SERVICE_VERSION: &str = "service.version";
    pub(super) const FLEET: &str = "lagmesh.fleet";
    pub(super) const REGION: &str = "lagmesh.region";
    pub(super) const BOOT: &str = "lagmesh.boot";
    pub(super) const SEQUENCE: &str = "lagmesh.batch.sequence";
}
