use super::checks::overtakers;
use super::table::{Row, print, quantile};

/// Rows fail when they should: a share beyond four standard deviations, a time beyond its tolerance, a count that is off by one.
#[test]
fn rows_fail() {
    assert!(Row::share("", 0.1, 1000, 137).pass && !Row::share("", 0.1, 1000, 139).pass && !Row::share("", 0.1, 1000, 61).pass);
    assert!(Row::time("", 100, 5, 95).pass && !Row::time("", 100, 5, 94).pass && !Row::time("", 100, 5, 106).pass);
    assert!(Row::exact("", 3, 3).pass && !Row::exact("", 3, 2).pass);
    assert!(!Row::share("", 0.0, 1000, 1).pass, "what never happens happened");
    let row = Row::exact("", 3, 2);
    assert!(row.failed() && !row.clone().of_run(2, 100).failed() && row.clone().of_run(1, 100).failed());
    assert!(!Row::exact("", 3, 3).of_run(2, 100).failed() && Row::exact("", 3, 3).of_run(2, 100).verdict() == "pass");
    let text = print(&[Row::exact("one", 1, 1), Row::exact("two", 2, 1)]);
    assert!(text.lines().nth(1).unwrap().ends_with("pass") && text.lines().nth(2).unwrap().ends_with("FAIL"), "{text}");
}

/// Who arrives before a lower number has overtaken it; those that were overtaken, and doubles, have not.
#[test]
fn who_overtook() {
    assert_eq!(overtakers(&[0, 1, 2, 3]), 0);
    assert_eq!(overtakers(&[0, 3, 1, 2]), 1);
    assert_eq!(overtakers(&[2, 3, 0, 1]), 2);
    assert_eq!(overtakers(&[0, 0, 1, 1]), 0);
}

/// A quantile is one of the values, and nothing has none.
#[test]
fn quantiles() {
    assert_eq!([0.0, 0.5, 1.0].map(|share| quantile(&mut [3, 1, 2], share)), [1, 2, 3]);
    assert_eq!(quantile(&mut [], 0.5), 0);
}
