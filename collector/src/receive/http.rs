//! OTLP over HTTP: POST /v1/metrics with a body in protobuf or JSON. Answers are in the form of the request.

use std::fmt::Display;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER as RETRY_AFTER_HEADER};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::StreamExt as _;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Answer, BODY_BYTES_MAX, BODY_WITHIN, Intake, Outcome, RETRY_AFTER, Understood, grpc, wire};
use crate::access::Caller;
use crate::packed::{self, BadBody, Encoding, MESSAGE_BYTES_MAX, Packed};
use crate::tally::Transport;

/// The form of a body and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Protobuf,
    Json,
}

impl Media {
    /// That of a request; `None` if it is neither.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Media> {
        let named = header(headers, &CONTENT_TYPE)?.split(';').next()?.trim();
        [Media::Protobuf, Media::Json].into_iter().find(|media| named.eq_ignore_ascii_case(media.as_str()))
    }

    fn as_str(self) -> &'static str {
        match self {
            Media::Protobuf => "application/x-protobuf",
            Media::Json => "application/json",
        }
    }

    /// An answer in this form.
    pub(crate) fn respond<M: Message + Serialize>(self, status: StatusCode, message: &M) -> Response {
        let body = match self {
            Media::Protobuf => message.encode_to_vec(),
            Media::Json => serde_json::to_vec(message).expect("a message is JSON"),
        };
        (status, [(CONTENT_TYPE, self.as_str())], body).into_response()
    }
}

/// How much of a body that is too large is read to its end, so that the client hears the answer [bytes].
const DRAINED_BYTES_MAX: usize = 16 * BODY_BYTES_MAX;

/// The route.
pub fn router(intake: &Intake) -> Router {
    Router::new().route("/v1/metrics", post(export)).with_state(intake.clone())
}

async fn export(State(intake): State<Intake>, request: Request) -> Response {
    let media = Media::of(request.headers());
    let (status, (answer, word)) = match read(&intake, media, request).await {
        // The turn lasts until the request is answered: what was decoded takes memory until then.
        Ok((Ok(understood), _turn)) => (StatusCode::OK, intake.take(understood).await),
        Ok((Err(refused), _turn)) => (StatusCode::BAD_REQUEST, refused),
        Err((status, answer)) => {
            let word = word(&answer);
            (status, (answer, word))
        }
    };
    intake.tally.request(Transport::Http, word);
    respond(media.unwrap_or(Media::Protobuf), status, answer)
}

fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Accepted { .. } => "accepted",
        Answer::Refused { reason, .. } | Answer::Forbidden { reason, .. } | Answer::Later { reason, .. } => reason,
    }
}

type Refused = (StatusCode, Answer);

/// What the request holds with its turn, or the status and the answer for a body that holds no request.
async fn read(
    intake: &Intake,
    media: Option<Media>,
    request: Request,
) -> Result<(Result<Understood, Outcome>, OwnedSemaphorePermit), Refused> {
    let (parts, stream) = request.into_parts();
    let form = accepted(media, &parts.headers)?;
    let turn = intake.turn().await.ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, Answer::overload()))?;
    let slow = |_| (StatusCode::SERVICE_UNAVAILABLE, Answer::slow());
    let body = timeout(BODY_WITHIN, collect(stream)).await.map_err(slow)??;
    let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_else(Caller::nobody);
    let worker = intake.clone();
    match spawn_blocking(move || understand(&worker, &caller, form, body)).await {
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
    (media, encoding): (Media, Encoding),
    body: Vec<u8>,
) -> Result<Result<Understood, Outcome>, Refused> {
    let message = packed::unpack(encoding, &body, MESSAGE_BYTES_MAX).map_err(|bad| match bad {
        BadBody::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, Answer::refused("too-large", bad.to_string())),
        BadBody::Corrupt(_) => malformed(bad.to_string()),
    })?;
    let no_request = |e: &dyn Display| malformed(format!("the body is no OTLP request: {e}"));
    match media {
        Media::Protobuf => {
            let request = ExportMetricsServiceRequest::decode(message.as_slice()).map_err(|e| no_request(&e))?;
            Ok(intake.understand(request, caller, || Some(Packed::keep(encoding, body, &message))))
        }
        Media::Json => {
            let request: ExportMetricsServiceRequest = serde_json::from_slice(&message).map_err(|e| no_request(&e))?;
            Ok(intake.understand(request, caller, || None))
        }
    }
}

fn malformed(why: String) -> Refused {
    (StatusCode::BAD_REQUEST, Answer::Refused { reason: "malformed", why })
}

fn accepted(media: Option<Media>, headers: &HeaderMap) -> Result<(Media, Encoding), Refused> {
    let unsupported = |reason, why: String| (StatusCode::UNSUPPORTED_MEDIA_TYPE, Answer::Refused { reason, why });
    let media = media.ok_or_else(|| {
        let named = header(headers, &CONTENT_TYPE).unwrap_or("(none)");
        let (protobuf, json) = (Media::Protobuf.as_str(), Media::Json.as_str());
        unsupported("unsupported-type", format!("content type {named} is not taken: send {protobuf} or {json}"))
    })?;
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("(not text)"));
    let encoding = Encoding::of(encoding).ok_or_else(|| {
        let why = format!("content encoding {} is not taken: send gzip, zstd or none", encoding.unwrap_or("(none)"));
        unsupported("unsupported-encoding", why)
    })?;
    Ok((media, encoding))
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn respond(media: Media, refusal: StatusCode, answer: Answer) -> Response {
    match answer {
        Answer::Accepted { rejected_points, message } if media == Media::Json => {
            // The generated form writes the count as a number and what is unset as null; OTLP wants text and nothing.
            let partial = serde_json::json!({ "rejectedDataPoints": rejected_points.to_string(), "errorMessage": message });
            let whole = rejected_points == 0;
            Json(if whole { serde_json::json!({}) } else { serde_json::json!({ "partialSuccess": partial }) }).into_response()
        }
        Answer::Accepted { rejected_points, message } => media.respond(StatusCode::OK, &grpc::response(rejected_points, message)),
        Answer::Refused { why, .. } => media.respond(refusal, &wire::Status::new(tonic::Code::InvalidArgument, &why)),
        Answer::Forbidden { why, .. } => {
            media.respond(StatusCode::FORBIDDEN, &wire::Status::new(tonic::Code::PermissionDenied, &why))
        }
        Answer::Later { why, .. } => {
            let status = wire::Status::new(tonic::Code::Unavailable, &why).retry_after(RETRY_AFTER);
            let mut response = media.respond(StatusCode::SERVICE_UNAVAILABLE, &status);
            response.headers_mut().insert(RETRY_AFTER_HEADER, RETRY_AFTER.as_secs().into());
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lagmesh_daemon::Clock;
    use lagmesh_model::otlp;
    use lagmesh_model::state::LinkState;
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::{Says, fleet};
    use crate::tally::Tally;

    fn understood(media: Media, body: &[u8]) -> Result<Result<Understood, Outcome>, Refused> {
        let (jobs, _queue) = tokio::sync::mpsc::channel(1);
        let intake = Intake::new(Arc::new(fleet(&["a", "b"], &["a", "b"])), jobs, Clock::new(), Tally::default());
        understand(&intake, &Caller::everybody(), (media, Encoding::Identity), body.to_vec())
    }

    fn request() -> ExportMetricsServiceRequest {
        otlp::encode(&Says::new("a", 1).link("b", LinkState::Ok).batch())
    }

    /// What comes as JSON is what came as protobuf: whole numbers as text or as numbers, unknown fields left out.
    #[test]
    fn json_holds_the_same() {
        let protobuf = understood(Media::Protobuf, &request().encode_to_vec()).unwrap().unwrap();
        let mut json = serde_json::to_value(request()).unwrap();
        json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["invented"] = serde_json::json!({ "deep": [1, "2"] });
        let text = json.to_string();
        let point = "\"timeUnixNano\":\"";
        assert!(text.contains(point), "{text}");
        let json = understood(Media::Json, text.as_bytes()).unwrap().unwrap();
        let batches = |of: &Understood| of.batches.iter().map(|(batch, _)| batch.clone()).collect::<Vec<_>>();
        assert_eq!(batches(&json), batches(&protobuf));
        assert_eq!((batches(&json).len(), json.rejected), (1, protobuf.rejected));
    }

    /// Points of somebody who claims to be no agent are rejected and counted; those of agents in the same request are taken.
    #[test]
    fn foreign_points_are_rejected() {
        let mut both = request();
        let mut foreign = both.resource_metrics[0].clone();
        foreign.resource = None;
        let points = understood(Media::Protobuf, &both.encode_to_vec()).unwrap().unwrap().batches[0].0.series.len() as u64;
        both.resource_metrics.push(foreign);
        let taken = understood(Media::Protobuf, &both.encode_to_vec()).unwrap().unwrap();
        assert_eq!((taken.batches.len(), taken.rejected), (1, [("not-an-agent", points)].into()));
    }

    proptest! {
        /// Whatever comes as JSON is an answer, and what is damaged is one that will never be taken.
        #[test]
        fn any_json_is_answered(at in 0.0..1.0_f64, octet: u8, cut: bool, noise in "[\\[\\]{}\":,0-9a-z]{0,64}") {
            let mut body = serde_json::to_vec(&request()).unwrap();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place within the body")]
            let place = (at * body.len() as f64) as usize;
            body[place] = octet;
            if cut {
                body.truncate(place);
            }
            for body in [body, noise.into_bytes(), vec![b'['; 200_000]] {
                if let Err((status, answer)) = understood(Media::Json, &body) {
                    prop_assert_eq!((status, word(&answer)), (StatusCode::BAD_REQUEST, "malformed"));
                }
            }
        }
    }

    /// Overload says when to come back, in the header and in the body; a refusal says why.
    #[tokio::test]
    async fn answers() {
        let later = respond(Media::Protobuf, StatusCode::BAD_REQUEST, Answer::overload());
        assert_eq!((later.status(), &later.headers()[RETRY_AFTER_HEADER]), (StatusCode::SERVICE_UNAVAILABLE, &5.into()));
        let body = axum::body::to_bytes(later.into_body(), 4096).await.unwrap();
        assert_eq!(wire::Status::decode(body).unwrap().details.len(), 1);

        let refused = respond(Media::Protobuf, StatusCode::PAYLOAD_TOO_LARGE, Answer::refused("too-large", "too large"));
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let body = axum::body::to_bytes(refused.into_body(), 4096).await.unwrap();
        assert_eq!(wire::Status::decode(body).unwrap().message, "too large");
    }

    /// Whoever sends JSON is answered in JSON, with the names and the types that OTLP has for it.
    #[tokio::test]
    async fn answers_in_json() {
        let told = async |answer| {
            let answer = respond(Media::Json, StatusCode::BAD_REQUEST, answer);
            assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
            let body = axum::body::to_bytes(answer.into_body(), 4096).await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()
        };
        let partly = told(Answer::Accepted { rejected_points: 3, message: "3 unknown-metric".to_owned() }).await;
        assert_eq!(
            partly,
            serde_json::json!({ "partialSuccess": { "rejectedDataPoints": "3", "errorMessage": "3 unknown-metric" } })
        );
        let whole = told(Answer::Accepted { rejected_points: 0, message: String::new() }).await;
        assert_eq!(whole, serde_json::json!({}));
        let refused = told(Answer::refused("malformed", "no request")).await;
        assert_eq!((&refused["code"], &refused["message"]), (&3.into(), &"no request".into()));
        let later = told(Answer::overload()).await;
        assert_eq!(later["details"][0]["retryDelay"], "5s");
    }
}
