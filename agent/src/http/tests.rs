use std::net::SocketAddr;
use std::sync::Arc;

use lagmesh_daemon::{Clock, Supervisor};
use lagmesh_model::catalogue::{AGENT_INFO, Attribute};
use lagmesh_model::ids::BootId;
use lagmesh_model::series::{Attributes, Series};
use lagmesh_model::status::AgentStatus;
use lagmesh_model::time::Reading;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::*;
use crate::summary::Snapshot;

struct Bench {
    address: SocketAddr,
    readiness: Readiness,
    shown: Arc<Snapshot>,
    /// Whoever holds it has the summary stuck.
    stuck: Arc<Mutex<()>>,
    supervisor: Supervisor,
    shutdown: Shutdown,
}

fn snapshot(made: Reading) -> Arc<Snapshot> {
    let status = AgentStatus {
        fleet: "test".to_owned(),
        region: "dublin".parse().unwrap(),
        agent: "dublin".parse().unwrap(),
        boot: BootId(7),
        version: "1.2.3".to_owned(),
        at: made.wall,
        links: Vec::new(),
        nodes: Vec::new(),
        replications: Vec::new(),
        exports: Vec::new(),
    };
    let attributes =
        Attributes::new().with(Attribute::Region, "dublin").with(Attribute::Agent, "dublin").with(Attribute::Version, "1");
    Arc::new(Snapshot { made, status, series: vec![Series::gauge(&AGENT_INFO, attributes, 1.0)] })
}

async fn bench() -> Bench {
    let (shutdown, readiness) = (Shutdown::new(), Readiness::new());
    let mut supervisor = Supervisor::new(shutdown.clone());
    let (viewer, mut questions) = Viewer::new();
    let (shown, stuck) = (snapshot(Clock::new().now()), Arc::new(Mutex::new(())));
    let (answer, waits) = (shown.clone(), stuck.clone());
    let ending = shutdown.clone();
    supervisor.spawn("summary", async move {
        let answering = async {
            while let Some(question) = questions.recv().await {
                drop(waits.lock().await);
                question.send(answer.clone()).unwrap_or_default();
            }
        };
        ending.run_until_cancelled(answering).await;
        Ok(())
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pages = Pages { viewer, readiness: readiness.clone() };
    supervisor.spawn("http", serve(listener, pages, shutdown.clone()));
    Bench { address, readiness, shown, stuck, supervisor, shutdown }
}

impl Bench {
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.supervisor.run(Duration::from_secs(5)).await.unwrap();
    }
}

/// Every page shows what is known, and what is no page is 404.
#[tokio::test]
async fn pages() {
    let bench = bench().await;
    let (status, metrics) = bench.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("lagmesh_agent_info{") && metrics.contains(exposition::CONTENT_TYPE), "{metrics}");
    let (status, json) = bench.get("/v1/status").await;
    let body = json.split_once("\r\n\r\n").unwrap().1;
    let said: AgentStatus = serde_json::from_str(body).unwrap();
    assert_eq!((status, &said), (200, &bench.shown.status));
    assert!(bench.get("/").await.1.contains("region dublin"));
    assert_eq!(bench.get("/nothing").await.0, 404);
    bench.stop().await;
}

/// Not ready names what is waited for; ready says so.
#[tokio::test]
async fn readiness() {
    let bench = bench().await;
    let latch = bench.readiness.latch("the first probe to tokyo");
    let (status, text) = bench.get("/ready").await;
    assert!(status == 503 && text.contains("the first probe to tokyo"), "{text}");
    drop(latch);
    assert_eq!(bench.get("/ready").await.0, 200);
    bench.stop().await;
}

/// An agent that no longer sums up is not healthy, however well its listener works.
#[tokio::test]
async fn stuck_is_not_healthy() {
    let bench = bench().await;
    assert_eq!(bench.get("/health").await.0, 200);
    let held = bench.stuck.clone().lock_owned().await;
    let (status, text) = bench.get("/health").await;
    assert!(status == 503 && text.contains("stuck"), "{text}");
    drop(held);
    assert_eq!(bench.get("/health").await.0, 200);
    bench.stop().await;
}

/// Whoever opens connections and says nothing cannot keep the process from ending.
#[tokio::test]
async fn silent_clients_do_not_hold_up_the_end() {
    let bench = bench().await;
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    assert_eq!(bench.get("/health").await.0, 200);
    bench.stop().await;
}
