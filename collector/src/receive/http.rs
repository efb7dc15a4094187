//! OTLP over HTTP: POST /v1/metrics with a protobuf body.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER as RETRY_AFTER_HEADER};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::StreamExt as _;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Answer, BODY_BYTES_MAX, BODY_WITHIN, Intake, Outcome, RETRY_AFTER, Understood, grpc, wire};
use crate::access::Caller;
use crate::packed::{self, BadBody, Encoding, MESSAGE_BYTES_MAX, Packed};
use crate::tally::Transport;

const PROTOBUF: &str = "application/x-protobuf";
/// How much of a body that is too large is read to its end, so that the client hears the answer [bytes].
const DRAINED_BYTES_MAX: usize = 16 * BODY_BYTES_MAX;

/// The route.
pub fn router(intake: &Intake) -> Router {
    Router::new().route("/v1/metrics", post(export)).with_state(intake.clone())
}

async fn export(State(intake): State<Intake>, request: Request) -> Response {
    let (status, (answer, word)) = match read(&intake, request).await {
        // The turn lasts until the request is answered: what was decoded takes memory until then.
        Ok((Ok(understood), _turn)) => (StatusCode::OK, intake.take(understood).await),
        Ok((Err(refused), _turn)) => (StatusCode::BAD_REQUEST, refused),
        Err((status, answer)) => {
            let word = word(&answer);
            (status, (answer, word))
        }
    };
    intake.tally.request(Transport::Http, word);
    respond(status, answer)
}

fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Accepted { .. } => "accepted",
        Answer::Refused { reason, .. } | Answer::Forbidden { reason, .. } | Answer::Later { reason, .. } => reason,
    }
}

type Refused = (StatusCode, Answer);

/// What the request holds with its turn, or the status and the answer for a body that holds no request.
async fn read(intake: &Intake, request: Request) -> Result<(Result<Understood, Outcome>, OwnedSemaphorePermit), Refused> {
    let (parts, stream) = request.into_parts();
    let encoding = accepted(&parts.headers)?;
    let turn = intake.turn().await.ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, Answer::overload()))?;
    let slow = |_| (StatusCode::SERVICE_UNAVAILABLE, Answer::slow());
    let body = timeout(BODY_WITHIN, collect(stream)).await.map_err(slow)??;
    let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_else(Caller::nobody);
    let worker = intake.clone();
    match spawn_blocking(move || understand(&worker, &caller, encoding, body)).await {
        Ok(understood) => Ok((understood?, turn)),
        Err(e) => Err(malformed(format!("the body cannot be read: {e}"))),
    }
}

/// The whole body, if it is not too large.
///
/// What is too large is still read, and dropped, up to a second limit: a client that is cut off while it sends learns of a broken
/// connection instead of the refusal, and tries again for ever.
async fn collect(stream: Body) -> Result<Vec<u8>, Refused> {
    let mut stream = stream.into_data_stream();
    let (mut body, mut bytes) = (Vec::new(), 0);
    while let Some(part) = stream.next().await {
        let part = part.map_err(|e| malformed(format!("the body broke off: {e}")))?;
        bytes += part.len();
        if bytes <= BODY_BYTES_MAX {
            body.extend_from_slice(&part);
        } else {
            body = Vec::new();
        }
        if bytes > DRAINED_BYTES_MAX {
            break;
        }
    }
    if bytes > BODY_BYTES_MAX { Err(too_large()) } else { Ok(body) }
}

fn too_large() -> Refused {
    let why = format!("the body is larger than {BODY_BYTES_MAX} bytes: send smaller batches");
    (StatusCode::PAYLOAD_TOO_LARGE, Answer::refused("too-large", why))
}

/// Decompresses and decodes a body. This takes milliseconds that no connection should wait for.
fn understand(
    intake: &Intake,
    caller: &Caller,
    encoding: Encoding,
    body: Vec<u8>,
) -> Result<Result<Understood, Outcome>, Refused> {
    let message = packed::unpack(encoding, &body, MESSAGE_BYTES_MAX).map_err(|bad| match bad {
        BadBody::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, Answer::refused("too-large", bad.to_string())),
        BadBody::Corrupt(_) => malformed(bad.to_string()),
    })?;
    let request = ExportMetricsServiceRequest::decode(message.as_slice());
    let request = request.map_err(|e| malformed(format!("the body is no OTLP request: {e}")))?;
    Ok(intake.understand(request, caller, || Some(Packed::keep(encoding, body, &message))))
}

fn malformed(why: String) -> Refused {
    (StatusCode::BAD_REQUEST, Answer::Refused { reason: "malformed", why })
}

fn accepted(headers: &HeaderMap) -> Result<Encoding, Refused> {
    let unsupported = |reason, why: String| (StatusCode::UNSUPPORTED_MEDIA_TYPE, Answer::Refused { reason, why });
    let media = header(headers, &CONTENT_TYPE).and_then(|value| value.split(';').next()).map(str::trim);
    match media {
        Some(media) if media.eq_ignore_ascii_case(PROTOBUF) => {}
        _ => {
            let why = format!("content type {} is not taken: send {PROTOBUF}", media.unwrap_or("(none)"));
            return Err(unsupported("unsupported-type", why));
        }
    }
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("(not text)"));
    Encoding::of(encoding).ok_or_else(|| {
        let why = format!("content encoding {} is not taken: send gzip, zstd or none", encoding.unwrap_or("(none)"));
        unsupported("unsupported-encoding", why)
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn respond(refusal: StatusCode, answer: Answer) -> Response {
    let protobuf = |status: StatusCode, body: Vec<u8>| (status, [(CONTENT_TYPE, PROTOBUF)], body).into_response();
    match answer {
        Answer::Accepted { rejected_points, message } => {
            protobuf(StatusCode::OK, grpc::response(rejected_points, message).encode_to_vec())
        }
        Answer::Refused { why, .. } => protobuf(refusal, wire::Status::new(tonic::Code::InvalidArgument, &why).encode_to_vec()),
        Answer::Forbidden { why, .. } => {
            protobuf(StatusCode::FORBIDDEN, wire::Status::new(tonic::Code::PermissionDenied, &why).encode_to_vec())
        }
        Answer::Later { why, .. } => {
            let status = wire::Status::new(tonic::Code::Unavailable, &why).retry_after(RETRY_AFTER);
            let mut response = protobuf(StatusCode::SERVICE_UNAVAILABLE, status.encode_to_vec());
            response.headers_mut().insert(RETRY_AFTER_HEADER, RETRY_AFTER.as_secs().into());
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Overload says when to come back, in the header and in the body; a refusal says why.
    #[tokio::test]
    async fn answers() {
        let later = respond(StatusCode::BAD_REQUEST, Answer::overload());
        assert_eq!((later.status(), &later.headers()[RETRY_AFTER_HEADER]), (StatusCode::SERVICE_UNAVAILABLE, &5.into()));
        let body = axum::body::to_bytes(later.into_body(), 4096).await.unwrap();
        assert_eq!(wire::Status::decode(body).unwrap().details.len(), 1);

        let refused = respond(StatusCode::PAYLOAD_TOO_LARGE, Answer::refused("too-large", "too large"));
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let body = axum::body::to_bytes(refused.into_body(), 4096).await.unwrap();
        assert_eq!(wire::Status::decode(body).unwrap().message, "too large");
    }
}
