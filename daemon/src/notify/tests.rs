use lagmesh_model::time::{Epoch, RawNanos, Reading, WallNanos};

use super::*;

const S: Duration = Duration::from_secs(1);

/// A service manager that listens on a real socket, and a process under it.
struct Bench {
    listener: UnixDatagram,
    readiness: Readiness,
    watchdog: Watchdog,
    supervisor: Option<Supervisor>,
    line: StatusLine,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(watchdog_interval: Option<Duration>, latches: impl FnOnce(&Readiness)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (readiness, watchdog) = (Readiness::new(), Watchdog::new());
        latches(&readiness);
        let mut supervisor = Supervisor::new(Shutdown::new());
        let manager = Manager::at(&path.into_os_string(), watchdog_interval).unwrap();
        let line = spawn_to(manager, &mut supervisor, readiness.clone(), watchdog.clone());
        Self { listener, readiness, watchdog, supervisor: Some(supervisor), line, _folder: folder }
    }

    /// What was said since the last call, one entry per line.
    fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.listener.recv(&mut buffer) {
            heard.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
        heard
    }

    async fn heard_after(&self, wait: Duration) -> Vec<String> {
        tokio::time::sleep(wait).await;
        self.heard()
    }

    async fn stop(&mut self) {
        let supervisor = self.supervisor.take().unwrap();
        supervisor.shutdown().cancel();
        supervisor.run(S).await.unwrap();
    }
}

fn reading(ns: u64) -> Reading {
    Reading { epoch: Epoch(1), raw: RawNanos(ns), wall: WallNanos(ns) }
}

/// READY=1 is said once, when the last latch is dropped and not before; a stop is announced.
#[tokio::test(start_paused = true)]
async fn ready_when_everything_is() {
    let mut latches = Vec::new();
    let mut bench = Bench::new(None, |readiness| {
        latches = vec![readiness.latch("listeners"), readiness.latch("first probe round")];
    });
    assert_eq!(bench.heard_after(S / 10).await, ["STATUS=waiting for listeners, first probe round"]);
    drop(latches.remove(0));
    assert_eq!(bench.heard_after(5 * S).await, ["STATUS=waiting for first probe round"]);
    latches.clear();
    assert_eq!(bench.heard_after(S / 10).await, ["READY=1", "STATUS=ready"]);
    assert_eq!(bench.heard_after(60 * S).await, [""; 0]);
    let again = bench.readiness.latch("new fleet file");
    assert_eq!(bench.heard_after(5 * S).await, ["STATUS=waiting for new fleet file"]);
    drop(again);
    assert_eq!(bench.heard_after(5 * S).await, ["STATUS=ready"]);
    bench.stop().await;
    assert_eq!(bench.heard(), ["STOPPING=1", "STATUS=stopping"]);
}

/// The status line is shown as set, and cannot smuggle in a message of its own.
#[tokio::test(start_paused = true)]
async fn status_line() {
    let bench = Bench::new(None, |_| {});
    bench.line.set("3 peers\nWATCHDOG=trigger");
    assert_eq!(bench.heard_after(2 * S).await, ["READY=1", "STATUS=3 peers WATCHDOG=trigger"]);
}

/// The watchdog is fed several times per interval while all parts move, not at all while one stands still, and again
/// when it goes on.
#[tokio::test(start_paused = true)]
async fn fed_by_progress_only() {
    let bench = Bench::new(Some(S), |_| {});
    let summary = bench.watchdog.register("summary", 10 * S);
    bench.heard_after(S / 10).await;
    let mut round = 0;
    let mut moving = async || {
        let mut heard = Vec::new();
        for _ in 0..50 {
            round += 1;
            summary.mark(reading(round));
            heard.extend(bench.heard_after(S).await);
        }
        heard
    };
    let heard = moving().await;
    assert!((149..=151).contains(&heard.len()) && heard.iter().all(|line| line == "WATCHDOG=1"), "{heard:?}");

    for _ in 0..11 {
        bench.heard_after(S).await;
    }
    assert_eq!(bench.heard_after(60 * S).await, [""; 0]);

    let heard = moving().await;
    assert_eq!(heard[0], "STATUS=ready");
    assert!(heard.len() > 148 && heard[1..].iter().all(|line| line == "WATCHDOG=1"), "{heard:?}");
}

/// A stall is named.
#[tokio::test(start_paused = true)]
async fn a_stall_is_named() {
    let bench = Bench::new(None, |_| {});
    let _progress = bench.watchdog.register("summary", 10 * S);
    let _other = bench.watchdog.register("spool", 15 * S);
    bench.heard_after(S).await;
    assert_eq!(
        bench.heard_after(20 * S).await,
        ["STATUS=no progress: summary (limit 10s)", "STATUS=no progress: summary (limit 10s), spool (limit 15s)",]
    );
}

/// A service manager that does not read loses messages but holds nobody up, and learns of readiness when it reads again.
#[tokio::test(start_paused = true)]
async fn a_deaf_manager_is_told_again() {
    let mut latch = None;
    let mut bench = Bench::new(Some(S), |readiness| latch = Some(readiness.latch("x")));
    tokio::time::sleep(1000 * S).await;
    drop(latch);
    tokio::time::sleep(S).await;
    assert!(!bench.heard().contains(&"READY=1".to_owned()));
    assert!(bench.heard_after(S).await.contains(&"READY=1".to_owned()));
    bench.stop().await;
}

/// Without a service manager everything works and nothing is said; one that cannot be reached is an error.
#[tokio::test(start_paused = true)]
async fn nobody_to_tell() {
    let mut supervisor = Supervisor::new(Shutdown::new());
    spawn_to(Manager::none(), &mut supervisor, Readiness::new(), Watchdog::new());
    tokio::time::sleep(5 * S).await;
    supervisor.shutdown().cancel();
    supervisor.run(S).await.unwrap();
    assert!(Manager::at(&"/nonexistent/notify".into(), None).is_err());
}

/// Abstract addresses, as containers use them, work.
#[test]
fn abstract_address() {
    use std::os::linux::net::SocketAddrExt as _;
    let name = format!("lagmesh-test-{}", std::process::id());
    let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let manager = Manager::at(&format!("@{name}").into(), None).unwrap();
    assert!(manager.tell(&[NotifyState::Ready]));
    let mut buffer = [0; 64];
    let length = listener.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1\n");
}
