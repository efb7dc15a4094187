//! The handbook says what the programs say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lagmesh_model::state::{
    Axis, Basis, Bound, ClaimSource, CommitLevel, Direction, ForwardState, IcmpSocket, LinkState, NodeRole, NodeState, Outcome,
    PathCause, Phase, ProbeKind, RegionState, ReplicationState, RouteCause, SlotState, Stage, StampSource, Vote, WriteOutcome,
};
use lagmesh_tests::files;
use lagmesh_tests::prometheus::repository;

fn document(name: &str) -> Result<String> {
    fs::read_to_string(repository(name)).with_context(|| format!("read {name}"))
}

fn output(program: &str, args: &[&str]) -> Result<String> {
    // The environment of whoever runs the tests shows in the help.
    let output = Command::new(files::program(program)?).args(args).env_clear().output();
    let output = output.with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("output is not UTF-8")
}

/// `docs/metrics.md` ends with exactly what `lagmesh list-metrics -o markdown` prints.
#[test]
fn metrics_are_those_of_the_catalogue() -> Result<()> {
    let (page, printed) = (document("docs/metrics.md")?, output("lagmesh", &["list-metrics", "-o", "markdown"])?);
    ensure!(page.ends_with(&format!("\n\n{printed}")), "docs/metrics.md is out of date; the command in it brings it up to date");
    Ok(())
}

/// `docs/states.md` has every word with its meaning, says what to do about each state, and has no other words.
#[test]
fn states_are_those_of_the_model() -> Result<()> {
    macro_rules! words {
        ($($kind:ty),+) => { [$(<$kind>::ALL.iter().map(|word| (word.as_str(), word.explain())).collect::<Vec<_>>()),+] };
    }
    let page = document("docs/states.md")?;
    let states = words![ReplicationState, NodeState, LinkState, SlotState, RegionState, ForwardState];
    let others = words![
        Vote,
        Outcome,
        WriteOutcome,
        CommitLevel,
        ProbeKind,
        IcmpSocket,
        Direction,
        PathCause,
        RouteCause,
        StampSource,
        Phase,
        NodeRole,
        Axis,
        Stage,
        Bound,
        Basis,
        ClaimSource
    ];
    for (word, meaning) in states.iter().flatten() {
        let begin = format!("| `{word}` | {meaning} | ");
        let rest = page.lines().find_map(|line| line.strip_prefix(&begin));
        let advice = rest.with_context(|| format!("docs/states.md has no line that begins with: {begin}"))?;
        ensure!(advice.len() > " |".len(), "docs/states.md does not say what to do about {word}");
    }
    for (word, meaning) in others.iter().flatten() {
        let line = format!("| `{word}` | {meaning} |");
        ensure!(page.lines().any(|found| found == line), "docs/states.md has no line: {line}");
    }
    let lines = page.lines().filter(|line| line.starts_with("| `")).count();
    let words: usize = states.iter().chain(&others).map(Vec::len).sum();
    ensure!(lines == words, "docs/states.md has {lines} words, the programs have {words}");
    Ok(())
}

/// A flag of a program as its help shows it.
#[derive(Debug)]
struct Flag {
    variable: Option<String>,
    default: Option<String>,
}

/// The flags of a program by name.
fn flags(program: &str) -> Result<BTreeMap<String, Flag>> {
    let help = output(program, &["--help"])?;
    let mut flags = BTreeMap::new();
    let mut current = None;
    for line in help.lines().map(str::trim_start) {
        let bracketed = |start: &str| line.strip_prefix(start)?.strip_suffix(']').map(str::to_owned);
        // A line that begins with a flag is that flag's own: "--fleet <FILE>", "-h, --help".
        let name = line.split_whitespace().find(|word| word.starts_with("--"));
        if let Some(name) = name.filter(|_| line.starts_with('-')) {
            flags.insert(name.to_owned(), Flag { variable: None, default: None });
            current = Some(name.to_owned());
        } else if let Some(flag) = current.as_ref().and_then(|name: &String| flags.get_mut(name)) {
            if let Some(variable) = bracketed("[env: ") {
                flag.variable = Some(variable.trim_end_matches('=').to_owned());
            }
            flag.default = bracketed("[default: ").or(flag.default.take());
        }
    }
    flags.retain(|name, _| name != "--help" && name != "--version");
    Ok(flags)
}

/// What of a row of the readme's table stands in code style and begins like that.
fn quoted<'r>(row: &'r str, start: &str) -> BTreeSet<&'r str> {
    row.split('`').skip(1).step_by(2).filter(|text| text.starts_with(start)).collect()
}

/// The readme's table has every flag, variable and default of agent and collector, in the row of the program that they belong to,
/// and no other.
#[test]
fn readme_lists_every_flag() -> Result<()> {
    let readme = document("README.md")?;
    let section =
        readme.split("\n## ").find(|section| section.starts_with("Ports, flags and paths")).context("no such section")?;
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let programs = [("agent", flags("lagmesh-agent")?), ("collector", flags("lagmesh-collector")?)];
    for (program, flags) in &programs {
        let other = if *program == "agent" { "collector" } else { "agent" };
        ensure!(flags.len() > 5, "the help of lagmesh-{program} was not understood: {flags:?}");
        for (name, flag) in flags {
            // A row that names only the other program is not about this one.
            let ours = |row: &str| row.contains(program) || !row.contains(other);
            let row = rows.iter().find(|row| ours(row) && quoted(row, "--").contains(name.as_str()));
            let row = row.with_context(|| format!("README.md has no {name} of lagmesh-{program}"))?;
            let variable = flag.variable.as_deref().context("a flag without a variable")?;
            ensure!(quoted(row, "LAGMESH_").contains(variable), "README.md: {variable} is missing at {name}: {row}");
            if let Some(default) = &flag.default {
                ensure!(quoted(row, "").contains(default.as_str()), "README.md: {name} has the default {default}: {row}");
            }
        }
    }
    let known = |text: &str| {
        let mut all = programs.iter().flat_map(|(_, flags)| flags);
        all.any(|(name, flag)| name == text || flag.variable.as_deref() == Some(text))
    };
    for row in &rows {
        let unknown: Vec<&str> = quoted(row, "--").union(&quoted(row, "LAGMESH_")).copied().filter(|text| !known(text)).collect();
        ensure!(unknown.is_empty(), "README.md lists what no program knows: {unknown:?}");
    }
    Ok(())
}

/// Every file that a page of the handbook or the readme links to is there.
#[test]
fn links_lead_somewhere() -> Result<()> {
    let mut pages = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    for entry in fs::read_dir(repository("docs"))?.flatten() {
        pages.push(format!("docs/{}", entry.file_name().to_string_lossy()));
    }
    for page in &pages {
        let folder = repository(page).parent().context("a page stands in a folder")?.to_owned();
        for link in document(page)?.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link.to_owned())) {
            let target = link.split('#').next().unwrap_or_default();
            ensure!(link.starts_with("http") || folder.join(target).exists(), "{page} links to {link}, which is not there");
        }
    }
    let index = document("docs/README.md")?;
    for page in pages.iter().filter_map(|page| page.strip_prefix("docs/")).filter(|page| *page != "README.md") {
        ensure!(index.contains(&format!("({page})")), "docs/README.md does not list {page}");
    }
    Ok(())
}
