//! OTLP over gRPC.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::http::{HeaderValue, Request, Response};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{MetricsService, MetricsServiceServer};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message as _;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::{Answer, BODY_WITHIN, Intake, RETRY_AFTER, SLOW, wire};
use crate::access::Caller;
use crate::packed::MESSAGE_BYTES_MAX;
use crate::tally::Transport;

/// The service on its path.
pub fn router(intake: &Intake) -> Router {
    let service = MetricsServiceServer::new(Export { intake: intake.clone() })
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(Guarded { inner: service, intake: intake.clone() }).into_axum_router()
}

/// The partial success of an answer; unset if every point was taken.
pub(super) fn response(rejected_points: u64, message: String) -> ExportMetricsServiceResponse {
    let partial_success = (rejected_points > 0).then(|| ExportMetricsPartialSuccess {
        rejected_data_points: i64::try_from(rejected_points).unwrap_or(i64::MAX),
        error_message: message,
    });
    ExportMetricsServiceResponse { partial_success }
}

#[derive(Debug)]
struct Export {
    intake: Intake,
}

#[tonic::async_trait]
impl MetricsService for Export {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, Status> {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_else(Caller::nobody);
        let intake = self.intake.clone();
        let understood = spawn_blocking(move || intake.understand(request.into_inner(), &caller, || None)).await;
        let (answer, word) = match understood.map_err(|e| Status::internal(format!("the request cannot be read: {e}")))? {
            Ok(understood) => self.intake.take(understood).await,
            Err(refused) => refused,
        };
        self.intake.tally.request(Transport::Grpc, word);
        match answer {
            Answer::Accepted { rejected_points, message } => Ok(tonic::Response::new(response(rejected_points, message))),
            Answer::Refused { why, .. } => Err(Status::invalid_argument(why)),
            Answer::Forbidden { why, .. } => Err(Status::permission_denied(why)),
            Answer::Later { why, .. } => Err(later(&why)),
        }
    }
}

fn later(why: &str) -> Status {
    let details = wire::Status::new(Code::Unavailable, why).retry_after(RETRY_AFTER).encode_to_vec();
    Status::with_details(Code::Unavailable, why, details.into())
}

/// Gives requests their turn before their body is read, and corrects what the codec says about bad bodies.
#[derive(Debug, Clone)]
struct Guarded {
    inner: MetricsServiceServer<Export>,
    intake: Intake,
}

impl NamedService for Guarded {
    const NAME: &'static str = <MetricsServiceServer<Export> as NamedService>::NAME;
}

impl Service<Request<tonic::body::Body>> for Guarded {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let (mut inner, intake) = (self.inner.clone(), self.intake.clone());
        Box::pin(async move {
            let Some(_turn) = intake.turn().await else {
                intake.tally.request(Transport::Grpc, "overload");
                return Ok(later("too many requests at once: come back later").into_http());
            };
            // The codec reads the body within the call, so that is what takes long.
            let Ok(response) = timeout(BODY_WITHIN, inner.call(request)).await else {
                intake.tally.request(Transport::Grpc, "slow");
                return Ok(later(SLOW).into_http());
            };
            let mut response = response?;
            if let Some((code, word)) = response.headers().get(Status::GRPC_STATUS).and_then(corrected) {
                intake.tally.request(Transport::Grpc, word);
                response.headers_mut().insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(code)));
            }
            Ok(response)
        })
    }
}

/// What a status of the codec should be. It calls a message that is too large `OutOfRange` or `ResourceExhausted`, which OTLP clients
/// take for temporary and send again for ever; and a body that is no message `Internal`, as if we had failed.
fn corrected(status: &HeaderValue) -> Option<(Code, &'static str)> {
    match Code::from_bytes(status.as_bytes()) {
        Code::OutOfRange | Code::ResourceExhausted => Some((Code::InvalidArgument, "too-large")),
        Code::Internal | Code::Cancelled | Code::Unknown => Some((Code::InvalidArgument, "malformed")),
        Code::Unimplemented => Some((Code::Unimplemented, "unsupported-encoding")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What will never be accepted must not look temporary.
    #[test]
    fn codec_statuses_are_corrected() {
        let corrected = |code: Code| corrected(&HeaderValue::from(i32::from(code))).map(|(code, _)| code);
        for code in [Code::OutOfRange, Code::ResourceExhausted, Code::Internal] {
            assert_eq!(corrected(code), Some(Code::InvalidArgument));
        }
        for code in [Code::Ok, Code::InvalidArgument, Code::Unavailable] {
            assert_eq!(corrected(code), None);
        }
    }

    /// A fully accepted request leaves the partial success unset, as OTLP wants it.
    #[test]
    fn partial_success_only_for_rejected_points() {
        assert_eq!(response(0, String::new()).partial_success, None);
        let partial = response(3, "3 unknown-metric".to_owned()).partial_success.unwrap();
        assert_eq!((partial.rejected_data_points, partial.error_message.as_str()), (3, "3 unknown-metric"));
    }
}
