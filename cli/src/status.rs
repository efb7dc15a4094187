//! `lagmesh status`: what a collector or an agent says now.

use std::io::Write;
use std::time::Duration;

use lagmesh_model::status::{AgentStatus, FleetStatus};

use crate::Failure;
use crate::fetch::{COLLECTOR, Credentials, Source};
use crate::output::Output;
use crate::table::{self, Style, Tone};
use crate::terminal;

/// Where an agent serves, if nobody says otherwise.
const AGENT: &str = "http://127.0.0.1:8621";

const HELP_URL: &str = "The base URL of a collector or an agent [env: LAGMESH_URL] [default: http://127.0.0.1:8622]";
const HELP_LOCAL: &str =
    "Ask the agent on this machine, http://127.0.0.1:8621, in place of a collector; with --url an agent there";

/// Show what a collector or an agent says now: regions, links, replication, nodes
///
/// What is not known is shown as "unknown", with the reason below the table; it is never shown as 0.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  lagmesh status                                      the collector on this machine
  lagmesh status --url https://collector.example:8622
  lagmesh status --local                              the agent on this machine: works with every collector dead
  lagmesh status --watch                              again and again, until Ctrl-C
  lagmesh status -o json | jq '.replications[].state'

Exit codes: 0 shown, 1 nobody answers, 64 wrong command line.")]
pub(crate) struct Args {
    /// The base URL of a collector or an agent
    #[arg(long, value_name = "URL", help = HELP_URL)]
    url: Option<String>,

    /// Ask an agent in place of a collector
    #[arg(long, help = HELP_LOCAL)]
    local: bool,

    /// Show it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    watch: Option<u16>,

    /// How to show it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Output,

    /// What to show, and whom to believe.
    #[command(flatten)]
    credentials: Credentials,
}

pub(crate) async fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let url = base(args, std::env::var("LAGMESH_URL").ok().filter(|url| !url.is_empty()));
    let source = Source::new(&url, "/v1/status", &[], &args.credentials)?;
    let Some(every_s) = args.watch else {
        let body = source.fetch().await?;
        out.write_all(show(&body, args.output, terminal::style())?.as_bytes())?;
        return Ok(());
    };
    let mut ticks = tokio::time::interval(Duration::from_secs(every_s.into()));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
        let style = terminal::style();
        // Whoever watches through an outage wants to see its end.
        let shown = source.fetch().await.and_then(|body| show(&body, args.output, style));
        let text = shown.unwrap_or_else(|failure| format!("{}\n", Tone::Bad.paint(&failure.to_string(), style)));
        let text = if style.width.is_some() && args.output == Output::Table { redrawn(&text) } else { text };
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
}

/// Text over what stood there before. The screen is never cleared as a whole, which would flicker.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

/// Whom to ask. The environment names the usual collector, so `--local` passes over it.
fn base(args: &Args, environment: Option<String>) -> String {
    let default = || if args.local { AGENT.to_owned() } else { COLLECTOR.to_owned() };
    args.url.clone().or(environment.filter(|_| !args.local)).unwrap_or_else(default)
}

/// A status of either kind: a collector's names regions, an agent's names the agent.
fn show(body: &[u8], output: Output, style: Style) -> Result<String, Failure> {
    let foreign = |error: serde_json::Error| {
        Failure::Refused(format!(
            "the answer is no lagmesh status ({error}); does the URL name a collector or an agent of this version?"
        ))
    };
    let value: serde_json::Value = serde_json::from_slice(body).map_err(foreign)?;
    match output {
        Output::Json => Ok(format!("{value:#}\n")),
        Output::Table if value.get("regions").is_some() => {
            serde_json::from_value::<FleetStatus>(value).map(|status| table::fleet(&status, style)).map_err(foreign)
        }
        Output::Table => serde_json::from_value::<AgentStatus>(value).map(|status| table::agent(&status, style)).map_err(foreign),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the command line says goes before the environment, and `--local` with `--url` is an agent elsewhere.
    #[test]
    fn whom_to_ask() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let asked = |line: &[&str], environment: Option<&str>| {
            let line = <Line as clap::Parser>::parse_from([&["status"], line].concat());
            base(&line.args, environment.map(str::to_owned))
        };
        assert_eq!(asked(&[], None), COLLECTOR);
        assert_eq!(asked(&[], Some("http://env:1")), "http://env:1");
        assert_eq!(asked(&["--local"], Some("http://env:1")), AGENT);
        assert_eq!(asked(&["--local", "--url", "http://[::1]:9"], Some("http://env:1")), "http://[::1]:9");
        assert_eq!(asked(&["--url", "http://flag:2"], Some("http://env:1")), "http://flag:2");
    }

    /// The two kinds of status are told apart by what they hold; anything else is an error that says what to do.
    #[test]
    fn kinds() {
        let collector = r#"{"fleet":"f","version":"1","at":0,"regions":[],"regions_reporting":0,"links":[],"nodes":[],"replications":[],"clusters":[]}"#;
        assert!(show(collector.as_bytes(), Output::Table, Style::PLAIN).unwrap().starts_with("fleet f · collector 1"));
        let agent = r#"{"fleet":"f","region":"r","agent":"a","boot":"0000000000000007","version":"1","at":0,"links":[],"nodes":[],"replications":[],"exports":[]}"#;
        assert!(show(agent.as_bytes(), Output::Table, Style::PLAIN).unwrap().contains("agent a"));
        for other in ["", "[]", "{}", "<html>"] {
            let error = show(other.as_bytes(), Output::Table, Style::PLAIN).unwrap_err().to_string();
            assert!(error.contains("does the URL name"), "{error}");
        }
    }
}
