use super::*;

fn durations() -> impl Strategy<Value = Exponential> {
    let ns = prop_oneof![9 => 1_000..3_600_000_000_000_u64, 1 => Just(0), 1 => 1..u64::from(u32::MAX)];
    vec(ns, 0..40).prop_map(|values| histogram(&values))
}

/// Any number of series of any metrics, each once, in the order of the wire.
fn batches() -> impl Strategy<Value = Batch> {
    let value = (any::<f64>().prop_filter("finite", |x| x.is_finite()), 0..=i64::MAX.cast_unsigned(), durations(), any::<i64>());
    let key = (0..CATALOGUE.len(), "[a-z\"\\\\ é]{0,6}");
    btree_map(key, value, 1..30).prop_map(|all| {
        let one = |((which, label), (gauge, counter, durations, whole)): ((usize, String), _)| {
            let metric: &'static Metric = CATALOGUE[which];
            let attributes = attributes(metric, &label);
            match metric.kind {
                Kind::Gauge => Series::gauge(metric, attributes, gauge),
                Kind::Counter => Series::counter(metric, attributes, counter),
                Kind::Histogram => Series::histogram(metric, attributes, durations),
                Kind::Whole => Series::whole(metric, attributes, whole),
            }
        };
        let mut series: Vec<Series> = all.into_iter().map(one).collect();
        series.sort_by_key(|one| one.metric);
        // A metric without attributes has one series, whatever the label.
        series.dedup_by(|one, before| one.metric == before.metric && one.attributes == before.attributes);
        batch(series)
    })
}

/// Whatever was taken can be used in every way.
fn use_all(decoded: &Decoded) {
    let mut all = Exponential::new();
    for one in decoded.batches.iter().flat_map(|batch| &batch.series) {
        assert!(one.attributes.fit(one.metric));
        if let Value::Histogram(histogram) = &one.value {
            all.merge(histogram);
            assert_eq!(histogram.quantiles().is_some(), !histogram.is_empty());
            assert!(histogram.memory_bytes() < 20_000);
        }
    }
    assert_eq!(all.quantiles().is_some(), !all.is_empty());
}

proptest! {
    /// What is sent is what arrives, through the bytes of the wire.
    #[test]
    fn round_trip(batch in batches()) {
        let bytes = encode(&batch).encode_to_vec();
        let decoded = decode(ExportMetricsServiceRequest::decode(&bytes[..]).unwrap(), &Limits::default()).unwrap();
        prop_assert_eq!(decoded, Decoded { batches: vec![batch], rejected: [].into() });
    }

    /// Sums beyond the exact range are still close, and keep their order, so that a later sum is never below an earlier one.
    #[test]
    fn large_sums_keep_their_order(one in 1..u64::MAX / 4, more in 0..u64::MAX / 4, times in 1..9_usize) {
        let travelled = |histogram: &Exponential| {
            let labels = attributes(&catalogue::LINK_RTT, "x");
            let request = encode(&batch(vec![Series::histogram(&catalogue::LINK_RTT, labels, histogram.clone())]));
            let decoded = decode(request, &Limits::default()).unwrap();
            match &decoded.batches[0].series[0].value {
                Value::Histogram(histogram) => (**histogram).clone(),
                other => panic!("{other:?}"),
            }
        };
        let earlier = histogram(&vec![one; times]);
        let mut later = earlier.clone();
        later.record_ns(more);
        let (sent, earlier, later) = (later.sum_ns(), travelled(&earlier), travelled(&later));
        prop_assert!(later.sum_ns().abs_diff(sent) <= sent >> 51);
        prop_assert_eq!(later.since(&earlier).map(|difference| difference.count()), Some(1));
    }

    /// Bytes that were damaged anywhere are no message, are refused, or give batches that can be used: never a panic.
    #[test]
    fn damaged_bytes_do_no_harm(
        batch in batches(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut bytes = encode(&batch).encode_to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len())));
        if let Ok(request) = ExportMetricsServiceRequest::decode(&bytes[..]) && let Ok(decoded) = decode(request, &Limits::default()) {
            use_all(&decoded);
        }
    }

    /// A point of any shape is rejected or can be used: never a panic.
    #[test]
    fn hostile_histograms_do_no_harm(
        scale in prop_oneof![any::<i32>(), 5..=20],
        offset in prop_oneof![any::<i32>(), -2000..2000, i32::MAX - 60..=i32::MAX, i32::MIN..i32::MIN + 60],
        bucket_counts in vec(prop_oneof![0..3_u64, any::<u64>()], 0..50),
        (zero_count, off) in (0..3_u64, prop_oneof![9 => Just(0), 1 => any::<u64>()]),
        (min, sum, max) in any::<(Option<f64>, Option<f64>, Option<f64>)>(),
    ) {
        let mut request = encode(&small());
        let point = histogram_of(&mut request);
        point.count = bucket_counts.iter().fold(zero_count.wrapping_add(off), |sum, count| sum.wrapping_add(*count));
        (point.scale, point.zero_count, point.min, point.sum, point.max) = (scale, zero_count, min, sum, max);
        point.positive = Some(Buckets { offset, bucket_counts });
        use_all(&decode(request, &Limits::default()).unwrap());
    }

    /// A histogram of a finer scale arrives with every bucket in the one of ours that holds it, and nothing else changed.
    #[test]
    fn finer_scales_are_brought_to_ours(finer in 1..=15_i32, start in -200..0_i32, counts in vec(0..9_u64, 1..300)) {
        let mut request = encode(&small());
        let point = histogram_of(&mut request);
        let offset = start << finer;
        point.scale = Exponential::SCALE + finer;
        point.zero_count = 1;
        point.count = 1 + counts.iter().sum::<u64>();
        (point.min, point.max, point.sum) = (None, None, Some(0.0));
        point.positive = Some(Buckets { offset, bucket_counts: counts.clone() });
        let decoded = decode(request, &Limits::default()).unwrap();
        let Value::Histogram(histogram) = &decoded.batches[0].series[HISTOGRAM].value else { panic!("no histogram") };

        let mut expected = std::collections::BTreeMap::new();
        for (index, count) in (offset..).zip(counts).filter(|(_, count)| *count > 0) {
            *expected.entry(index.div_euclid(1 << finer)).or_insert(0) += count;
        }
        prop_assert_eq!(histogram.buckets().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    }
}
