//! Values of a scenario file: spans of time with a sign, subjects, lists of words.

use std::time::Duration;

use lagmesh_model::document::{Found, Section, text};
use toml::de::DeValue;

const HOW: &str = "write a span of time in quotes, such as \"250ms\", \"5s\" or \"-744s\"";

/// A span of time, negative or zero where that makes sense [ns].
///
/// # Errors
/// What is wrong with it.
pub(super) fn span_ns(value: &DeValue<'_>) -> Result<i64, String> {
    let written = text(value).map_err(|error| format!("{error}; {HOW}"))?;
    let (sign, amount) = match written.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, written.as_str()),
    };
    let span: Duration = humantime::parse_duration(amount).map_err(|_| format!("{written:?} is no span of time; {HOW}"))?;
    i64::try_from(span.as_nanos()).map(|ns| sign * ns).map_err(|_| format!("{written:?} is too long"))
}

/// A span of time that is not negative [ns].
///
/// # Errors
/// What is wrong with it.
pub(super) fn length_ns(value: &DeValue<'_>) -> Result<u64, String> {
    u64::try_from(span_ns(value)?).map_err(|_| "must not be negative".to_owned())
}

/// A list of texts, or one text alone.
///
/// # Errors
/// What is wrong with it.
pub(super) fn words(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::Array(values) => values.iter().map(|value| text(value.get_ref())).collect(),
        other => text(other).map(|word| vec![word]).map_err(|_| "must be text in quotes, or a list of texts".to_owned()),
    }
}

/// A list of exactly two values, each read by `read`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn pair<T>(value: &DeValue<'_>, read: impl Fn(&DeValue<'_>) -> Result<T, String>) -> Result<(T, T), String> {
    match value {
        DeValue::Array(values) => match values.iter().collect::<Vec<_>>()[..] {
            [first, second] => Ok((read(first.get_ref())?, read(second.get_ref())?)),
            _ => Err(format!("must hold two values, lower and upper, not {}", values.len())),
        },
        _ => Err("must be a list of two values, lower and upper".to_owned()),
    }
}

/// A moment or length of the run; `default` if it is not written [ns].
pub(super) fn length_or(section: &Section<'_>, key: &str, default: u64) -> Found<u64> {
    Ok(section.get(key, length_ns)?.unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: &str) -> Result<i64, String> {
        let text = format!("a = {written}");
        let table = toml::de::DeTable::parse(&text).unwrap().into_inner();
        let value = table.values().next().unwrap().get_ref();
        span_ns(value)
    }

    /// Spans carry their sign and their unit; a bare number has none and is refused.
    #[test]
    fn spans() {
        assert_eq!(read("\"-744s\""), Ok(-744_000_000_000));
        assert_eq!(read("\"250ms\""), Ok(250_000_000));
        assert_eq!(read("\"0s\""), Ok(0));
        for wrong in ["5", "\"5\"", "\"fast\"", "\"--5s\"", "\"900000h 99999999999999h\""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
