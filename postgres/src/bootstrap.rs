//! The SQL that sets the heartbeat table up and takes it away, and the look around before either.

mod preflight;

use std::fmt::Write;

use lagmesh_model::beat::LAYOUT;

use crate::layout::{COMMENT_START, TABLE_SQL};

pub use preflight::{Finding, Preflight, SAFE_ORDER, preflight};

/// For whom the table is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapOptions {
    /// The role that owns schema and table; nobody logs in with it.
    pub owner: String,
    /// The role with which agents log in.
    pub agent: String,
    /// A role that only reads, for those who watch standbys with a login of their own.
    pub reader: Option<String>,
    /// The largest number of sessions of each login role: eight for an agent that writes, reads and
    /// measures every commit level, two or three for a second agent, and a spare one.
    pub connection_limit: u16,
    /// Leaves out the guard that stops before publications; for those who have followed [`SAFE_ORDER`].
    pub despite_publications: bool,
}

impl Default for BootstrapOptions {
    fn default() -> BootstrapOptions {
        BootstrapOptions {
            owner: "lagmesh_owner".to_owned(),
            agent: "lagmesh".to_owned(),
            reader: None,
            connection_limit: 12,
            despite_publications: false,
        }
    }
}

/// The SQL that creates roles, schema, table and grants; applying it again changes nothing. It holds no password.
pub fn bootstrap_sql(options: &BootstrapOptions) -> String {
    let mut sql = header(options);
    sql += &role(&options.owner, "NOLOGIN", "It owns the schema and the table, so that no login role can change them.");
    sql += &membership(&options.owner);
    sql +=
        &role(&options.agent, "LOGIN", "Agents log in with it. Give it a password with: \\password (in psql), or a certificate.");
    sql += &login_settings(&options.agent, options.connection_limit);
    sql += &table(&identifier(&options.owner));
    sql += "-- SELECT to read beats, INSERT for the fixed rows of a start, UPDATE for each beat, DELETE for the rows of earlier starts.\n";
    sql += &grants(&options.agent, "SELECT, INSERT, UPDATE, DELETE");
    if let Some(reader) = &options.reader {
        sql += &role(reader, "LOGIN", "It only reads. Give it a password with: \\password (in psql), or a certificate.");
        sql += &login_settings(reader, options.connection_limit);
        sql += &grants(reader, "SELECT");
    }
    sql + "COMMIT;\n"
}

/// The SQL that removes all that [`bootstrap_sql`] made. It stops if something else depends on it.
pub fn uninstall_sql(options: &BootstrapOptions) -> String {
    let mut sql = format!(
        "\
-- lagmesh uninstall, layout {LAYOUT}. Run it as a superuser or as the one who ran the bootstrap, in the same database:
--   psql -v ON_ERROR_STOP=1 -d DATABASE -f uninstall.sql
-- Stop the agents first, and wait until subscribers have applied their last rows. With logical replication run it on the publisher
-- first, then on the subscribers. Roles belong to the whole server: where another database has a lagmesh schema too, DROP ROLE says
-- so and nothing is changed.
BEGIN;
SET LOCAL lock_timeout = '5s';
SET LOCAL synchronous_commit = local;

DROP TABLE IF EXISTS lagmesh.beat;
DROP SCHEMA IF EXISTS lagmesh;

"
    );
    for name in options.reader.iter().chain([&options.agent, &options.owner]) {
        // The only grant that does not go with the table, the schema or the role itself.
        let grantee = literal(name);
        write!(
            sql,
            "\
DO $lagmesh$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {grantee}) THEN
        EXECUTE pg_catalog.format('REVOKE ALL ON DATABASE %I FROM %I', pg_catalog.current_database(), {grantee});
    END IF;
END
$lagmesh$;
DROP ROLE IF EXISTS {};

",
            identifier(name)
        )
        .expect("a string takes any text");
    }
    sql + "COMMIT;\n"
}

fn header(options: &BootstrapOptions) -> String {
    let mut sql = format!(
        "\
-- lagmesh bootstrap, layout {LAYOUT}. Run it as a superuser, or as a role that may create roles, create schemas in this database and
-- grant pg_monitor; in the database that the fleet file names, on the writer (standbys get it by replication):
--   psql -v ON_ERROR_STOP=1 -d DATABASE -f bootstrap.sql
-- It can be run again at any time. It sets no password.
BEGIN;
-- Never wait long for a lock, and never for a synchronous standby.
SET LOCAL lock_timeout = '5s';
SET LOCAL synchronous_commit = local;

"
    );
    if !options.despite_publications {
        sql += &publication_guard();
    }
    sql
}

/// Stops where the first beat would stop a subscriber's apply, and tells what to do.
fn publication_guard() -> String {
    format!(
        "\
-- A subscriber that gets a row for a table that it does not have stops applying anything. Where publications would take the table in by
-- themselves, the table has to exist on the subscribers first: this block then stops everything and tells the safe order of steps.
DO $lagmesh$
DECLARE
    found text;
    in_schema text;
BEGIN
    IF pg_catalog.to_regclass('lagmesh.beat') IS NULL THEN
        SELECT pg_catalog.string_agg(pubname, ', ') INTO found FROM pg_catalog.pg_publication WHERE puballtables;
        IF pg_catalog.to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL THEN
            EXECUTE 'SELECT pg_catalog.string_agg(p.pubname, '', '') FROM pg_catalog.pg_publication p
                     JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid
                     JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid WHERE n.nspname = ''lagmesh''' INTO in_schema;
        END IF;
        IF found IS NOT NULL OR in_schema IS NOT NULL THEN
            RAISE EXCEPTION 'publication % would take lagmesh.beat in before its subscribers have it',
                pg_catalog.concat_ws(', ', found, in_schema)
                USING HINT = {};
        END IF;
    END IF;
END
$lagmesh$;

",
        literal(&format!("the safe order of steps: {SAFE_ORDER}"))
    )
}

fn role(name: &str, login: &str, why: &str) -> String {
    format!(
        "\
-- {why}
DO $lagmesh$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {}) THEN
        CREATE ROLE {} {login} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
END
$lagmesh$;

",
        literal(name),
        identifier(name)
    )
}

fn login_settings(name: &str, connection_limit: u16) -> String {
    let name = identifier(name);
    format!(
        "\
-- An agent in trouble cannot take the connections of others, wait for locks, run for long or hold a snapshot.
ALTER ROLE {name} CONNECTION LIMIT {connection_limit};
ALTER ROLE {name} SET lock_timeout = '500ms';
ALTER ROLE {name} SET statement_timeout = '5s';
ALTER ROLE {name} SET idle_in_transaction_session_timeout = '10s';
-- The session of a host that vanished, and the lock that goes with it, is gone within half a minute.
ALTER ROLE {name} SET tcp_keepalives_idle = 10;
ALTER ROLE {name} SET tcp_keepalives_interval = 5;
ALTER ROLE {name} SET tcp_keepalives_count = 3;
-- Names mean the system's own objects, whatever else the database holds.
ALTER ROLE {name} SET search_path = pg_catalog;

"
    )
}

/// The one who runs the SQL must be a member of the owner to give it anything.
fn membership(owner: &str) -> String {
    let owner = literal(owner);
    format!(
        "\
-- The one who runs this must be a member of the owner to give it the schema; a superuser is one already.
DO $lagmesh$
BEGIN
    IF NOT pg_catalog.pg_has_role(current_user, {owner}, 'USAGE') THEN
        EXECUTE pg_catalog.format('GRANT %I TO %I', {owner}, current_user);
    END IF;
END
$lagmesh$;

"
    )
}

fn table(owner: &str) -> String {
    format!(
        "\
CREATE SCHEMA IF NOT EXISTS lagmesh AUTHORIZATION {owner};
-- Nobody but those named below may look inside.
REVOKE ALL ON SCHEMA lagmesh FROM PUBLIC;

{TABLE_SQL};
ALTER TABLE lagmesh.beat OWNER TO {owner};
COMMENT ON TABLE lagmesh.beat IS '{COMMENT_START}{LAYOUT}: heartbeat rows, written and removed by lagmesh-agent';
REVOKE ALL ON lagmesh.beat FROM PUBLIC;

"
    )
}

/// What a login role gets, with `rights` on the table.
fn grants(name: &str, rights: &str) -> String {
    format!(
        "\
GRANT {rights} ON lagmesh.beat TO {quoted};
-- To reach the table at all.
GRANT USAGE ON SCHEMA lagmesh TO {quoted};
-- pg_stat_replication and pg_stat_wal_receiver show their columns only to members of pg_monitor. It reads no table of yours, but its members see the query texts of other sessions.
GRANT pg_monitor TO {quoted};
-- To log in where PUBLIC may not.
DO $lagmesh$
BEGIN
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %I', pg_catalog.current_database(), {name});
END
$lagmesh$;

",
        quoted = identifier(name),
        name = literal(name),
    )
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}
