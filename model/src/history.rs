//! The course of a metric and its baseline, as a collector tells them on `/v1/history` and `/v1/baseline`. Times are RFC 3339 text, values are in
//! the metric's unit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::known::Known;

/// The course of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Which metric of the catalogue.
    pub metric: String,
    /// Its unit in UCUM; of a histogram that of its values.
    pub unit: String,
    /// From when.
    pub from: String,
    /// To before when.
    pub to: String,
    /// From one point to the next [s].
    pub step_s: u64,
    /// How wide the buckets are from which that was added up [s].
    pub bucket_s: u64,
    /// From when on these buckets are whole, if any were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_since: Option<String>,
    /// The series of which anything is known.
    pub series: Vec<Course>,
}

/// The course of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Its attributes by name.
    pub attributes: BTreeMap<String, String>,
    /// Its points in order. Steps of which nothing is known have none.
    pub points: Vec<Point>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When it begins.
    pub at: String,
    /// What is known of it.
    #[serde(flatten)]
    pub numbers: Numbers,
    /// If anything in it was counted over more than a minute, as after an outage whose backlog has not come: at most over how long [s].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_s: Option<u64>,
}

/// What is known of one series within a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Numbers {
    /// Of a counter.
    Counter {
        /// How far it grew.
        increase: u64,
    },
    /// Of a histogram.
    Histogram {
        /// How many values came.
        count: u64,
        /// Their sum.
        sum: f64,
        /// Their median; absent, as the others, if none came.
        p50: Option<f64>,
        /// The 90th percentile.
        p90: Option<f64>,
        /// The 99th percentile.
        p99: Option<f64>,
        /// The upper end of the bucket of the largest: at most 2.2 % above it.
        max: Option<f64>,
    },
    /// Of a gauge.
    Gauge {
        /// How many reports came.
        count: u64,
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
        /// The last.
        last: f64,
        /// Of a state: the share of the reports in which it held [0, 1].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        share: Option<f64>,
    },
}

/// The last hour against the same hour before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// When the hour that is compared begins.
    pub from: String,
    /// When it ends.
    pub to: String,
    /// The series of which anything is known.
    pub series: Vec<Baseline>,
}

/// The last hour of one series against the same hour before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Which metric of the catalogue.
    pub metric: String,
    /// Its attributes by name.
    pub attributes: BTreeMap<String, String>,
    /// The last hour.
    pub now: Hour,
    /// How long before the other hour was: `week` or `day`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// The other hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Hour>,
    /// The median now over that of then.
    pub p50_ratio: Known<f64>,
    /// The same of the 99th percentile.
    pub p99_ratio: Known<f64>,
}

/// The distribution of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Hour {
    /// How many values came.
    pub samples: u64,
    /// Their median [s]; absent if none came.
    pub p50_s: Option<f64>,
    /// The 99th percentile [s].
    pub p99_s: Option<f64>,
}
