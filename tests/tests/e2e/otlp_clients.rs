//! Clients that are no agents: the OpenTelemetry SDK of another language, and one that writes JSON by hand.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use lagmesh_tests::prometheus::repository;
use lagmesh_tests::skip::skip;
use lagmesh_tests::wait;
use serde_json::{Value, json};

use crate::security::{Authority, PATIENCE, Yard, furnished};

/// The points of one batch of `tests/otel/client.py`.
const POINTS: u64 = 3;

/// What an SDK of another language sends is answered as OTLP has it, over both transports: with a token its points are rejected for good
/// and counted, and the client has nothing to repeat; without one it is told that it must show something. Nothing of it reaches the judge,
/// though one of its metrics has the name of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sdk_of_another_language() -> Result<()> {
    let python = repository("build/tools/otel/bin/python");
    if !python.exists() {
        skip("an SDK of another language as an OTLP client: the one for Python is not here (tests/setup.sh test)");
        return Ok(());
    }
    let yard = Yard::start(furnished("otlp-sdk", &Authority::new("right")?)?)?;
    until_ready(&yard).await?;
    let grpc = yard.grpc_port()?;
    for (taken, transport, port) in [(1, "http", yard.port), (2, "grpc", grpc)] {
        let endpoint = format!("https://localhost:{port}");
        let send = |token: Option<&str>| -> Result<String> {
            let mut command = Command::new(&python);
            // An authority that the environment names would count before the one that is given.
            command
                .env_clear()
                .arg(repository("tests/otel/client.py"))
                .args([transport, &endpoint])
                .arg(yard.path("ca.crt"))
                .args(token);
            let output = command.output().context("run the client")?;
            Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        };
        let said = send(Some("sender"))?;
        ensure!(said.contains("result: SUCCESS"), "{transport}: {said}");
        let foreign = yard.count("lagmesh_collector_points_total{outcome=\"not-an-agent\"} ").await?;
        ensure!(foreign == taken * POINTS, "{foreign} points were rejected after {transport}: {said}");

        let refused = send(None)?;
        ensure!(refused.contains("result: FAILURE"), "{transport} without a token: {refused}");
        let told = if transport == "http" { "401" } else { "UNAUTHENTICATED" };
        ensure!(refused.contains(told), "{transport} does not say {told}: {refused}");
    }
    let (_, metrics) = yard.get("/metrics", Some("reader")).await?;
    let of_clients: Vec<&str> = metrics.lines().filter(|line| line.contains("shop") || line.contains("link_rtt")).collect();
    ensure!(of_clients.is_empty(), "{of_clients:?}");
    ensure!(yard.status().await?.regions_reporting == 0, "a client passes for an agent");
    Ok(())
}

/// JSON is taken in the form that OTLP gives it and answered likewise: what is rejected and why, what is no request, who shows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_by_hand() -> Result<()> {
    let yard = Yard::start(furnished("otlp-json", &Authority::new("right")?)?)?;
    until_ready(&yard).await?;
    let client = yard.client("ca.crt")?;
    let url = format!("https://localhost:{}/v1/metrics", yard.port);
    let post = async |body: String, token: Option<&str>| -> Result<(u16, Value)> {
        let request = client.post(&url).header("content-type", "application/json").body(body);
        let answer = if let Some(token) = token { request.bearer_auth(token) } else { request }.send().await?;
        ensure!(answer.headers()["content-type"] == "application/json", "{:?}", answer.headers());
        Ok((answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await?)?))
    };
    let point =
        json!({ "asInt": "3", "startTimeUnixNano": "1700000000000000000", "timeUnixNano": 1_700_000_001_000_000_000_u64 });
    let sum = json!({ "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [point] });
    let metrics = json!([{ "name": "shop.orders", "unit": "1", "sum": sum }]);
    let resource = json!({ "attributes": [{ "key": "service.name", "value": { "stringValue": "shop" } }] });
    let body = json!({ "resourceMetrics": [{ "resource": resource, "scopeMetrics": [{ "metrics": metrics }] }] });

    let (status, told) = post(body.to_string(), Some("sender")).await?;
    let partial = &told["partialSuccess"];
    ensure!(status == 200 && partial["rejectedDataPoints"] == "1", "{status} {told}");
    let message = partial["errorMessage"].as_str().unwrap_or_default();
    ensure!(message.starts_with("1 not-an-agent; this collector keeps what lagmesh agents measure"), "{message}");

    // Who claims to be an agent must be one, whole.
    let mut claimed = body.clone();
    claimed["resourceMetrics"][0]["resource"]["attributes"][0]["value"]["stringValue"] = "lagmesh-agent".into();
    let (status, told) = post(claimed.to_string(), Some("sender")).await?;
    ensure!(status == 400 && told["message"].as_str().is_some_and(|why| why.contains("lagmesh.fleet")), "{status} {told}");

    let (status, told) = post("{\"resourceMetrics\":7}".to_owned(), Some("sender")).await?;
    ensure!(status == 400 && told["code"] == 3, "{status} {told}");
    let (status, told) = post(body.to_string(), None).await?;
    ensure!(status == 401 && told["code"] == 16, "{status} {told}");
    Ok(())
}

async fn until_ready(yard: &Yard) -> Result<()> {
    wait::until("the collector judges", PATIENCE, || async {
        let (status, text) = yard.get("/ready", None).await?;
        ensure!(status == 200, "{text}");
        Ok(())
    })
    .await
}
