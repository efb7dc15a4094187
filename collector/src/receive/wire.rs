//! The few messages of `google.rpc` that OTLP answers use.

use std::time::Duration;

use prost::Message as _;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// What asks a client to come back.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

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
        self.details.push(Any { type_url: RETRY_INFO.to_owned(), value: info.encode_to_vec() });
        self
    }
}

/// As protobuf's JSON mapping has it. Of the details only waits are said; we make no others.
impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let delay = |any: &Any| RetryInfo::decode(any.value.as_slice()).ok()?.retry_delay;
        let wait = |delay: Delay| serde_json::json!({ "@type": RETRY_INFO, "retryDelay": format!("{}s", delay.seconds) });
        let details: Vec<serde_json::Value> = self.details.iter().filter_map(delay).map(wait).collect();
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("code", &self.code)?;
        fields.serialize_entry("message", &self.message)?;
        if !details.is_empty() {
            fields.serialize_entry("details", &details)?;
        }
        fields.end()
    }
}
