//! `lagmesh history`: the course of a metric, and the last hour against the same hour before.

mod table;

use std::io::Write;

use crate::Failure;
use crate::fetch::{COLLECTOR, Credentials, Source};
use crate::output::Output;
use crate::terminal;

const HELP_URL: &str = "The base URL of a collector [default: http://127.0.0.1:8622]";

/// Show the course of a metric as a collector has it, or the last hour against the same hour a week ago
///
/// Steps of which nothing is known are gaps; they are never shown as 0.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  lagmesh history lagmesh.link.rtt region=tokyo kind=stamp
  lagmesh history lagmesh.link.rtt region=tokyo peer=paris kind=stamp --from -2d --step 1h
  lagmesh history lagmesh.replication.lag node=tokyo-db bound=estimate --from 2026-08-30T12:00:00Z --to 2026-08-30T13:00:00Z
  lagmesh history --baseline region=tokyo             is this hour slower than the same hour a week ago?
  lagmesh history lagmesh.link.probes -o json | jq '.series[].points[-1]'

Exit codes: 0 shown, 1 nobody answers or the question is refused, 64 wrong command line.")]
pub(crate) struct Args {
    /// The metric (lagmesh list-metrics has all), and NAME=VALUE for each attribute that its series must have
    #[arg(value_name = "METRIC|NAME=VALUE")]
    words: Vec<String>,

    /// Compare the last hour with the same hour a week ago, or yesterday, in place of a course
    #[arg(long, conflicts_with_all = ["from", "to", "step"])]
    baseline: bool,

    /// From when: -6h, or 2026-08-30T12:00:00Z [default: six hours before the end]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,

    /// To when [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,

    /// From one point to the next: 10s, 5m, 1h [default: what makes a picture]
    #[arg(long, value_name = "DURATION")]
    step: Option<String>,

    /// The base URL of a collector
    #[arg(long, env = "LAGMESH_URL", value_name = "URL", hide_env_values = true, help = HELP_URL)]
    url: Option<String>,

    /// How to show it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Output,

    /// What to show, and whom to believe.
    #[command(flatten)]
    credentials: Credentials,
}

pub(crate) async fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let words = words(args)?;
    let path = if args.baseline { "/v1/baseline" } else { "/v1/history" };
    let base = args.url.as_deref().filter(|url| !url.is_empty()).unwrap_or(COLLECTOR);
    let body = Source::new(base, path, &words, &args.credentials)?.fetch().await?;
    out.write_all(show(&body, args, terminal::style())?.as_bytes())?;
    Ok(())
}

/// The words of the URL. Words with an equals sign choose series, the other one is the metric.
fn words(args: &Args) -> Result<Vec<(String, String)>, Failure> {
    let (mut words, mut metric) = (Vec::new(), None);
    for word in &args.words {
        match word.split_once('=') {
            Some((name, value)) => words.push((name.to_owned(), value.to_owned())),
            None if metric.is_none() => metric = Some(word.clone()),
            None => return Err(Failure::Usage("one metric at a time; attributes are written NAME=VALUE")),
        }
    }
    if metric.is_none() && !args.baseline {
        return Err(Failure::Usage("name a metric, for example: lagmesh history lagmesh.link.rtt; lagmesh list-metrics has all"));
    }
    let options = [("metric", &metric), ("from", &args.from), ("to", &args.to), ("step", &args.step)];
    let given = options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
    Ok(given.chain(words).collect())
}

fn show(body: &[u8], args: &Args, style: crate::table::Style) -> Result<String, Failure> {
    let foreign = |error: serde_json::Error| {
        Failure::Refused(format!("the answer is no history ({error}); does the URL name a collector of this version?"))
    };
    match (args.output, args.baseline) {
        (Output::Json, _) => {
            let value: serde_json::Value = serde_json::from_slice(body).map_err(foreign)?;
            Ok(format!("{value:#}\n"))
        }
        (Output::Table, true) => serde_json::from_slice(body).map(|told| table::baselines(&told, style)).map_err(foreign),
        (Output::Table, false) => serde_json::from_slice(body).map(|told| table::history(&told, style)).map_err(foreign),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(written: &[&str]) -> Args {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        <Line as clap::Parser>::parse_from([&["history"], written].concat()).args
    }

    /// The command line becomes the words of the URL; a mistake is told before anybody is asked.
    #[test]
    fn what_is_asked() {
        let asked = words(&line(&["lagmesh.link.rtt", "peer=b", "--from", "-6h", "--step", "5m"])).unwrap();
        let asked: Vec<String> = asked.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(asked, ["metric=lagmesh.link.rtt", "from=-6h", "step=5m", "peer=b"]);
        assert_eq!(words(&line(&["--baseline"])).unwrap(), []);
        for wrong in [&["peer=b"][..], &["a", "b"]] {
            assert!(matches!(words(&line(wrong)), Err(Failure::Usage(_))));
        }
    }

    /// What no collector says is refused, with what to do.
    #[test]
    fn foreign_answers() {
        for body in ["", "{}", "<html>"] {
            let error = show(body.as_bytes(), &line(&["m"]), crate::table::Style::PLAIN).unwrap_err().to_string();
            assert!(error.contains("does the URL name"), "{error}");
        }
    }
}
