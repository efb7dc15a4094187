use axum::http::StatusCode;

use super::*;
use crate::history::ask::Request;
use crate::history::read::{Failed, Patience, answer};
use crate::history::{baseline, serve};

fn words(written: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| pair.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    written.split('&').map(pair).collect()
}

fn asked(folder: &Path, now_s: u64, written: &str) -> Result<lagmesh_model::history::History, Failed> {
    let request = Request::parse(&words(written), wall(now_s)).map_err(Failed::Wrong)?;
    answer(&reader(folder).unwrap(), &request, &mut Patience::until(&|| false))
}

fn json(folder: &Path, now_s: u64, written: &str) -> serde_json::Value {
    serde_json::to_value(asked(folder, now_s, written).unwrap()).unwrap()
}

/// Half an hour of ten probes each ten seconds, of 20 ms.
fn half_an_hour() -> tempfile::TempDir {
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    let life = Life::even("one", 1, 180, 20);
    take(&mut running, life.all().take(100));
    running.write();
    // Whoever asks is not told by what has settled and what has not.
    settle(&mut running);
    take(&mut running, life.all().skip(100));
    running.write();
    folder
}

/// Steps add up buckets; a histogram tells its quantiles, a counter its increase, a state its share.
#[test]
fn each_kind_is_told_its_way() {
    let folder = half_an_hour();
    let now_s = 10_000 + 1800;
    let rtt = json(folder.path(), now_s, "metric=lagmesh.link.rtt&peer=b&from=-25m&step=5m");
    assert_eq!((&rtt["step_s"], &rtt["bucket_s"], &rtt["unit"]), (&300.into(), &60.into(), &"s".into()));
    let points = rtt["series"][0]["points"].as_array().unwrap();
    assert_eq!(rtt["series"][0]["attributes"]["kind"], "stamp");
    assert_eq!(points[1]["count"], 300);
    let p50 = points[1]["p50"].as_f64().unwrap();
    assert!((p50 / 0.020 - 1.0).abs() < 0.0114, "{p50}");
    assert!((points[1]["sum"].as_f64().unwrap() - 6.0).abs() < 1e-3);
    assert!(points[1].get("span_s").is_none());
    let probes = json(folder.path(), now_s, "metric=lagmesh.link.probes&from=-5m&step=10s");
    assert_eq!(probes["series"][0]["points"][0]["increase"], 10);
    let state = json(folder.path(), now_s, "metric=lagmesh.link.state&from=-5m&step=1m");
    assert_eq!(state["series"][0]["points"][1]["share"], 1.0);
    let nothing = json(folder.path(), now_s, "metric=lagmesh.link.rtt&peer=c");
    assert_eq!(nothing["series"], serde_json::json!([]));
}

/// Who asks for too much is told what to ask for; who asks for too long is stopped.
#[test]
fn too_much() {
    let folder = half_an_hour();
    let request = Request::parse(&words("metric=lagmesh.link.rtt&from=-3h&step=10s"), wall(11_800)).unwrap();
    let stopped = answer(&reader(folder.path()).unwrap(), &request, &mut Patience::until(&|| true));
    assert!(stopped.is_ok(), "a few look-ups are done before the clock is looked at");
    let many = Life { agent: "one", boot: 3, steps: vec![(1, 1)] };
    let mut running = history(folder.path());
    let mut batch = many.batch(1);
    for n in 0..300 {
        let peer = link().with(Attribute::Peer, format!("p{n}"));
        batch.series.push(Series::counter(&catalogue::LINK_STAMPS, peer_stamps(&peer), 1));
    }
    take(&mut running, [batch]);
    running.write();
    settle(&mut running);
    let refused = asked(folder.path(), 100_000, "metric=lagmesh.link.stamps").unwrap_err().to_string();
    assert!(refused.contains("choose by region, peer, stamps"), "{refused}");
    let request = Request::parse(&words("metric=lagmesh.link.rtt&from=-12h&step=10s"), wall(35_000)).unwrap();
    let stopped = answer(&reader(folder.path()).unwrap(), &request, &mut Patience::until(&|| true));
    assert!(matches!(stopped, Err(Failed::Slow)), "{stopped:?}");
}

fn peer_stamps(peer: &Attributes) -> Attributes {
    let of = |name| peer.get(name).unwrap();
    let both = Attributes::new().with(Attribute::Region, of(Attribute::Region)).with(Attribute::Peer, of(Attribute::Peer));
    both.with(Attribute::Stamps, "kernel")
}

/// The last hour against the same hour a week before; what was counted over hours is of neither.
#[test]
fn a_baseline_of_a_week_ago() {
    let folder = tempdir().unwrap();
    let mut running = history(folder.path());
    let week_s = 7 * 86_400;
    for (boot, begin_s, ms) in [(1, 0, 10), (2, week_s, 20)] {
        let life = Life::even("one", boot, 360, ms);
        for batch in life.all() {
            let (start, time) = (wall(begin_s), wall(begin_s + batch.sequence * 10 - 1));
            running.take(&Batch { start, time, ..batch }, wall(week_s + 3600));
        }
    }
    // An agent that ran for a day before this collector ever heard of it.
    let old = Life::even("two", 9, 8640, 90).batch(8640);
    let (start, time) = (wall(week_s - 86_400), wall(week_s + 60));
    running.take(&Batch { start, time, ..old }, wall(week_s + 3600));
    running.write();
    let request = baseline::Request::parse(&words("metric=lagmesh.link.rtt&region=a"), wall(week_s + 3600)).unwrap();
    let answer = baseline::answer(&reader(folder.path()).unwrap(), &request, &mut Patience::until(&|| false)).unwrap();
    let told = serde_json::to_value(answer).unwrap();
    let one = &told["series"][0];
    // The minute in which that day of counts came is left out as a whole: within it the two cannot be told apart.
    assert_eq!((&one["against"], &one["now"]["samples"], &one["then"]["samples"]), (&"week".into(), &3540.into(), &3600.into()));
    for ratio in ["p50_ratio", "p99_ratio"] {
        let ratio = one[ratio]["value"].as_f64().unwrap();
        assert!((ratio - 2.0).abs() < 0.05, "{ratio}");
    }
}

/// Over HTTP: JSON, or a line that says what to do.
#[tokio::test]
async fn over_http() {
    let folder = half_an_hour();
    let archive = Archive::new(folder.path().to_owned(), Clock::new());
    let from = "from=2023-11-14T23:00:00Z&to=2023-11-15T05:00:00Z";
    let get = async |path: &str| {
        let (path, query) = path.split_once('?').unwrap();
        let words = axum::extract::Query(words(query));
        let state = axum::extract::State(archive.clone());
        let response = match path {
            "history" => serve::history(state, words).await,
            _ => serve::compared(state, words).await,
        };
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let (status, body) = get(&format!("history?metric=lagmesh.link.rtt&{from}")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body.contains("\"p99\""), "{body}");
    let (status, body) = get("history?metric=rtt").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("list-metrics"), "{body}");
    assert_eq!(get("baseline?region=a").await.0, StatusCode::OK);
    assert_eq!(get("baseline?slot=a").await.0, StatusCode::BAD_REQUEST);
    let gone = Archive::new(folder.path().join("nowhere"), Clock::new());
    let answer = serve::history(axum::extract::State(gone), axum::extract::Query(words("metric=lagmesh.link.rtt"))).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
}
