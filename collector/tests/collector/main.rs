//! The real program: what it takes, what it refuses and how, what survives, and how it ends.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get ends the test")]

mod access;
mod otlp;
mod process;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use lagmesh_collector::listen::CONNECTIONS_MAX;
use lagmesh_daemon::limits::open_files;
use lagmesh_model::history::{History, Numbers};
use lagmesh_model::state::LinkState;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use prost::Message as _;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use otlp::{batch, body, bomb, gzip, request, zstd};
use process::{Collector, FLEET, Home, PROGRAM, store};

const PROBES: &str = r#"lagmesh_link_probes_total{region="a",peer="b",kind="stamp",outcome="in-time"} "#;

/// Posts a body; returns the status and what came back.
async fn post(collector: &Collector, body: Vec<u8>, headers: &[(&str, &str)]) -> (u16, Vec<u8>) {
    let mut post = reqwest::Client::new().post(collector.url("/v1/metrics")).body(body);
    for (name, value) in headers {
        post = post.header(*name, *value);
    }
    let answer = post.send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
}

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const ZSTD: (&str, &str) = ("content-encoding", "zstd");

/// How many requests had this outcome; `None` if there is no such series.
async fn requests(collector: &Collector, transport: &str, outcome: &str) -> Option<u64> {
    let text = collector.get("/metrics").await;
    let labels = [format!("outcome=\"{outcome}\""), format!("transport=\"{transport}\"")];
    let mut lines = text.lines().filter(|line| line.starts_with("lagmesh_collector_requests_total{"));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Both transports take batches plain, as gzip and as zstd; a batch that comes again changes nothing.
#[tokio::test]
async fn takes_batches_and_counts_each_once() {
    let home = Home::new();
    let collector = home.start(&[]);
    for (sequence, (headers, pack)) in (1..).zip([
        (&[PROTOBUF][..], (|body: &[u8]| body.to_vec()) as fn(&[u8]) -> Vec<u8>),
        (&[PROTOBUF, GZIP], gzip),
        (&[PROTOBUF, ZSTD], zstd),
    ]) {
        let (status, answer) = post(&collector, pack(&body(&batch(1, sequence))), headers).await;
        assert_eq!(status, 200);
        assert_eq!(ExportMetricsServiceResponse::decode(answer.as_slice()).unwrap().partial_success, None);
    }
    for (sequence, encoding) in (4..).zip([None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)]) {
        let mut client = MetricsServiceClient::connect(format!("http://{}", collector.grpc)).await.unwrap();
        if let Some(encoding) = encoding {
            client = client.send_compressed(encoding);
        }
        client.export(request(&batch(1, sequence))).await.unwrap();
    }
    collector.until_metric(PROBES, 60.0).await;
    for sequence in [6, 1, 3] {
        assert_eq!(post(&collector, body(&batch(1, sequence)), &[PROTOBUF]).await.0, 200);
    }
    assert_eq!(requests(&collector, "http", "duplicate").await, Some(3));
    assert_eq!(requests(&collector, "http", "accepted").await, Some(3));
    assert_eq!(requests(&collector, "grpc", "accepted").await, Some(3));
    assert_eq!(collector.metric(PROBES).await, Some(60.0));

    let status = collector.until_status(|status| status.regions_reporting == 1).await;
    let link = |from: &str| status.links.iter().find(|link| link.region.as_str() == from).unwrap();
    assert_eq!((link("a").state, link("b").state), (LinkState::Ok, LinkState::Unknown));
}

/// What it is, the body, its headers, and the status and the reason with which it is refused.
type Case = (&'static str, Vec<u8>, Vec<(&'static str, &'static str)>, u16, &'static str);

/// What can never be taken is refused with a status that no client retries, says why, and is counted.
#[tokio::test]
async fn refuses_what_is_bad_over_http() {
    let home = Home::new();
    let collector = home.start(&[]);
    let good = body(&batch(1, 1));
    let stranger = |change: fn(&mut lagmesh_model::series::Batch)| {
        let mut batch = batch(1, 1);
        change(&mut batch);
        body(&batch)
    };
    let table: Vec<Case> = vec![
        ("truncated", good[..good.len() - 7].to_vec(), vec![PROTOBUF], 400, "malformed"),
        ("noise", vec![0xFF; 300], vec![PROTOBUF], 400, "malformed"),
        ("truncated gzip", gzip(&good)[..40].to_vec(), vec![PROTOBUF, GZIP], 400, "malformed"),
        ("not zstd", good.clone(), vec![PROTOBUF, ZSTD], 400, "malformed"),
        ("oversized", vec![0; 5 * 1024 * 1024], vec![PROTOBUF], 413, "too-large"),
        ("gzip bomb", gzip(&bomb().encode_to_vec()), vec![PROTOBUF, GZIP], 413, "too-large"),
        ("zstd bomb", zstd(&bomb().encode_to_vec()), vec![PROTOBUF, ZSTD], 413, "too-large"),
        ("no json", b"[1]".to_vec(), vec![("content-type", "application/json")], 400, "malformed"),
        ("plain text", b"{}".to_vec(), vec![("content-type", "text/plain")], 415, "unsupported-type"),
        ("brotli", good.clone(), vec![PROTOBUF, ("content-encoding", "br")], 415, "unsupported-encoding"),
        (
            "no exporter",
            {
                let mut r = request(&batch(1, 1));
                let attributes = &mut r.resource_metrics[0].resource.as_mut().unwrap().attributes;
                attributes.retain(|attribute| attribute.key != "lagmesh.fleet");
                r.encode_to_vec()
            },
            vec![PROTOBUF],
            400,
            "identity-missing",
        ),
        ("other fleet", stranger(|batch| batch.exporter.fleet = "other".to_owned()), vec![PROTOBUF], 400, "unknown-fleet"),
        (
            "other region",
            stranger(|batch| batch.exporter.region = "mars".parse().unwrap()),
            vec![PROTOBUF],
            400,
            "unknown-region",
        ),
        ("other agent", stranger(|batch| batch.exporter.agent = "z".parse().unwrap()), vec![PROTOBUF], 400, "unknown-agent"),
    ];
    let mut expected = std::collections::BTreeMap::new();
    for (name, body, headers, status, reason) in table {
        let (answered, text) = post(&collector, body, &headers).await;
        assert_eq!(answered, status, "{name}: {}", String::from_utf8_lossy(&text));
        assert!(text.len() > 10, "{name} says why");
        *expected.entry(reason).or_insert(0) += 1;
    }
    for (reason, count) in expected {
        assert_eq!(requests(&collector, "http", reason).await, Some(count), "{reason}");
    }
    let (_, text) = post(&collector, stranger(|batch| batch.exporter.region = "mars".parse().unwrap()), &[PROTOBUF]).await;
    assert!(String::from_utf8_lossy(&text).contains("region \"mars\" is not in this collector's fleet file"));
    assert_eq!(collector.metric(PROBES).await, None, "nothing of it was taken");
}

/// The same over gRPC: too large is no temporary trouble, whatever the codec calls it.
#[tokio::test]
async fn refuses_what_is_bad_over_grpc() {
    let home = Home::new();
    let collector = home.start(&[]);
    let client = MetricsServiceClient::connect(format!("http://{}", collector.grpc)).await.unwrap();
    let refused = |mut client: MetricsServiceClient<_>, request| async move { client.export(request).await.unwrap_err().code() };
    assert_eq!(refused(client.clone(), bomb()).await, Code::InvalidArgument);
    assert_eq!(refused(client.clone().send_compressed(CompressionEncoding::Gzip), bomb()).await, Code::InvalidArgument);
    assert_eq!(refused(client.clone().send_compressed(CompressionEncoding::Zstd), bomb()).await, Code::InvalidArgument);
    assert_eq!(requests(&collector, "grpc", "too-large").await, Some(3));
    let mut stranger = batch(1, 1);
    stranger.exporter.fleet = "other".to_owned();
    assert_eq!(refused(client.clone(), request(&stranger)).await, Code::InvalidArgument);
    assert_eq!(requests(&collector, "grpc", "unknown-fleet").await, Some(1));
    client.clone().export(request(&batch(1, 1))).await.unwrap();
}

/// Bad points of a good request are rejected one by one, with counts by reason; the rest is taken.
#[tokio::test]
async fn partial_success_names_reasons() {
    let home = Home::new();
    let collector = home.start(&[]);
    let mut impossible = request(&batch(1, 1));
    for metric in &mut impossible.resource_metrics[0].scope_metrics[0].metrics {
        if metric.name == "lagmesh.link.rtt" {
            metric.name = "lagmesh.link.rrt".to_owned();
        }
    }
    let (status, answer) = post(&collector, impossible.encode_to_vec(), &[PROTOBUF]).await;
    let partial = ExportMetricsServiceResponse::decode(answer.as_slice()).unwrap().partial_success.unwrap();
    assert_eq!((status, partial.rejected_data_points, partial.error_message.as_str()), (200, 1, "1 unknown-metric"));
    collector.until_metric(PROBES, 10.0).await;
    assert_eq!(collector.metric(r#"lagmesh_collector_points_total{outcome="unknown-metric"} "#).await, Some(1.0));
}

/// What was acknowledged survives SIGKILL: totals, and what is a duplicate. Restored evidence is never shown as fresh.
#[tokio::test]
async fn a_kill_loses_nothing_that_was_acknowledged() {
    let home = Home::new();
    let collector = home.start(&[]);
    for (boot, sequence) in [(1, 1), (1, 2), (2, 1), (1, 5)] {
        assert_eq!(post(&collector, body(&batch(boot, sequence)), &[PROTOBUF]).await.0, 200);
    }
    collector.kill();
    let collector = home.start(&[]);
    collector.until_metric(PROBES, 60.0).await;
    let status = collector.status().await;
    assert_eq!(status.regions_reporting, 0);
    assert!(status.links.iter().all(|link| link.state == LinkState::Unknown), "{:?}", status.links);
    for (boot, sequence) in [(1, 1), (1, 5), (2, 1)] {
        assert_eq!(post(&collector, body(&batch(boot, sequence)), &[PROTOBUF]).await.0, 200);
    }
    assert_eq!(requests(&collector, "http", "duplicate").await, Some(3));
    assert_eq!(post(&collector, body(&batch(1, 3)), &[PROTOBUF]).await.0, 200);
    assert_eq!(requests(&collector, "http", "accepted").await, Some(1));
    assert_eq!(collector.metric(PROBES).await, Some(60.0));
}

/// A store that cannot be read is set aside and counted, and the collector works on.
#[tokio::test]
async fn a_corrupt_store_is_set_aside() {
    let home = Home::new();
    std::fs::create_dir(home.path("state")).unwrap();
    std::fs::write(store(&home), b"this is no database, whatever its name says").unwrap();
    let collector = home.start(&[]);
    assert_eq!(collector.metric("lagmesh_collector_stores_set_aside_total{} ").await, Some(1.0));
    assert_eq!(post(&collector, body(&batch(1, 1)), &[PROTOBUF]).await.0, 200);
    assert!(home.path("state").join("collector.db.bad").exists());
}

/// Pages: all there, none may load anything from elsewhere; health and readiness answer.
#[tokio::test]
async fn serves_its_pages() {
    let home = Home::new();
    let collector = home.start(&[]);
    collector.until_metric(r#"lagmesh_fleet_regions{state="expected"} "#, 2.0).await;
    let page = reqwest::get(collector.url("/")).await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(text.contains("page.js") && !text.contains("http://127") && !text.contains("https://"));
    assert!(
        collector.get("/page.js").await.contains("v1/status")
            && collector.get("/page.css").await.contains("prefers-color-scheme")
    );
    assert_eq!(collector.get("/health").await, "alive\n");
    assert_eq!(collector.get("/ready").await, "ready\n");
    assert!(collector.get("/metrics").await.ends_with("# EOF\n"));
    assert_eq!(reqwest::get(collector.url("/nothing")).await.unwrap().status(), 404);
}

/// With a certificate both addresses speak TLS and nothing else.
#[tokio::test]
async fn speaks_tls() {
    let home = Home::new();
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (home.write("cert.pem", &own.cert.pem()), home.write("key.pem", &own.signing_key.serialize_pem()));
    let tls = ["--tls-cert-file", cert.to_str().unwrap(), "--tls-key-file", key.to_str().unwrap()];
    let collector = home.start(&tls);
    let authority = reqwest::Certificate::from_pem(own.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
    let url = format!("https://localhost:{}/v1/metrics", collector.http.port());
    let post = client.post(url).header(PROTOBUF.0, PROTOBUF.1).body(body(&batch(1, 1)));
    assert_eq!(post.send().await.unwrap().status(), 200);
    assert!(reqwest::get(collector.url("/health")).await.is_err());

    let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(tonic::transport::Certificate::from_pem(own.cert.pem()));
    let channel = tonic::transport::Endpoint::from_shared(format!("https://localhost:{}", collector.grpc.port())).unwrap();
    let channel = channel.tls_config(tls).unwrap().connect().await.unwrap();
    MetricsServiceClient::new(channel).export(request(&batch(1, 2))).await.unwrap();
}

/// Clients that connect and say nothing lose their places: whoever works gets in again.
#[tokio::test]
async fn silent_connections_do_not_lock_others_out() {
    let home = Home::new();
    let collector = home.start(&[]);
    let places = CONNECTIONS_MAX + 20;
    assert!(open_files(places as u64 + 200) > places as u64, "this account may not open enough files");
    let mut silent = Vec::new();
    for _ in 0..places {
        silent.push(tokio::net::TcpStream::connect(collector.http).await.unwrap());
    }
    assert!(reqwest::get(collector.url("/health")).await.is_err(), "all places are taken");
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while reqwest::get(collector.url("/health")).await.is_err() {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(collector.get("/health").await, "alive\n");
}

/// How many probes the history has in all.
async fn history_probes(collector: &Collector) -> u64 {
    let text = collector.get("/v1/history?metric=lagmesh.link.probes&outcome=in-time&from=-10m&step=10s").await;
    let told: History = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let points = told.series.into_iter().flat_map(|course| course.points);
    points.map(|point| if let Numbers::Counter { increase } = point.numbers { increase } else { panic!("{point:?}") }).sum()
}

/// What a collector took is in its history once, although it is killed before it has written any; a copy made while it runs is whole.
#[tokio::test]
async fn history_survives_a_kill() {
    let home = Home::new();
    let collector = home.start(&[]);
    for sequence in 1..=3 {
        post(&collector, body(&batch(1, sequence)), &[PROTOBUF]).await;
    }
    collector.kill();
    let collector = home.start(&[]);
    assert_eq!(history_probes(&collector).await, 30);
    for sequence in [2, 4] {
        post(&collector, body(&batch(1, sequence)), &[PROTOBUF]).await;
    }
    collector.until_metric(PROBES, 40.0).await;
    assert_eq!(collector.stop().await.code(), Some(0));
    let collector = home.start(&[]);
    assert_eq!(history_probes(&collector).await, 40);
    let wrong = reqwest::get(collector.url("/v1/history?metric=rtt")).await.unwrap();
    assert_eq!(wrong.status(), 400);
    assert!(collector.get("/v1/baseline?region=a").await.contains("\"series\":["));

    let copy = Home::new();
    let state = copy.path("state");
    let backup = home.output(&["--backup-to", state.to_str().unwrap()]);
    assert_eq!(backup.status.code(), Some(0), "{}", String::from_utf8_lossy(&backup.stderr));
    let restored = copy.start(&[]);
    assert_eq!(history_probes(&restored).await, 40);
    restored.until_metric(PROBES, 40.0).await;
}

/// SIGTERM ends it cleanly, even with a connection open.
#[tokio::test]
async fn sigterm_ends_it() {
    let home = Home::new();
    let collector = home.start(&[]);
    let _idle = tokio::net::TcpStream::connect(collector.http).await.unwrap();
    let mut client = MetricsServiceClient::connect(format!("http://{}", collector.grpc)).await.unwrap();
    client.export(request(&batch(1, 1))).await.unwrap();
    assert_eq!(collector.stop().await.code(), Some(0));
}

/// Each mistake has its exit code and one clear line, and nothing is started.
#[tokio::test]
async fn exit_codes() {
    let home = Home::new();
    let ended = |more: &[&str]| {
        let output = home.output(more);
        (output.status.code(), String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = ended(&["--version"]);
    assert!(code == Some(0) && text.starts_with("lagmesh-collector 0."), "{text}");
    let (code, text) = ended(&["--help"]);
    assert!(code == Some(0) && text.contains("127.0.0.1:8622") && text.contains("LAGMESH_STATE_DIR"), "{text}");
    assert_eq!(ended(&["--nonsense"]).0, Some(64));

    let (code, text) = ended(&["--http-listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(78));
    assert!(text.lines().count() == 1 && text.contains("0.0.0.0:0 is beside loopback and has no TLS"), "{text}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, text) = ended(&["--http-listen", &taken.local_addr().unwrap().to_string()]);
    assert!(code == Some(70) && text.contains("--http-listen"), "{text}");

    home.write(
        "fleet.toml",
        &FLEET.replace("name = \"demo\"", "name = \"demo\"\ncolour = \"red\"").replace("region = \"a\"", "region = \"z\""),
    );
    let (code, text) = ended(&[]);
    assert_eq!(code, Some(78));
    assert!(text.lines().count() == 2 && text.lines().all(|line| line.contains("fleet.toml:")), "{text}");

    let (code, text) = ended(&["--fleet", "/nowhere/fleet.toml"]);
    assert!(code == Some(78) && text.contains("--fleet"), "{text}");
}

/// `insecure = true` is what it takes to listen beside loopback without TLS.
#[tokio::test]
async fn insecure_must_be_written_out() {
    let home = Home::new();
    home.write("fleet.toml", &format!("insecure = true\n{FLEET}"));
    let collector = home.start(&["--http-listen", "0.0.0.0:0"]);
    assert!(collector.http.ip().is_unspecified());
}

/// A state folder that may not be written is a matter of permission. Root may write everything, so root lets somebody else try.
#[tokio::test]
async fn a_forbidden_state_folder_is_exit_77() {
    const NOBODY: u32 = 65534;
    let home = Home::new();
    let allow = |path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::create_dir(home.path("state")).unwrap();
    allow(home.path("state"), 0o500);
    let mut command = home.command(&[]);
    if nix::unistd::geteuid().is_root() {
        let program = home.path("lagmesh-collector");
        std::fs::copy(PROGRAM, &program).unwrap();
        allow(home.folder.path().to_owned(), 0o755);
        let environment: Vec<_> = command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned())).collect();
        command = std::process::Command::new(program);
        command.env_clear().envs(environment).uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(77) && text.contains("collector.db"), "{text}");
}
