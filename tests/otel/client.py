"""A program with metrics of its own, as the OpenTelemetry SDK sends them: a sum, a gauge, and an exponential histogram that has the name
of one of lagmesh's. Prints what the exporter says of its only batch.

usage: client.py http|grpc ENDPOINT CA_FILE [TOKEN]
"""

import logging
import sys

from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource


def exporter(transport, endpoint, ca_file, token):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    # A refusal that is final ends at once; what may be tried again is given up after this.
    timeout_s = 5
    if transport == "http":
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter(
            endpoint=f"{endpoint}/v1/metrics", certificate_file=ca_file, headers=headers, timeout=timeout_s, compression=Compression.Gzip
        )
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    with open(ca_file, "rb") as file:
        credentials = grpc.ssl_channel_credentials(root_certificates=file.read())
    return OTLPMetricExporter(
        endpoint=endpoint, credentials=credentials, headers=tuple(headers.items()), timeout=timeout_s, compression=grpc.Compression.Gzip
    )


def measured():
    reader = InMemoryMetricReader()
    view = View(instrument_name="lagmesh.link.rtt", aggregation=ExponentialBucketHistogramAggregation())
    provider = MeterProvider([reader], Resource.create({"service.name": "shop"}), views=[view])
    meter = provider.get_meter("shop")
    meter.create_counter("shop.orders").add(3, {"kind": "book"})
    meter.create_observable_gauge("shop.stock", [lambda _: [Observation(7)]])
    histogram = meter.create_histogram("lagmesh.link.rtt", "s")
    for seconds in (0.08, 0.09, 0.2):
        histogram.record(seconds, {"region": "dublin", "peer": "new-york", "kind": "stamp"})
    return reader.get_metrics_data()


logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
transport, endpoint, ca_file, token = (sys.argv[1:] + [None])[:4]
print("result:", exporter(transport, endpoint, ca_file, token).export(measured()).name)
