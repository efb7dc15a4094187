//! Numbers as people read them: three digits and a unit.

/// A time in its natural unit: `71.2 ms`, `1.04 s`, `12m 05s`.
pub fn seconds(value_s: f64) -> String {
    let size_s = value_s.abs();
    match size_s {
        _ if !value_s.is_finite() => "not a number".to_owned(),
        // A 59.96 would otherwise print as 60.0 s beside 1m 00s.
        _ if size_s >= 59.95 => long(value_s),
        _ if size_s >= 0.999_5 => format!("{} s", three_digits(value_s)),
        _ if size_s >= 0.000_999_5 => format!("{} ms", three_digits(value_s * 1e3)),
        _ => format!("{} µs", three_digits(value_s * 1e6)),
    }
}

/// An age or a span: whole seconds, or coarser; digits below would only say when one looked.
pub fn span(value_s: f64) -> String {
    match value_s {
        _ if !value_s.is_finite() => "not a number".to_owned(),
        // Reports and looks come twice a second at most: less is this moment.
        _ if value_s.abs() < 1.0 => "<1 s".to_owned(),
        _ if value_s.abs() < 59.5 => format!("{value_s:.0} s"),
        _ => long(value_s),
    }
}

fn long(value_s: f64) -> String {
    let sign = if value_s < 0.0 { "-" } else { "" };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and beyond 2^64 s it saturates")]
    let whole_s = value_s.abs().round() as u64;
    let (days, hours, minutes, seconds) = (whole_s / 86_400, whole_s / 3600 % 24, whole_s / 60 % 60, whole_s % 60);
    match (days, hours) {
        (0, 0) => format!("{sign}{minutes}m {seconds:02}s"),
        (0, _) => format!("{sign}{hours}h {minutes:02}m"),
        _ => format!("{sign}{days}d {hours:02}h"),
    }
}

/// A size in binary units: `512 B`, `12.3 KiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// A share of one: `0 %`, `0.12 %`, `100 %`. What is not nothing and not all never looks like it.
pub fn share(part: u64, whole: u64) -> String {
    let percent = part as f64 * 100.0 / whole as f64;
    match percent {
        _ if part == 0 => "0 %".to_owned(),
        _ if part == whole => "100 %".to_owned(),
        _ if percent < 0.01 => "<0.01 %".to_owned(),
        _ if percent > 99.9 => ">99.9 %".to_owned(),
        _ => format!("{} %", three_digits(percent)),
    }
}

/// `server_version_num` as PostgreSQL names its versions.
pub fn server_version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

fn three_digits(value: f64) -> String {
    let size = value.abs();
    let decimals = if size >= 99.95 {
        0
    } else if size >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every time is shown in its natural unit, also around the edges of one, and a negative one keeps its sign.
    #[test]
    fn times() {
        for (value_s, text) in [
            (0.000_000_85, "0.85 µs"),
            (0.000_071_2, "71.2 µs"),
            (0.000_999_6, "1.00 ms"),
            (0.071_2, "71.2 ms"),
            (0.167_9, "168 ms"),
            (0.999_6, "1.00 s"),
            (1.04, "1.04 s"),
            (59.94, "59.9 s"),
            (59.96, "1m 00s"),
            (725.0, "12m 05s"),
            (4.5 * 3600.0, "4h 30m"),
            (50.0 * 3600.0, "2d 02h"),
            (-0.002, "-2.00 ms"),
            (-90.0, "-1m 30s"),
            (f64::NAN, "not a number"),
        ] {
            assert_eq!(seconds(value_s), text);
        }
    }

    /// Spans have no digits below a second, and none looks like nothing.
    #[test]
    fn spans() {
        let table =
            [(0.0, "<1 s"), (0.99, "<1 s"), (1.4, "1 s"), (59.4, "59 s"), (59.5, "1m 00s"), (725.0, "12m 05s"), (-3.2, "-3 s")];
        for (value_s, text) in table {
            assert_eq!(span(value_s), text);
        }
    }

    /// Sizes and shares keep three digits; a little loss never looks like none.
    #[test]
    fn sizes_and_shares() {
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (12_595, "12.3 KiB"), (1_048_576, "1.00 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(count), text);
        }
        for ((part, whole), text) in
            [((0, 9), "0 %"), ((9, 9), "100 %"), ((1, 100_000), "<0.01 %"), ((1, 960), "0.10 %"), ((9999, 10_000), ">99.9 %")]
        {
            assert_eq!(share(part, whole), text);
        }
        assert_eq!(server_version(160_004), "16.4");
    }
}
