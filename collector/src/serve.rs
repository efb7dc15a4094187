//! The pages: the status page for people, the same as JSON, everything for Prometheus, health and readiness.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lagmesh_daemon::{Clock, Readiness};
use lagmesh_model::exposition;
use lagmesh_model::time::Reading;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::engine::{Ask, Published};

/// A status is made twice a second; one that is older than this shows that the collector is stuck.
const STATUS_AGE_MAX: Duration = Duration::from_secs(10);
/// How long `/metrics` waits for its turn.
const METRICS_WITHIN: Duration = Duration::from_secs(5);

/// Everything comes from this server, nothing runs inline, nobody frames the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static PAGE_HTML: &str = include_str!("page/index.html");
static PAGE_CSS: &str = include_str!("page/page.css");
static PAGE_JS: &str = include_str!("page/page.js");

/// What the pages show.
#[derive(Debug, Clone)]
pub struct Pages {
    /// The last status.
    pub published: watch::Receiver<Arc<Published>>,
    /// Who knows the series.
    pub asks: mpsc::Sender<Ask>,
    /// What is still waited for.
    pub readiness: Readiness,
    /// The clocks.
    pub clock: Clock,
}

/// The routes.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(async || asset("text/html; charset=utf-8", PAGE_HTML)))
        .route("/page.css", get(async || asset("text/css; charset=utf-8", PAGE_CSS)))
        .route("/page.js", get(async || asset("text/javascript; charset=utf-8", PAGE_JS)))
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(pages)
}

/// Adds the headers that keep a browser from doing more with an answer than showing it.
pub fn hardened(router: Router) -> Router {
    router.layer(map_response(|mut response: Response| async move {
        let headers: [(HeaderName, &'static str); 5] = [
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-store"),
        ];
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }))
}

fn asset(media: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, media)], text).into_response()
}

async fn status(State(pages): State<Pages>) -> Response {
    let published = pages.published.borrow().clone();
    // What a stuck collector said last is no status: it would look like the present.
    match stuck(&pages, published.made) {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        None => axum::Json(&published.status).into_response(),
    }
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let (ask, answer) = oneshot::channel();
    let series = timeout(METRICS_WITHIN, async {
        pages.asks.send(ask).await.ok()?;
        answer.await.ok()
    });
    match series.await {
        Ok(Some(series)) => {
            let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
            let (content_type, page) = exposition::page(accept, &series);
            ([(CONTENT_TYPE, content_type)], page).into_response()
        }
        Ok(None) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the collector is stopping or too busy\n").into_response(),
    }
}

/// Alive is who still judges: a process whose engine is stuck is dead, whatever its listener says.
async fn health(State(pages): State<Pages>) -> (StatusCode, String) {
    let made = pages.published.borrow().made;
    match stuck(&pages, made) {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        None => (StatusCode::OK, "alive\n".to_owned()),
    }
}

/// Whether the last status is so old that its maker must be stuck.
fn stuck(pages: &Pages, made: Reading) -> Option<String> {
    let age = pages.clock.now().raw.checked_since(made.raw)?;
    (age > STATUS_AGE_MAX).then(|| format!("stuck: nothing was judged for {} s\n", age.as_secs()))
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    let waiting_for = pages.readiness.waiting_for();
    if waiting_for.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for:\n{}\n", waiting_for.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use lagmesh_model::status::FleetStatus;

    use super::*;

    fn pages(made: Reading, clock: Clock) -> Pages {
        let text = r#"{"fleet":"f","version":"1","at":0,"regions":[],"regions_reporting":0,"links":[],"nodes":[],"replications":[],"clusters":[]}"#;
        let status: FleetStatus = serde_json::from_str(text).unwrap();
        let (_, published) = watch::channel(Arc::new(Published { status, made }));
        Pages { published, asks: mpsc::channel(1).0, readiness: Readiness::new(), clock }
    }

    /// A collector whose engine is stuck says so in place of its last words, to people, programs and those who restart it.
    #[tokio::test]
    async fn a_stuck_collector_shows_nothing_as_the_present() {
        let clock = Clock::new();
        let now = clock.now();
        let long_ago = Reading { raw: lagmesh_model::time::RawNanos(now.raw.0.checked_sub(11_000_000_000).unwrap()), ..now };
        for (made, expected) in [(now, StatusCode::OK), (long_ago, StatusCode::SERVICE_UNAVAILABLE)] {
            let pages = pages(made, clock.clone());
            assert_eq!(status(State(pages.clone())).await.status(), expected);
            assert_eq!(health(State(pages)).await.0, expected);
        }
    }
}
