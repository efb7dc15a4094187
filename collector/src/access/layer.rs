//! What stands before every route: lets in who may come, tells the others why not in the words of their protocol.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use lagmesh_model::access::Role;
use prost::Message as _;
use tonic::Code;

use super::audit::{self, Event};
use super::rules::Kind;
use super::{Access, Caller, Connection, Denied};
use crate::receive::http::Media;
use crate::receive::wire;
use crate::tally::Transport;

/// A browser asks its person for a name and a password, and sends the token as the password.
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"lagmesh: the token is the password\", charset=\"UTF-8\"");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"lagmesh\"");

/// Where the door stands.
#[derive(Debug, Clone)]
struct Door {
    access: Access,
    transport: Transport,
}

/// The routes with the door before them. Those behind it find a [`Caller`] in the extensions of a request.
pub fn guarded(router: Router, access: &Access, transport: Transport) -> Router {
    router.layer(from_fn_with_state(Door { access: access.clone(), transport }, enter))
}

async fn enter(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (caller, role) = match door.access.enter((door.transport, &method, &path), request.headers(), connection.as_deref()) {
        Ok(None) => return next.run(request).await,
        Ok(Some(entered)) => entered,
        Err(denied) => return answer(door.transport, (&path, Media::of(request.headers())), denied),
    };
    if role == Role::Operate && is_from_elsewhere(&request) {
        // A browser sends a person's password along with what another site makes it send.
        let why = "changes are not taken from pages of other sites";
        caller.refused(&format!("{method} {}", audit::excerpt(&path)), role, "cross-site", why);
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    request.extensions_mut().insert(caller.clone());
    if caller.name.is_some() {
        request = counted(request, caller.clone());
    }
    let response = next.run(request).await;
    if role == Role::Operate {
        let what = format!("{method} {}", audit::excerpt(&path));
        let event = Event { who: caller.name.as_deref(), role: Some(role), from: caller.from, what: &what };
        event.changed(response.status());
    }
    response
}

/// Whether a browser says that another site makes this request. What is no browser does not say where it is.
fn is_from_elsewhere(request: &Request) -> bool {
    let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    site.is_some_and(|site| !matches!(site, b"same-origin" | b"none"))
}

/// The request with a body that is charged to its caller as it comes.
fn counted(request: Request, caller: Caller) -> Request {
    request.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                caller.charge(data.len());
            }
            frame
        }))
    })
}

fn answer(transport: Transport, (path, media): (&str, Option<Media>), denied: Denied) -> Response {
    let (status, code, why, after) = match denied {
        Denied::Refused(refusal) => match refusal.kind {
            Kind::Unknown => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, refusal.why, None),
            Kind::Forbidden => (StatusCode::FORBIDDEN, Code::PermissionDenied, refusal.why, None),
        },
        Denied::TooSoon { why, after, .. } => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, why, Some(whole(after))),
    };
    let told = wire::Status::new(code, &why);
    let told = if let Some(after) = after { told.retry_after(after) } else { told };
    let mut response = match transport {
        Transport::Grpc => return tonic::Status::with_details(code, why, told.encode_to_vec().into()).into_http(),
        Transport::Http if path == "/v1/metrics" => media.unwrap_or(Media::Protobuf).respond(status, &told),
        Transport::Http => (status, format!("{why}\n")).into_response(),
    };
    if let Some(after) = after {
        response.headers_mut().insert(RETRY_AFTER, after.as_secs().into());
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().append(WWW_AUTHENTICATE, BASIC);
        response.headers_mut().append(WWW_AUTHENTICATE, BEARER);
    }
    response
}

/// A wait in whole seconds, never none: the header knows nothing finer.
fn whole(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + 1)
}
