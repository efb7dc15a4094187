//! End-to-end tests: the real programs, real PostgreSQL servers, a real Prometheus, a real browser.

mod agent_deaths;
mod agent_killed;
mod agent_troubles;
mod back_ends;
mod collector_deaths;
mod collector_outage;
mod collector_pairs;
mod collector_troubles;
mod database_trouble;
mod dead_letters;
mod demo_program;
mod documents;
mod forward;
mod otlp_clients;
mod page;
mod prometheus;
mod recording;
mod replication_faults;
mod rules;
mod scrape;
mod security;
mod status_command;
mod support;
mod tls;
