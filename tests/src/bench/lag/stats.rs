//! Means, spreads, ranks, and the frontier of polling. Pure.

/// What optimal polls reach on average, by the standard deviation of what they wait for and the queries they may ask
/// (`2.07 s / (Q - 1/2)`, for a normal distribution).
const FRONTIER: f64 = 2.07;

/// The mean; `None` of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of a sample; `None` of fewer than two.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The value of nearest rank; `None` of nothing. `share` in (0, 1].
pub(super) fn rank(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the values")]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// How wide the interval of visibility is at best on average, in the unit of its arguments; `None` if half a query or less is asked for
/// each beat, which finds nothing.
pub(super) fn frontier(deviation: f64, queries: f64, poll: f64) -> Option<f64> {
    (queries > 0.5).then(|| FRONTIER * deviation / (queries - 0.5) + poll)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and spread of a sample; what is too few for them has none.
    #[test]
    fn spreads() {
        assert_eq!((mean(&[1.0, 2.0, 6.0]), deviation(&[1.0, 3.0])), (Some(3.0), Some(2.0_f64.sqrt())));
        assert_eq!((mean(&[]), deviation(&[1.0])), (None, None));
    }

    /// A rank is one of the values, whatever their order.
    #[test]
    fn ranks() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!([0.9, 0.99, 1.0].map(|share| rank(&values, share)), [Some(180.0), Some(198.0), Some(200.0)]);
        assert_eq!((rank(&[7.0], 0.01), rank(&[], 0.5)), (Some(7.0), None));
    }

    /// The formula: six queries for a spread of 1 ms reach 0.38 ms plus the poll itself.
    #[test]
    fn frontiers() {
        let best = frontier(1.0, 6.0, 0.3).unwrap();
        assert!((best - 0.676).abs() < 0.001, "{best}");
        assert_eq!(frontier(1.0, 0.5, 0.3), None);
    }
}
