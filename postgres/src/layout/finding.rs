//! Whether the table is there, is ours, and may be used.

use std::fmt;

use lagmesh_model::beat::LAYOUT;
use tokio_postgres::{Client, Error};

use super::{COLUMNS, COMMENT_START};

/// What a session wants to do with the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Read beats.
    Read,
    /// Write them too.
    Write,
}

/// The state of the heartbeat layout in one database. Its `Display` says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutFinding {
    /// All is well.
    Ready,
    /// There is no schema `lagmesh`.
    NoSchema,
    /// There is a schema, but no table.
    NoTable,
    /// `lagmesh.beat` is not a plain table that is written to the log and has a primary key.
    NotTheTable {
        /// What it is instead.
        why: &'static str,
    },
    /// The table is of another version, or nobody's.
    OtherLayout {
        /// Its version, if its comment says one.
        found: Option<i16>,
    },
    /// Columns are missing or have another type.
    Columns {
        /// Each as `name type`.
        missing: Vec<String>,
    },
    /// The role may not do what it has to.
    MissingGrants {
        /// The role.
        role: String,
        /// Each as it stands in a GRANT.
        grants: Vec<&'static str>,
    },
}

impl LayoutFinding {
    /// Whether the table can be used.
    pub fn is_ready(&self) -> bool {
        *self == LayoutFinding::Ready
    }
}

impl fmt::Display for LayoutFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayoutFinding::Ready => write!(f, "lagmesh.beat is ready (layout {LAYOUT})"),
            LayoutFinding::NoSchema => {
                f.write_str("there is no schema lagmesh in this database; run lagmesh bootstrap on the writer")
            }
            LayoutFinding::NoTable => f.write_str("there is no table lagmesh.beat; run lagmesh bootstrap on the writer"),
            LayoutFinding::NotTheTable { why } => {
                write!(f, "lagmesh.beat {why}; rename or drop it and run lagmesh bootstrap on the writer")
            }
            LayoutFinding::OtherLayout { found: Some(found) } if *found > LAYOUT => {
                write!(f, "lagmesh.beat has layout {found}, this program knows {LAYOUT}; upgrade lagmesh here")
            }
            LayoutFinding::OtherLayout { found: Some(found) } => {
                write!(
                    f,
                    "lagmesh.beat has layout {found}, this program needs {LAYOUT}; run lagmesh bootstrap --uninstall, then bootstrap"
                )
            }
            LayoutFinding::OtherLayout { found: None } => {
                write!(f, "lagmesh.beat has no comment \"{COMMENT_START}{LAYOUT}\"; run lagmesh bootstrap on the writer")
            }
            LayoutFinding::Columns { missing } => {
                write!(f, "lagmesh.beat lacks {}; run lagmesh bootstrap --uninstall, then bootstrap", missing.join(", "))
            }
            LayoutFinding::MissingGrants { role, grants } => {
                write!(f, "role {role} lacks {}; run lagmesh bootstrap on the writer, or grant it", grants.join(", "))
            }
        }
    }
}

/// Looks at the layout through the catalogue alone, so that missing grants are an answer and not an error.
///
/// # Errors
/// The server's.
pub async fn discover(client: &Client, need: Need) -> Result<LayoutFinding, Error> {
    let sql = "SELECT n.oid IS NOT NULL, c.relkind::text, c.relpersistence::text, pg_catalog.obj_description(c.oid, 'pg_class'), \
               ARRAY(SELECT a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a \
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
               EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), \
               pg_catalog.has_schema_privilege(n.oid, 'USAGE'), pg_catalog.has_table_privilege(c.oid, 'SELECT'), \
               pg_catalog.has_table_privilege(c.oid, 'INSERT'), pg_catalog.has_table_privilege(c.oid, 'UPDATE'), \
               pg_catalog.has_table_privilege(c.oid, 'DELETE'), current_user::text \
               FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'lagmesh' \
               LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'beat'";
    let row = client.query_typed_one(sql, &[]).await?;
    let facts = Facts {
        schema: row.try_get(0)?,
        kind: row.try_get(1)?,
        persistence: row.try_get(2)?,
        comment: row.try_get(3)?,
        columns: row.try_get(4)?,
        primary_key: row.try_get(5)?,
        grants: [row.try_get(6)?, row.try_get(7)?, row.try_get(8)?, row.try_get(9)?, row.try_get(10)?],
        role: row.try_get(11)?,
    };
    Ok(judge(facts, need))
}

/// What the catalogue says.
struct Facts {
    schema: bool,
    kind: Option<String>,
    persistence: Option<String>,
    comment: Option<String>,
    columns: Vec<String>,
    primary_key: bool,
    grants: [Option<bool>; 5],
    role: String,
}

/// The privileges in the order of `Facts::grants`; a reader needs the first two.
const GRANTS: [&str; 5] = [
    "USAGE ON SCHEMA lagmesh",
    "SELECT ON lagmesh.beat",
    "INSERT ON lagmesh.beat",
    "UPDATE ON lagmesh.beat",
    "DELETE ON lagmesh.beat",
];

fn judge(facts: Facts, need: Need) -> LayoutFinding {
    if !facts.schema {
        return LayoutFinding::NoSchema;
    }
    match (facts.kind.as_deref(), facts.persistence.as_deref()) {
        (None, _) => return LayoutFinding::NoTable,
        (Some("r"), Some("p")) if facts.primary_key => {}
        (Some("r"), Some("p")) => return LayoutFinding::NotTheTable { why: "has no primary key" },
        (Some("r"), _) => return LayoutFinding::NotTheTable { why: "is not logged, so it does not replicate" },
        (Some(_), _) => return LayoutFinding::NotTheTable { why: "is not a plain table" },
    }
    let found = facts.comment.as_deref().and_then(version);
    if found != Some(LAYOUT) {
        return LayoutFinding::OtherLayout { found };
    }
    let columns = COLUMNS.iter().map(|(name, kind)| format!("{name} {kind}"));
    let missing: Vec<_> = columns.filter(|column| !facts.columns.contains(column)).collect();
    if !missing.is_empty() {
        return LayoutFinding::Columns { missing };
    }
    let needed = match need {
        Need::Read => 2,
        Need::Write => GRANTS.len(),
    };
    let held = GRANTS.iter().zip(facts.grants).take(needed);
    let grants: Vec<_> = held.filter(|(_, held)| *held != Some(true)).map(|(grant, _)| *grant).collect();
    if grants.is_empty() { LayoutFinding::Ready } else { LayoutFinding::MissingGrants { role: facts.role, grants } }
}

/// The version in the table's comment.
fn version(comment: &str) -> Option<i16> {
    let rest = comment.strip_prefix(COMMENT_START)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            schema: true,
            kind: Some("r".to_owned()),
            persistence: Some("p".to_owned()),
            comment: Some("lagmesh layout 1: heartbeats".to_owned()),
            columns: COLUMNS.iter().map(|(name, kind)| format!("{name} {kind}")).collect(),
            primary_key: true,
            grants: [Some(true); 5],
            role: "ann".to_owned(),
        }
    }

    /// Every way in which the layout can be wrong has its own finding, and the finding says what to do.
    #[test]
    fn findings() {
        let with = |change: fn(&mut Facts)| {
            let mut facts = good();
            change(&mut facts);
            judge(facts, Need::Write)
        };
        assert!(with(|_| ()).is_ready());
        let table = [
            (with(|facts| facts.schema = false), "run lagmesh bootstrap"),
            (with(|facts| facts.kind = None), "run lagmesh bootstrap"),
            (with(|facts| facts.kind = Some("v".to_owned())), "is not a plain table"),
            (with(|facts| facts.persistence = Some("u".to_owned())), "does not replicate"),
            (with(|facts| facts.primary_key = false), "no primary key"),
            (with(|facts| facts.comment = None), "has no comment"),
            (with(|facts| facts.comment = Some("lagmesh layout 2".to_owned())), "upgrade lagmesh"),
            (with(|facts| facts.comment = Some("lagmesh layout 0".to_owned())), "--uninstall"),
            (with(|facts| facts.columns.retain(|column| !column.starts_with("lsn"))), "lacks lsn pg_lsn"),
            (with(|facts| facts.grants[3] = Some(false)), "role ann lacks UPDATE ON lagmesh.beat"),
            (with(|facts| facts.grants[0] = None), "USAGE ON SCHEMA lagmesh"),
        ];
        for (finding, expected) in table {
            assert!(finding.to_string().contains(expected), "{finding}");
        }
    }

    /// A reader does not need the right to write.
    #[test]
    fn readers_need_less() {
        let mut facts = good();
        facts.grants = [Some(true), Some(true), Some(false), Some(false), Some(false)];
        assert!(judge(facts, Need::Read).is_ready());
    }
}
