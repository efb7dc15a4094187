//! Dashboards and alerts against the catalogue, and against a real Prometheus that scraped the collector.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::catalogue::{Attribute, CATALOGUE};
use lagmesh_tests::prometheus::{Prometheus, panels};
use lagmesh_tests::wait;
use promql_parser::parser::{self, Expr, LabelModifier};

use crate::support::{install_crypto, ready_world};

/// Labels that Prometheus itself adds.
const OF_PROMETHEUS: [&str; 5] = ["job", "instance", "le", "alertname", "alertstate"];
/// Series that Prometheus itself makes.
const SERIES_OF_PROMETHEUS: [&str; 3] = ["up", "ALERTS", "scrape_samples_scraped"];

#[derive(Default)]
struct Names {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

impl Names {
    fn collect(&mut self, expression: &Expr) {
        match expression {
            Expr::Aggregate(aggregate) => {
                self.modifier(aggregate.modifier.as_ref());
                self.collect(&aggregate.expr);
                if let Some(parameter) = &aggregate.param {
                    self.collect(parameter);
                }
            }
            Expr::Unary(unary) => self.collect(&unary.expr),
            Expr::Paren(paren) => self.collect(&paren.expr),
            Expr::Subquery(subquery) => self.collect(&subquery.expr),
            Expr::Binary(binary) => {
                if let Some(modifier) = &binary.modifier {
                    self.modifier(modifier.matching.as_ref());
                    if let Some(labels) = modifier.card.labels() {
                        self.labels.extend(labels.labels.iter().cloned());
                    }
                }
                self.collect(&binary.lhs);
                self.collect(&binary.rhs);
            }
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            Expr::Call(call) => call.args.args.iter().for_each(|argument| self.collect(argument)),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
        }
    }

    fn modifier(&mut self, modifier: Option<&LabelModifier>) {
        if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = modifier {
            self.labels.extend(labels.labels.iter().cloned());
        }
    }

    fn selector(&mut self, selector: &parser::VectorSelector) {
        self.metrics.extend(selector.name.clone());
        self.labels.extend(selector.matchers.matchers.iter().map(|matcher| matcher.name.clone()));
    }
}

/// Every expression of dashboards and rules uses only names and labels of the catalogue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_use_only_the_catalogue() -> Result<()> {
    install_crypto();
    let folder = tempfile::tempdir()?;
    let rules = Prometheus::start(folder.path(), None).await?.rules().await?;
    ensure!(rules.iter().any(|rule| rule["type"] == "alerting"), "no alert was loaded");
    let mut expressions: Vec<(String, String)> = panels()?.into_iter().map(|panel| (panel.title, panel.expression)).collect();
    for rule in &rules {
        let query = rule["query"].as_str().context("a rule without a query")?;
        expressions.push((rule["name"].to_string(), query.to_owned()));
    }
    let recorded = rules.iter().filter(|rule| rule["type"] == "recording").filter_map(|rule| rule["name"].as_str());
    let mut metrics: BTreeSet<String> = CATALOGUE.iter().flat_map(|metric| metric.prometheus_series_names()).collect();
    metrics.extend(recorded.map(str::to_owned));
    metrics.extend(SERIES_OF_PROMETHEUS.map(str::to_owned));
    let mut labels: BTreeSet<String> = Attribute::ALL.iter().map(|attribute| attribute.as_str().to_owned()).collect();
    labels.extend(OF_PROMETHEUS.map(str::to_owned));
    for (place, expression) in expressions {
        let parsed = parser::parse(&expression).map_err(|error| anyhow::anyhow!("{place}: {expression}: {error}"))?;
        let mut used = Names::default();
        used.collect(&parsed);
        let foreign: Vec<_> = used.metrics.difference(&metrics).chain(used.labels.difference(&labels)).collect();
        ensure!(foreign.is_empty(), "{place} uses {foreign:?}, which the catalogue does not have: {expression}");
    }
    Ok(())
}

/// Every panel's query returns data from a Prometheus that scrapes the collector of a healthy fleet, every rule evaluates without
/// error, and no alert fires.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panels_have_data_and_nothing_fires() -> Result<()> {
    let world = ready_world("prometheus").await?;
    let folder = tempfile::tempdir()?;
    let page = world.page();
    let target = page.trim_start_matches("http://").trim_end_matches('/');
    let prometheus = Prometheus::start(folder.path(), Some(target)).await?;
    for panel in panels()? {
        wait::until(&format!("{} has data", panel.title), Duration::from_secs(45), || async {
            let series = prometheus.query(&panel.expression).await?;
            ensure!(!series.is_empty(), "nothing for {}", panel.expression);
            Ok(())
        })
        .await?;
    }
    for rule in prometheus.rules().await? {
        ensure!(rule["health"] == "ok" || rule["health"] == "unknown", "{}: {}", rule["name"], rule["lastError"]);
    }
    let firing = prometheus.query("ALERTS{alertstate=\"firing\", alertname!=\"LagmeshWatchdog\"}").await?;
    ensure!(firing.is_empty(), "alerts fire in a healthy fleet: {firing:?}");
    world.stop().await
}
