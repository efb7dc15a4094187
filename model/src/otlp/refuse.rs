//! Why something that came in was not taken.

use std::fmt;

macro_rules! rejections {
    ($($(#[$doc:meta])* $variant:ident = $word:literal;)+) => {
        /// Why one data point was rejected; the rest of its request is taken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rejection { $($(#[$doc])* $variant,)+ }

        impl Rejection {
            /// Every reason.
            pub const ALL: &'static [Rejection] = &[$(Rejection::$variant),+];

            /// The word in metrics and answers.
            pub fn as_str(self) -> &'static str {
                match self { $(Rejection::$variant => $word),+ }
            }
        }
    };
}

rejections! {
    /// The resource claims to be no agent's.
    NotAnAgent = "not-an-agent";
    /// The catalogue has no metric of this name.
    UnknownMetric = "unknown-metric";
    /// The metric is of another kind (gauge, counter, histogram), or its value of another type.
    WrongKind = "wrong-kind";
    /// The metric has another unit.
    WrongUnit = "wrong-unit";
    /// Counters and histograms are cumulative, and counters only grow.
    WrongTemporality = "wrong-temporality";
    /// The attributes are not exactly those of the catalogue, each once and a string.
    WrongAttributes = "wrong-attributes";
    /// An attribute's value is longer than allowed.
    AttributeTooLong = "attribute-too-long";
    /// There is no value, or it is marked as not recorded.
    NoValue = "no-value";
    /// A value that is no finite number.
    NonFinite = "non-finite";
    /// A count or duration below zero.
    Negative = "negative";
    /// The times are missing, out of order, out of range, or not those of the batch.
    ImpossibleTime = "impossible-time";
    /// A histogram coarser than scale 5, finer than scale 20, or with a wide zero bucket.
    ForeignScale = "foreign-scale";
    /// More buckets than allowed.
    BucketSpan = "bucket-span";
    /// A bucket below 1 ns or beyond 2^64 ns.
    BucketRange = "bucket-range";
    /// The buckets do not add up to the count.
    CountMismatch = "count-mismatch";
    /// More values than anything can have counted.
    CountTooLarge = "count-too-large";
    /// The sum is missing or more than the count allows.
    ImpossibleSum = "impossible-sum";
    /// The smallest value is above the largest.
    MinAboveMax = "min-above-max";
    /// The smallest or largest value lies outside the buckets.
    ImpossibleExtremes = "impossible-extremes";
    /// The exporter names more series than any of this fleet can have.
    TooManySeries = "too-many-series";
    /// The series came before in the same batch.
    Duplicate = "duplicate";
    /// The request has more points than allowed; those beyond were not looked at.
    TooManyPoints = "too-many-points";
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a whole request was refused: nobody can say whose numbers these are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A resource lacks an attribute of the exporter's identity.
    #[error("resource attribute {0} is missing: send with lagmesh-agent, and keep its resource attributes on the way")]
    Missing(&'static str),
    /// An attribute of the exporter's identity cannot be read.
    #[error("resource attribute {name} is wrong: {why}")]
    Malformed {
        /// Which attribute.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The same batch stands in the request twice, so one of them would be taken for a retry.
    #[error("batch {sequence} of agent {agent} stands in one request twice")]
    RepeatedBatch {
        /// Whose.
        agent: String,
        /// Which.
        sequence: u64,
    },
    /// More resources than allowed.
    #[error("the request has {count} resources, {max} are allowed: send fewer batches at once")]
    TooManyBatches {
        /// How many there are.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
}

impl Refusal {
    /// The word in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Refusal::Missing(_) => "identity-missing",
            Refusal::Malformed { .. } => "identity-malformed",
            Refusal::RepeatedBatch { .. } => "repeated-batch",
            Refusal::TooManyBatches { .. } => "too-many-batches",
        }
    }
}
