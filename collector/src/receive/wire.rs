//! The few messages of `google.rpc` that OTLP answers use.

use std::time::Duration;

use prost::Message as _;

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Status {
    pub(crate) fn new(code: tonic::Code, message: &str) -> Status {
        Status { code: code.into(), message: message.to_owned(), details: Vec::new() }
    }

    /// Asks the client to come back.
    pub(crate) fn retry_after(mut self, delay: Duration) -> Status {
        let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
        let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos: 0 }) };
        self.details.push(Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.encode_to_vec() });
        self
    }
}
