//! One figure as a line that machines read. Pure.

use std::fmt;

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    /// What it is.
    pub(super) name: &'static str,
    /// Of which case, if there are several.
    pub(super) case: Option<String>,
    /// In which unit, without spaces.
    pub(super) unit: &'static str,
    /// What we have.
    pub(super) ours: f64,
    /// Who else was measured in the same run, and what it has.
    pub(super) peer: Option<(&'static str, f64)>,
    /// What we want to reach.
    pub(super) target: f64,
}

impl Figure {
    /// A figure of ours alone.
    pub(super) fn new(name: &'static str, unit: &'static str, ours: f64, target: f64) -> Figure {
        Figure { name, case: None, unit, ours, peer: None, target }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bench {}", self.name)?;
        if let Some(case) = &self.case {
            write!(f, "/{case}")?;
        }
        write!(f, " unit={} ours={}", self.unit, digits(self.ours))?;
        if let Some((name, theirs)) = self.peer {
            write!(f, " peer={name}:{} ratio={}", digits(theirs), digits(self.ours / theirs))?;
        }
        write!(f, " target={}", digits(self.target))
    }
}

/// A number in plain digits, with about four that say something: of a share just below one those are what is missing.
fn digits(number: f64) -> String {
    let decimals = match number.abs() {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        0.99..1.0 => 6,
        _ => 4,
    };
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line is what machines read: one form, plain digits, the peer only where there is one.
    #[test]
    fn lines() {
        let figure = Figure::new("mesh.cut_s", "s", 2.345_67, 2.0);
        assert_eq!(figure.to_string(), "bench mesh.cut_s unit=s ours=2.3457 target=2");
        let figure = Figure {
            case: Some("2-peers".to_owned()),
            peer: Some(("fping", 48.0)),
            ..Figure::new("mesh.cpu_per_probe", "us", 12.0, 24.0)
        };
        let line = "bench mesh.cpu_per_probe/2-peers unit=us ours=12 peer=fping:48 ratio=0.25 target=24";
        assert_eq!(figure.to_string(), line);
    }

    /// Large numbers keep their zeros, small ones their digits.
    #[test]
    fn numbers() {
        let table = [
            (0.0, "0"),
            (50_000.0, "50000"),
            (123_456.7, "123457"),
            (100.0, "100"),
            (0.013_79, "0.0138"),
            (23.456, "23.46"),
            (0.999_967, "0.999967"),
            (1.0, "1"),
        ];
        for (number, text) in table {
            assert_eq!(digits(number), text);
        }
    }
}
