//! Bodies as they travel: decompressed as a stream with a hard end, so that a bomb costs no more than an honest body. Pure.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

/// A zstd frame may ask its reader for a window of this size at most [log2 of bytes]: 8 MiB, what RFC 8878 recommends to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// The encoding of a `Content-Encoding` header; `None` for one that is not supported.
    pub(super) fn of(header: Option<&str>) -> Option<Encoding> {
        match header.map_or("identity", str::trim) {
            word if word.eq_ignore_ascii_case("identity") || word.is_empty() => Some(Encoding::Identity),
            word if word.eq_ignore_ascii_case("gzip") => Some(Encoding::Gzip),
            word if word.eq_ignore_ascii_case("zstd") => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// Why a body could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadBody {
    #[error("the body is larger than {0} bytes after decompression: send smaller batches")]
    TooLarge(usize),
    #[error("the body is not what its content encoding says: {0}")]
    Corrupt(io::Error),
}

/// The body without its compression, at most `bytes_max` of it.
pub(super) fn unpack(encoding: Encoding, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, BadBody> {
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
}
