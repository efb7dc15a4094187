//! `lagmesh list-metrics`: the catalogue.

use std::io::Write;

use lagmesh_model::catalogue::{CATALOGUE, Kind, Metric, Source};

use crate::Failure;
use crate::table::{Cell, Grid};
use crate::terminal;

/// List every metric: its names, unit, attributes and what it is
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  lagmesh list-metrics
  lagmesh list-metrics -o markdown > metrics.md")]
pub(crate) struct Args {
    /// How to write the list
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Columns for people.
    Table,
    /// A table for documents.
    Markdown,
}

const HEAD: [&str; 7] = ["name", "Prometheus", "kind", "unit", "attributes", "made by", "what it is"];

pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let rows = CATALOGUE.iter().map(|metric| columns(metric));
    match args.output {
        Output::Table => {
            let mut grid = Grid::new(HEAD);
            rows.for_each(|row| grid.push(row.into_iter().map(Cell::plain).collect()));
            out.write_all(grid.render(terminal::style()).as_bytes())?;
        }
        Output::Markdown => {
            writeln!(out, "| {} |\n|{}", HEAD.join(" | "), "---|".repeat(HEAD.len()))?;
            for [name, prometheus, rest @ ..] in rows {
                writeln!(out, "| `{name}` | `{prometheus}` | {} |", rest.map(|text| text.replace('|', "\\|")).join(" | "))?;
            }
        }
    }
    Ok(())
}

fn columns(metric: &Metric) -> [String; 7] {
    let kind = match metric.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
        Kind::Whole => "whole",
    };
    let source = match metric.source {
        Source::Agent => "agent",
        Source::Collector => "collector",
    };
    let attributes: Vec<&str> = metric.attributes.iter().map(|attribute| attribute.as_str()).collect();
    let prometheus = if metric.kind == Kind::Whole { "not shown".to_owned() } else { metric.prometheus_name() };
    let texts = [metric.name, &prometheus, kind, metric.unit.ucum(), &attributes.join(", "), source, metric.help];
    texts.map(str::to_owned)
}
