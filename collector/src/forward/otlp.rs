//! OTLP over HTTP: points as one request. Pure.

use lagmesh_model::otlp::{self, Relay, Said};
use lagmesh_model::time::WallNanos;
use prost::Message as _;

use super::points::Point;

/// Points of one moment [ms since 1970] as a message.
pub(crate) fn message(points: &[Point], stamp_ms: i64, relay: &Relay) -> Vec<u8> {
    let time = WallNanos(stamp_ms.max(0).unsigned_abs() * 1_000_000);
    let said =
        points.iter().map(|point| Said { metric: point.metric, attributes: &point.attributes, value: point.value.as_ref() });
    otlp::encode_relayed(relay, time, said).encode_to_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lagmesh_model::catalogue::{self, Attribute};
    use lagmesh_model::series::{Attributes, Series};
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::{DataPointFlags, metric::Data};

    use super::*;
    use crate::forward::points::points;

    /// The resource is the collector, the stamp is the snapshot's, and a series that has ended says that nothing was recorded.
    #[test]
    fn relayed() {
        let relay = Relay {
            service: "lagmesh-collector".to_owned(),
            instance: "here".to_owned(),
            version: "1".to_owned(),
            fleet: "f".to_owned(),
        };
        let epochs =
            |region: &str| Series::counter(&catalogue::CLOCK_EPOCHS, Attributes::new().with(Attribute::Region, region), 2);
        let points = points(&[epochs("gone")], vec![epochs("here")]);
        let request = ExportMetricsServiceRequest::decode(message(&points, 7, &relay).as_slice()).unwrap();
        let [resource] = &request.resource_metrics[..] else { panic!("{request:?}") };
        let names = |key: &str| resource.resource.as_ref().unwrap().attributes.iter().any(|one| one.key == key);
        assert!(names("service.name") && names("service.instance.id") && names("lagmesh.fleet") && !names("lagmesh.boot"));
        let metric = &resource.scope_metrics[0].metrics[0];
        let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
        let told: BTreeMap<String, (u64, bool, bool)> = sum
            .data_points
            .iter()
            .map(|point| {
                let region = format!("{:?}", point.attributes[0].value);
                let unrecorded = point.flags == DataPointFlags::NoRecordedValueMask as u32;
                (region, (point.time_unix_nano, unrecorded, point.value.is_some()))
            })
            .collect();
        assert_eq!(told.into_values().collect::<Vec<_>>(), [(7_000_000, true, false), (7_000_000, false, true)]);
    }
}
