//! A batch in the form in which it is kept and posted.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use lagmesh_model::ids::{AgentName, BootId};
use lagmesh_model::otlp;
use lagmesh_model::series::Batch;
use lagmesh_model::time::Reading;
use prost::Message as _;

/// One batch as it will be posted: an OTLP `ExportMetricsServiceRequest` in protobuf, compressed with gzip.
///
/// (agent, boot, sequence) identifies it: whoever gets it twice can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// Who made it.
    pub agent: AgentName,
    /// In which run of the agent.
    pub boot: BootId,
    /// Its number within the run [1 and up].
    pub sequence: u64,
    /// When it was made.
    pub made: Reading,
    /// The body of the request.
    pub body: Bytes,
}

impl Parcel {
    /// Packs a batch that was made at `made`.
    ///
    /// # Errors
    /// If the compressor fails, which it does not when it writes to memory.
    pub fn pack(batch: &Batch, made: Reading) -> io::Result<Parcel> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&otlp::encode(batch).encode_to_vec())?;
        Ok(Parcel {
            agent: batch.exporter.agent.clone(),
            boot: batch.exporter.boot,
            sequence: batch.sequence,
            made,
            body: gzip.finish()?.into(),
        })
    }

    /// The size of the body [bytes].
    pub fn bytes(&self) -> u64 {
        self.body.len() as u64
    }
}
