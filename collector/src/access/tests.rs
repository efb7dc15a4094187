use std::os::unix::fs::PermissionsExt as _;

use axum::Router;
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use lagmesh_model::access::{TokenHash, Tokens};
use lagmesh_model::catalogue;
use tower::Service as _;

use super::files::Files;
use super::layer::guarded;
use super::reload::Reload;
use super::*;
use crate::fixture::Says;

const PLENTY: Limits = Limits { requests: Rate { per_s: 1000, burst: 1000 }, bytes: Rate { per_s: 1 << 20, burst: 1 << 20 } };

/// Tokens whose secrets are their names and whose names are their roles.
fn by_token() -> Rules {
    let entry = |role: &Role| {
        format!("[[token]]\nname = \"{role}\"\nsha256 = \"{}\"\nrole = \"{role}\"\n", TokenHash::of(role.as_str().as_bytes()))
    };
    let text: String = Role::ALL.iter().map(entry).collect();
    Rules { tokens: Some(Tokens::parse("tokens.toml", &text).unwrap()), certificates: false, open_to_read: false }
}

/// A door with a few routes behind it, and what it counts.
struct Bed {
    router: Router,
    tally: Tally,
    _rules: watch::Sender<Arc<Rules>>,
}

impl Bed {
    fn new(transport: Transport, limits: Limits) -> Bed {
        let (told, rules) = watch::channel(Arc::new(by_token()));
        let tally = Tally::default();
        let access = Access::new(rules, limits, Clock::new(), tally.clone());
        let routes = Router::new()
            .route("/health", get(async || "alive"))
            .route("/v1/status", get(async || "status").post(async || "changed"))
            .route("/v1/metrics", post(async |body: Body| axum::body::to_bytes(body, 1 << 20).await.unwrap()));
        Bed { router: guarded(routes, &access, transport), tally, _rules: told }
    }

    async fn ask(&mut self, from: &str, request: Request<Body>) -> Response {
        let mut request = request;
        let connection = Connection { from: format!("{from}:1").parse().unwrap(), certificate: Certificate::None };
        request.extensions_mut().insert(Arc::new(connection));
        self.router.call(request).await.unwrap()
    }

    async fn status(&mut self, from: &str, token: Option<&str>, method: &str, path: &str) -> u16 {
        self.ask(from, request(token, method, path)).await.status().as_u16()
    }

    fn refusals(&self, reason: &str) -> Option<f64> {
        counted(&self.tally, &catalogue::COLLECTOR_REFUSALS, reason)
    }
}

fn request(token: Option<&str>, method: &str, path: &str) -> Request<Body> {
    let builder = Request::builder().method(method).uri(path);
    let builder = if let Some(token) = token { builder.header(AUTHORIZATION, format!("Bearer {token}")) } else { builder };
    builder.body(Body::from(vec![0; 1000])).unwrap()
}

fn counted(tally: &Tally, metric: &catalogue::Metric, reason: &str) -> Option<f64> {
    let text = lagmesh_model::exposition::text(&tally.series(crate::fixture::at(0)));
    let name = metric.name.replace('.', "_");
    let line = text.lines().find(|line| line.starts_with(&name) && line.contains(&format!("reason=\"{reason}\"")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Each route takes the role it is for; a refusal says how to come in, and is counted by its reason.
#[tokio::test]
async fn roles_at_the_door() {
    let mut bed = Bed::new(Transport::Http, PLENTY);
    for (token, method, path, expected) in [
        (None, "GET", "/health", 200),
        (None, "GET", "/v1/status", 401),
        (Some("read"), "GET", "/v1/status", 200),
        (Some("read"), "POST", "/v1/status", 403),
        (Some("operate"), "POST", "/v1/status", 200),
        (Some("ingest"), "GET", "/v1/status", 403),
        (Some("ingest"), "POST", "/v1/metrics", 200),
        (Some("operate"), "POST", "/v1/metrics", 403),
        (Some("reads"), "GET", "/nothing", 401),
        (Some("read"), "GET", "/nothing", 404),
    ] {
        assert_eq!(bed.status("192.0.2.1", token, method, path).await, expected, "{token:?} {method} {path}");
    }
    assert_eq!(
        [bed.refusals("no-credentials"), bed.refusals("wrong-role"), bed.refusals("unknown-token")],
        [Some(1.0), Some(3.0), Some(1.0)]
    );
    let refused = bed.ask("192.0.2.1", request(None, "GET", "/")).await;
    let ways: Vec<_> = refused.headers().get_all(WWW_AUTHENTICATE).iter().map(|way| way.to_str().unwrap()).collect();
    assert!(ways[0].starts_with("Basic realm=") && ways[1].starts_with("Bearer"), "{ways:?}");
}

/// A page of another site changes nothing with the password that a browser remembers.
#[tokio::test]
async fn other_sites_change_nothing() {
    let mut bed = Bed::new(Transport::Http, PLENTY);
    for (site, expected) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
        let mut asked = request(Some("operate"), "POST", "/v1/status");
        asked.headers_mut().insert("sec-fetch-site", site.parse().unwrap());
        assert_eq!(bed.ask("192.0.2.1", asked).await.status(), expected, "{site}");
    }
    assert_eq!(bed.refusals("cross-site"), Some(2.0));
}

/// Who takes more than their share is told when to come back, in the words of both transports, and others are not held up.
#[tokio::test]
async fn shares() {
    let few = Limits { requests: Rate { per_s: 1, burst: 2 }, bytes: Rate { per_s: 10, burst: 1500 } };
    let mut bed = Bed::new(Transport::Http, few);
    for expected in [200, 200, 429] {
        assert_eq!(bed.status("192.0.2.1", Some("read"), "GET", "/v1/status").await, expected);
    }
    assert_eq!(bed.status("192.0.2.1", Some("operate"), "GET", "/v1/status").await, 200);

    // A body is charged as it comes, so the second one finds the bucket empty.
    let many = Limits { requests: PLENTY.requests, ..few };
    let mut bed = Bed::new(Transport::Http, many);
    for expected in [200, 200, 429] {
        let answer = bed.ask("192.0.2.1", request(Some("ingest"), "POST", "/v1/metrics")).await;
        assert_eq!(answer.status(), expected);
        let after = answer.headers().get(RETRY_AFTER).map(|after| after.to_str().unwrap().parse::<u64>().unwrap());
        assert_eq!(after.is_some_and(|after| (50..=52).contains(&after)), expected == 429, "{after:?}");
        axum::body::to_bytes(answer.into_body(), 4096).await.unwrap();
    }
    assert_eq!(counted(&bed.tally, &catalogue::COLLECTOR_REFUSALS, "too-many-bytes"), Some(1.0));

    let mut bed = Bed::new(Transport::Grpc, few);
    for expected in [None, None, Some("8")] {
        let answer = bed.ask("192.0.2.1", request(Some("ingest"), "POST", "/v1/metrics")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers().get("grpc-status").map(|status| status.to_str().unwrap()), expected);
        assert_eq!(answer.headers().contains_key("grpc-status-details-bin"), expected.is_some());
    }
    let answer = bed.ask("192.0.2.1", request(None, "POST", "/v1/metrics")).await;
    assert_eq!(answer.headers()["grpc-status"], "16");
}

/// Who guesses is told to come later; who has the right token comes in from the same address all the same.
#[tokio::test]
async fn guessing_is_slow_and_locks_nobody_out() {
    let mut bed = Bed::new(Transport::Http, PLENTY);
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.push(bed.status("192.0.2.1", Some("guess"), "GET", "/").await);
    }
    assert!(answers[..10].iter().all(|status| *status == 401) && answers[29] == 429, "{answers:?}");
    assert_eq!(bed.status("192.0.2.1", Some("read"), "GET", "/v1/status").await, 200);
    assert_eq!(bed.status("192.0.2.1", None, "GET", "/").await, 401, "a browser is asked as ever");
    assert_eq!(bed.status("192.0.2.2", Some("guess"), "GET", "/").await, 401, "another address has its own share");
    assert_eq!(bed.refusals("unknown-token"), Some(31.0), "each is counted");
    let network = |ip: &str| source_of(ip.parse().unwrap());
    assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
    assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
}

/// A caller is asked for whom each batch speaks, and whoever did not come past the door speaks for nobody.
#[test]
fn callers() {
    let exporter = Says::new("a", 1).batch().exporter;
    assert!(Caller::nobody().may_send(&exporter).is_err());
    assert!(Caller::everybody().may_send(&exporter).is_ok());
}

/// A file that is no good leaves the old tokens in force and is counted once, however often it is looked at; the next good one counts.
#[test]
fn bad_files_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let entry =
        |secret: &str| format!("[[token]]\nname = \"x\"\nrole = \"read\"\nsha256 = \"{}\"\n", TokenHash::of(secret.as_bytes()));
    std::fs::write(&path, entry("old")).unwrap();
    let files = Files::new(None, None, Some(path.clone()));
    let rules = Rules { tokens: files.read_tokens().unwrap(), certificates: false, open_to_read: true };
    let (told, rules) = watch::channel(Arc::new(rules));
    let tally = Tally::default();
    let mut reload = Reload { files, tls: None, rules: told, tally: tally.clone() };
    let knows = |secret: &str| rules.borrow().tokens.as_ref().is_some_and(|tokens| tokens.find(secret.as_bytes()).is_some());
    let failures = || counted(&tally, &catalogue::COLLECTOR_RELOAD_FAILURES, "tokens");

    std::fs::write(&path, "[[token]]\nname =").unwrap();
    reload.look(false);
    reload.look(false);
    assert!(knows("old") && failures() == Some(1.0));
    reload.look(true);
    assert_eq!(failures(), Some(2.0), "who asks is told again");
    std::fs::write(&path, entry("the new one")).unwrap();
    reload.look(false);
    assert!(knows("the new one") && !knows("old") && failures() == Some(2.0));
    std::fs::remove_file(&path).unwrap();
    reload.look(false);
    assert!(knows("the new one") && failures() == Some(3.0));
    // Root reads whatever is there, so that this is no more than a file like any other.
    std::fs::write(&path, entry("third")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    reload.look(false);
    assert!(knows("third") && rules.borrow().open_to_read);
}
