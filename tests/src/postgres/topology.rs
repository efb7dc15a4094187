//! How servers replicate from each other.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{DATABASE, PATIENCE, REPLICA_ROLE, Server, ServerPlan, copy};
use crate::wait;

/// The first version that can keep rows that came by replication from being sent on.
const ORIGIN_NONE_SINCE: u32 = 16;

/// The table of the testbed's own that goes with every publication, for faults.
pub const ROWS_TABLE: &str = "testbed.rows";

/// The heartbeat table.
pub const BEAT_TABLE: &str = "lagmesh.beat";

/// Which standbys a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorum {
    /// The first so many of the list that are there.
    First(usize),
    /// Any so many of the list.
    Any(usize),
}

/// A subscription to be made.
#[derive(Debug, Clone, Default)]
pub struct Subscription {
    /// What is published on top of the heartbeat table and [`ROWS_TABLE`]; the tables exist on both servers.
    pub more_tables: Vec<String>,
    /// Whether the publisher subscribes to the subscriber too: rows that came by replication are then not sent back.
    pub both_ways: bool,
    /// Whether what is in the tables already is copied at the start.
    pub copy: bool,
}

impl Server {
    /// A streaming standby of `source` (a primary or itself a standby) with a physical slot of its own there, running.
    ///
    /// # Errors
    /// If the versions differ, the copy fails or the server does not start.
    pub async fn standby(plan: &ServerPlan, run: &Path, source: &Server) -> Result<Server> {
        let mut server = Server::prepare(&ServerPlan { version: plan.version.or(Some(source.version())), ..plan.clone() }, run)?;
        server.become_standby(source).await?;
        Ok(server)
    }

    /// Copies `source` and starts as its standby.
    pub(super) async fn become_standby(&mut self, source: &Server) -> Result<()> {
        ensure!(
            self.version() == source.version(),
            "a standby of version {} cannot follow a server of version {}",
            self.version(),
            source.version()
        );
        // The slot comes first, so that the source keeps the log which the copy needs.
        self.make_slot(source).await?;
        copy::copy_data(source, self).await.with_context(|| format!("copy {} to {}", source.name(), self.name()))?;
        self.configure()?;
        self.write_standby_files(source)?;
        self.start().await
    }

    /// Makes this standby follow another server; both hold the same history.
    ///
    /// # Errors
    /// If a server refuses.
    pub async fn follow(&self, source: &Server) -> Result<()> {
        self.make_slot(source).await?;
        self.set("primary_slot_name", &self.slot()).await?;
        self.set("primary_conninfo", &self.replication_conninfo(source)).await
    }

    /// Makes commits on this primary wait for `standbys`, at the given `synchronous_commit` (`on`, `remote_write`, `remote_apply`).
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn synchronous(&self, level: &str, quorum: Quorum, standbys: &[&str]) -> Result<()> {
        let names: Vec<String> = standbys.iter().map(|name| identifier(name)).collect();
        let (word, count) = match quorum {
            Quorum::First(count) => ("FIRST", count),
            Quorum::Any(count) => ("ANY", count),
        };
        self.set("synchronous_standby_names", &format!("{word} {count} ({})", names.join(", "))).await?;
        self.set("synchronous_commit", level).await
    }

    /// Makes commits on this primary wait for nobody.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn asynchronous(&self) -> Result<()> {
        self.set("synchronous_standby_names", "").await
    }

    /// Makes this standby replay each commit so long after it was made by the writer's wall clock; zero ends that.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn delay_apply(&self, delay: Duration) -> Result<()> {
        self.set("recovery_min_apply_delay", &format!("{}ms", delay.as_millis())).await
    }

    /// Changes a setting for good and makes the server read it.
    ///
    /// # Errors
    /// If the server refuses it.
    pub async fn set(&self, setting: &str, value: &str) -> Result<()> {
        // One at a time: ALTER SYSTEM refuses to run in the transaction of several statements.
        self.sql(&format!("ALTER SYSTEM SET {} = {}", identifier(setting), literal(value)), "postgres").await?;
        self.sql("SELECT pg_reload_conf()", "postgres").await?;
        Ok(())
    }

    /// Makes [`ROWS_TABLE`]; doing it again changes nothing.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn make_rows_table(&self) -> Result<()> {
        let sql = format!(
            "SET client_min_messages = warning; CREATE SCHEMA IF NOT EXISTS testbed; \
             CREATE TABLE IF NOT EXISTS {ROWS_TABLE} (id bigint PRIMARY KEY, writer text NOT NULL)"
        );
        self.app(&sql).await?;
        Ok(())
    }

    /// Subscribes to `publisher`, whose publication it makes, and waits until the tables are in step. Both have had the bootstrap SQL,
    /// so that no row arrives for a table that is not there. With `both_ways` it does the same in the other direction.
    ///
    /// # Errors
    /// If a server refuses or its version cannot do it.
    pub async fn subscribe(&self, publisher: &Server, plan: &Subscription) -> Result<()> {
        self.make_rows_table().await?;
        publisher.make_rows_table().await?;
        self.subscribe_one_way(publisher, plan).await?;
        if plan.both_ways {
            publisher.subscribe_one_way(self, &Subscription { copy: false, ..plan.clone() }).await?;
        }
        Ok(())
    }

    async fn subscribe_one_way(&self, publisher: &Server, plan: &Subscription) -> Result<()> {
        let oldest = self.version().min(publisher.version());
        if plan.both_ways && oldest < ORIGIN_NONE_SINCE {
            bail!(
                "PostgreSQL {oldest} cannot replicate logically both ways: `origin = none` needs {ORIGIN_NONE_SINCE} or later \
                 ({} <- {})",
                self.name(),
                publisher.name()
            );
        }
        publisher.publish(&plan.more_tables).await?;
        let name = self.subscription_name(publisher);
        let origin = if plan.both_ways { ", origin = none" } else { "" };
        let conninfo = format!(
            "host={} port={} user={REPLICA_ROLE} dbname={DATABASE} application_name={name}",
            publisher.address(),
            publisher.port()
        );
        let sql = format!(
            "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION testbed WITH (copy_data = {}{origin})",
            identifier(&name),
            literal(&conninfo),
            plan.copy
        );
        self.app(&sql).await.with_context(|| format!("subscribe {} to {}", self.name(), publisher.name()))?;
        wait::until(&format!("{name} is in step"), PATIENCE, || async {
            let behind = self.app("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'").await?;
            ensure!(behind.as_deref() == Some("0"), "{} tables are not in step", behind.unwrap_or_default());
            Ok(())
        })
        .await
    }

    /// The name of its subscription to `publisher`, and of the slot there.
    pub fn subscription_name(&self, publisher: &Server) -> String {
        format!("{}_from_{}", slot_name(self.name()), slot_name(publisher.name()))
    }

    /// Publishes the heartbeat table, [`ROWS_TABLE`] and more as publication `testbed`, naming each; doing it again changes nothing.
    async fn publish(&self, more_tables: &[String]) -> Result<()> {
        if self.app("SELECT 1 FROM pg_publication WHERE pubname = 'testbed'").await?.is_some() {
            return Ok(());
        }
        let mut tables = vec![BEAT_TABLE, ROWS_TABLE];
        tables.extend(more_tables.iter().map(String::as_str));
        let tables = tables.join(", ");
        // A copy at the start is read with this role.
        let sql = format!(
            "GRANT USAGE ON SCHEMA lagmesh, testbed TO {REPLICA_ROLE}; GRANT SELECT ON {tables} TO {REPLICA_ROLE}; \
             CREATE PUBLICATION testbed FOR TABLE {tables}"
        );
        self.app(&sql).await.with_context(|| format!("publish on {} (has it had the bootstrap SQL?)", self.name()))?;
        Ok(())
    }

    /// The name of the slot that it uses at the server it streams from.
    pub fn slot(&self) -> String {
        slot_name(self.name())
    }

    pub(super) async fn make_slot(&self, source: &Server) -> Result<()> {
        let slot = literal(&self.slot());
        let sql = format!(
            "SELECT pg_create_physical_replication_slot({slot}, true) \
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot})"
        );
        source.sql(&sql, "postgres").await.with_context(|| format!("make slot {slot} on {}", source.name()))?;
        Ok(())
    }

    fn replication_conninfo(&self, source: &Server) -> String {
        format!("host={} port={} user={REPLICA_ROLE} application_name={}", source.address(), source.port(), self.name())
    }

    pub(super) fn write_standby_files(&self, source: &Server) -> Result<()> {
        let settings = format!(
            "primary_conninfo = {}\nprimary_slot_name = {}\n",
            literal(&self.replication_conninfo(source)),
            literal(&self.slot())
        );
        for (name, text) in [("postgresql.auto.conf", settings.as_str()), ("standby.signal", "")] {
            let path = self.data().join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            self.give(&path)?;
        }
        Ok(())
    }
}

fn slot_name(name: &str) -> String {
    name.replace(['-', '.'], "_").to_lowercase()
}

/// A name in SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in SQL and in a settings file.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
