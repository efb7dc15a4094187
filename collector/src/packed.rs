//! Bodies as they travel and as they are kept: decompressed as a stream with a hard end, so that a bomb costs no more than an honest
//! body. Pure.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use lagmesh_model::otlp::{self, ExportMetricsServiceRequest, Limits};
use lagmesh_model::series::Batch;
use prost::Message as _;

/// A zstd frame may ask its reader for a window of this size at most [log2 of bytes]: 8 MiB, what RFC 8878 recommends to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The largest body after decompression [bytes].
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is packed here is written often and seldom read: speed counts.
const ZSTD_LEVEL: i32 = 1;
/// What a gzip member (RFC 1952) begins with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// One batch as it is kept: an OTLP request compressed with gzip or zstd, which shows in its first bytes. Agents compress; their bodies
/// are kept as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed(Vec<u8>);

impl Packed {
    /// A body that holds nothing but the batch; `message` is what is in it.
    pub(crate) fn keep(encoding: Encoding, body: Vec<u8>, message: &[u8]) -> Packed {
        match encoding {
            Encoding::Identity => Packed(pack(message)),
            Encoding::Gzip | Encoding::Zstd => Packed(body),
        }
    }

    /// The batch packed anew.
    pub fn of(batch: &Batch) -> Packed {
        Packed(pack(&otlp::encode(batch).encode_to_vec()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The batch that was packed into `bytes`; `None` if they are no good.
    pub fn batch(bytes: &[u8]) -> Option<Batch> {
        let encoding = if bytes.starts_with(&GZIP_MAGIC) { Encoding::Gzip } else { Encoding::Zstd };
        let message = unpack(encoding, bytes, MESSAGE_BYTES_MAX).ok()?;
        let request = ExportMetricsServiceRequest::decode(message.as_slice()).ok()?;
        otlp::decode(request, &Limits::default()).ok()?.batches.pop()
    }
}

impl Encoding {
    /// The encoding of a `Content-Encoding` header; `None` for one that is not supported.
    pub(crate) fn of(header: Option<&str>) -> Option<Encoding> {
        match header.map_or("identity", str::trim) {
            word if word.eq_ignore_ascii_case("identity") || word.is_empty() => Some(Encoding::Identity),
            word if word.eq_ignore_ascii_case("gzip") => Some(Encoding::Gzip),
            word if word.eq_ignore_ascii_case("zstd") => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// Bytes compressed with zstd, for [`unpack`].
pub(crate) fn pack(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, ZSTD_LEVEL).expect("memory takes what is written to it")
}

/// Why a body could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadBody {
    #[error("the body is larger than {0} bytes after decompression: send smaller batches")]
    TooLarge(usize),
    #[error("the body is not what its content encoding says: {0}")]
    Corrupt(io::Error),
}

/// The body without its compression, at most `bytes_max` of it.
pub(crate) fn unpack(encoding: Encoding, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, BadBody> {
    match encoding {
        Encoding::Identity if body.len() > bytes_max => Err(BadBody::TooLarge(bytes_max)),
        Encoding::Identity => Ok(body.to_vec()),
        Encoding::Gzip => read(MultiGzDecoder::new(body), bytes_max),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(BadBody::Corrupt)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(BadBody::Corrupt)?;
            read(decoder, bytes_max)
        }
    }
}

fn read(stream: impl Read, bytes_max: usize) -> Result<Vec<u8>, BadBody> {
    let mut unpacked = Vec::new();
    stream.take(bytes_max as u64 + 1).read_to_end(&mut unpacked).map_err(BadBody::Corrupt)?;
    if unpacked.len() > bytes_max { Err(BadBody::TooLarge(bytes_max)) } else { Ok(unpacked) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(data, 1).unwrap()
    }

    proptest! {
        /// Whatever was packed comes out again up to the limit, and beyond the limit nothing does.
        #[test]
        fn packed_comes_out(data in proptest::collection::vec(any::<u8>(), 0..4096), limit in 1_usize..4096) {
            for (encoding, body) in [(Encoding::Identity, data.clone()), (Encoding::Gzip, gzip(&data)), (Encoding::Zstd, zstd(&data))] {
                match unpack(encoding, &body, limit) {
                    Ok(unpacked) => prop_assert!(unpacked == data && data.len() <= limit),
                    Err(BadBody::TooLarge(_)) => prop_assert!(data.len() > limit),
                    Err(e) => prop_assert!(false, "{e}"),
                }
            }
        }

        /// Random bytes never panic and never grow beyond the limit.
        #[test]
        fn noise_is_harmless(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            for encoding in [Encoding::Gzip, Encoding::Zstd] {
                if let Ok(unpacked) = unpack(encoding, &body, 1024) {
                    prop_assert!(unpacked.len() <= 1024);
                }
            }
        }
    }

    /// Bombs and truncated bodies are refused, each for its reason; several gzip members are one body.
    #[test]
    fn bombs_and_stumps() {
        let zeros = vec![0; 1 << 20];
        for (encoding, bomb) in [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd(&zeros))] {
            assert!(bomb.len() < 8192);
            assert!(matches!(unpack(encoding, &bomb, 4096), Err(BadBody::TooLarge(4096))));
            assert!(matches!(unpack(encoding, &bomb[..bomb.len() / 2], 1 << 21), Err(BadBody::Corrupt(_))));
        }
        let two = [gzip(b"ab"), gzip(b"cd")].concat();
        assert_eq!(unpack(Encoding::Gzip, &two, 100).unwrap(), b"abcd");
    }

    /// Headers name encodings in any case; others are not supported.
    #[test]
    fn encodings() {
        assert_eq!(Encoding::of(None), Some(Encoding::Identity));
        assert_eq!(Encoding::of(Some("GZIP")), Some(Encoding::Gzip));
        assert_eq!(Encoding::of(Some("zstd")), Some(Encoding::Zstd));
        assert_eq!(Encoding::of(Some("br")), None);
        assert_eq!(Encoding::of(Some("gzip, zstd")), None);
    }

    /// A batch comes out of what is kept as it went in, however its body came.
    #[test]
    fn batches_come_out() {
        let mut batch = crate::fixture::Says::new("a", 3).rtt("b", 7, 20).batch();
        batch.series.sort_by_key(|series| series.metric.name);
        let message = otlp::encode(&batch).encode_to_vec();
        let bodies = [(Encoding::Identity, message.clone()), (Encoding::Gzip, gzip(&message)), (Encoding::Zstd, zstd(&message))];
        for (encoding, body) in bodies {
            assert_eq!(Packed::batch(Packed::keep(encoding, body, &message).as_bytes()).as_ref(), Some(&batch), "{encoding:?}");
        }
        assert_eq!(Packed::batch(Packed::of(&batch).as_bytes()), Some(batch));
        assert_eq!(Packed::batch(b"nonsense"), None);
    }
}
