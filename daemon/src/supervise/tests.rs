use anyhow::anyhow;

use super::*;

const S: Duration = Duration::from_secs(1);

fn supervisor() -> Supervisor {
    Supervisor::new(Shutdown::new())
}

/// A task as it should be: it runs until shutdown.
fn obedient(supervisor: &mut Supervisor, name: &str) {
    let shutdown = supervisor.shutdown();
    supervisor.spawn(name, async move {
        shutdown.cancelled().await;
        Ok(())
    });
}

/// Shutdown that is asked for while every task obeys is clean, and waits for the slowest of them.
#[tokio::test(start_paused = true)]
async fn waits_for_the_last_task() {
    let mut supervisor = supervisor();
    obedient(&mut supervisor, "quick");
    let shutdown = supervisor.shutdown();
    supervisor.spawn("flush", async move {
        shutdown.cancelled().await;
        tokio::time::sleep(9 * S).await;
        Ok(())
    });
    let (start, shutdown) = (Instant::now(), supervisor.shutdown());
    tokio::spawn(async move {
        tokio::time::sleep(60 * S).await;
        shutdown.cancel();
    });
    supervisor.run(10 * S).await.unwrap();
    assert_eq!(start.elapsed(), 69 * S);
}

/// With no task at all it still waits to be asked.
#[tokio::test(start_paused = true)]
async fn nothing_to_do_is_no_reason_to_end() {
    let supervisor = supervisor();
    let shutdown = supervisor.shutdown();
    let run = tokio::spawn(supervisor.run(S));
    tokio::time::sleep(60 * S).await;
    assert!(!run.is_finished());
    shutdown.cancel();
    run.await.unwrap().unwrap();
}

/// A task that ends before shutdown is fatal and named, whatever it ends with, and takes the others down in order.
#[tokio::test(start_paused = true)]
async fn an_early_end_is_fatal() {
    type Body = fn() -> anyhow::Result<()>;
    let table: [(Body, &str); 3] = [
        (|| Ok(()), "task fragile ended early: it returned, which it must not before shutdown"),
        (|| Err(anyhow!("disk full").context("write spool")), "task fragile ended early: write spool: disk full"),
        (|| panic!("index out of bounds"), "task fragile ended early: panicked: index out of bounds"),
    ];
    for (body, message) in table {
        let mut supervisor = supervisor();
        let shutdown = supervisor.shutdown();
        obedient(&mut supervisor, "other");
        supervisor.spawn("fragile", async move {
            tokio::time::sleep(S).await;
            body()
        });
        let ended = supervisor.run(S).await.unwrap_err();
        assert!(matches!(&ended, Ended::Early { task, .. } if task == "fragile"), "{ended:?}");
        assert_eq!(ended.to_string(), message);
        assert!(shutdown.is_cancelled());
    }
}

/// Threads live under the same rules as tasks.
#[tokio::test]
async fn threads_are_tasks() {
    type Body = fn() -> anyhow::Result<()>;
    let table: [(Body, &str); 3] = [
        (|| Ok(()), "it returned, which it must not before shutdown"),
        (|| Err(anyhow!("no such device")), "no such device"),
        (|| panic!("poisoned"), "panicked: poisoned"),
    ];
    for (body, message) in table {
        let mut supervisor = supervisor();
        obedient(&mut supervisor, "other");
        supervisor.spawn_thread("icmp", body).unwrap();
        let ended = supervisor.run(S).await.unwrap_err().to_string();
        assert_eq!(ended, format!("task icmp ended early: {message}"));
    }
}

/// A thread that obeys the token is joined.
#[tokio::test]
async fn a_thread_that_ends_in_time_is_clean() {
    let mut supervisor = supervisor();
    let (shutdown, (go, gone)) = (supervisor.shutdown(), std::sync::mpsc::channel::<()>());
    supervisor.spawn_thread("worker", move || Ok(gone.recv()?)).unwrap();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        go.send(())
    });
    shutdown.cancel();
    supervisor.run(10 * S).await.unwrap();
}

/// One deadline for all: what is left then is aborted and named, and its destructors run.
#[tokio::test(start_paused = true)]
async fn the_overdue_are_aborted_and_named() {
    let mut supervisor = supervisor();
    obedient(&mut supervisor, "good");
    let held = std::sync::Arc::new(());
    for name in ["deaf", "stuck"] {
        let held = held.clone();
        supervisor.spawn(name, async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok(())
        });
    }
    supervisor.shutdown().cancel();
    let start = Instant::now();
    let ended = supervisor.run(5 * S).await.unwrap_err();
    assert_eq!(ended.to_string(), "tasks still running at the deadline of the shutdown: deaf, stuck");
    assert_eq!(start.elapsed(), 5 * S);
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}

/// A thread that does not hear is named, and the process does not wait for it.
#[tokio::test]
async fn an_overdue_thread_is_named() {
    let mut supervisor = supervisor();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    supervisor.spawn_thread("deaf", move || Ok(gone.recv()?)).unwrap();
    supervisor.shutdown().cancel();
    let ended = supervisor.run(Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(ended, Ended::Overdue { tasks } if tasks == ["deaf"]));
    drop(go);
}

/// A failure while winding down is not hidden by an otherwise clean shutdown.
#[tokio::test(start_paused = true)]
async fn a_failed_flush_is_reported() {
    let mut supervisor = supervisor();
    let shutdown = supervisor.shutdown();
    supervisor.spawn("flush", async move {
        shutdown.cancelled().await;
        Err(anyhow!("disk full"))
    });
    supervisor.shutdown().cancel();
    let ended = supervisor.run(S).await.unwrap_err();
    assert_eq!(ended.to_string(), "task flush failed during shutdown: disk full");
    assert_eq!(ended.exit_code(), exit::SOFTWARE);
}

/// The cause comes first: a task that died, not those that then did not end.
#[tokio::test(start_paused = true)]
async fn the_early_end_outranks_what_follows() {
    let mut supervisor = supervisor();
    supervisor.spawn("stuck", std::future::pending());
    supervisor.spawn("dead", async { Err(anyhow!("gone")) });
    let ended = supervisor.run(S).await.unwrap_err();
    assert!(matches!(ended, Ended::Early { task, .. } if task == "dead"));
}

/// A task may ask for shutdown and end: that is no early end.
#[tokio::test(start_paused = true)]
async fn a_task_may_ask_for_shutdown() {
    let mut supervisor = supervisor();
    obedient(&mut supervisor, "other");
    let shutdown = supervisor.shutdown();
    supervisor.spawn("seconds", async move {
        tokio::time::sleep(60 * S).await;
        shutdown.cancel();
        Ok(())
    });
    supervisor.run(S).await.unwrap();
}

/// A task that asks for shutdown and then fails is reported as failed, and nothing is lost of what it said.
#[tokio::test(start_paused = true)]
async fn a_failure_with_the_request_is_kept() {
    let mut supervisor = supervisor();
    let shutdown = supervisor.shutdown();
    supervisor.spawn("last", async move {
        shutdown.cancel();
        Err(anyhow!("disk full"))
    });
    let ended = supervisor.run(S).await.unwrap_err();
    assert_eq!(ended.to_string(), "task last failed during shutdown: disk full");
}

/// Companions outlive the tasks that they serve, are not waited for, and may not end early either.
#[tokio::test(start_paused = true)]
async fn companions_serve_until_the_end() {
    let mut clean = supervisor();
    let shutdown = clean.shutdown();
    let (alive, seen) = oneshot::channel::<()>();
    clean.spawn_companion("signals", async move {
        let _alive = alive;
        std::future::pending().await
    });
    clean.spawn("slow", async move {
        shutdown.cancelled().await;
        tokio::time::sleep(S).await;
        anyhow::ensure!(seen.is_empty(), "the companion ended first");
        Ok(())
    });
    clean.shutdown().cancel();
    let start = Instant::now();
    clean.run(5 * S).await.unwrap();
    assert_eq!(start.elapsed(), S);

    let mut broken = supervisor();
    broken.spawn_companion("signals", async { Err(anyhow!("no signals here")) });
    let ended = broken.run(S).await.unwrap_err();
    assert!(matches!(ended, Ended::Early { task, .. } if task == "signals"));
}
