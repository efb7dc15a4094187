//! What a scraper would rather read.

/// Whether a request's `Accept` likes protobuf at least as much as any text. Who says nothing, or takes anything, gets text: people do.
pub(super) fn prefers_protobuf(accept: Option<&str>) -> bool {
    let (mut protobuf, mut other) = (0.0_f64, 0.0_f64);
    for range in accept.unwrap_or_default().split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut quality, mut families, mut delimited) = (1.0, false, false);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match (name.trim().to_ascii_lowercase().as_str(), value.trim().trim_matches('"')) {
                ("q", value) => quality = value.parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0),
                ("proto", value) => families = value == "io.prometheus.client.MetricFamily",
                ("encoding", value) => delimited = value == "delimited",
                _ => {}
            }
        }
        if media.eq_ignore_ascii_case("application/vnd.google.protobuf") && families && delimited {
            protobuf = protobuf.max(quality);
        } else if is_text(media) {
            other = other.max(quality);
        }
    }
    protobuf > 0.0 && protobuf >= other
}

fn is_text(media: &str) -> bool {
    ["application/openmetrics-text", "text/plain", "text/*", "*/*"].iter().any(|text| media.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protobuf goes to who asks for it in the form that we have, and ranks it first; everybody else gets text.
    #[test]
    fn negotiation() {
        const DELIMITED: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        let yes = [
            DELIMITED.to_owned(),
            format!(
                "{DELIMITED};q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
            ),
            format!("{DELIMITED},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
            format!("text/html, {}", DELIMITED.replace(';', " ; ")),
        ];
        let no = [
            String::new(),
            "*/*".to_owned(),
            "application/openmetrics-text; version=1.0.0,text/plain;q=0.5".to_owned(),
            format!("{DELIMITED};q=0.3,text/plain;q=0.4"),
            format!("{DELIMITED};q=0"),
            format!("{DELIMITED};q=NaN"),
            DELIMITED.replace("delimited", "text"),
            DELIMITED.replace("MetricFamily", "Metric"),
            "application/vnd.google.protobuf".to_owned(),
        ];
        for accept in &yes {
            assert!(prefers_protobuf(Some(accept)), "{accept}");
        }
        for accept in &no {
            assert!(!prefers_protobuf(Some(accept)), "{accept}");
        }
        assert!(!prefers_protobuf(None));
    }
}
