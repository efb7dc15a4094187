//! A look at a connection string, as far as needed to keep secrets out of the fleet file. Connecting is not done here.

/// Why a connection string may not stand in the fleet file. Never repeats the text: it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadDsn {
    #[error("is empty; write a connection string such as \"host=db.example dbname=postgres user=lagmesh\"")]
    Empty,
    #[error("holds {0}, but secrets never stand in the fleet file; put it into .pgpass or PGPASSWORD and take it out here")]
    Secret(String),
    #[error("is not a connection string: {0}")]
    Shape(&'static str),
}

/// libpq's parameters whose values are secrets.
const SECRETS: [&str; 4] = ["password", "sslpassword", "oauth_client_secret", "scram_client_key"];

/// Whether a connection string or URI may stand in the fleet file.
pub(super) fn check(dsn: &str) -> Result<(), BadDsn> {
    if dsn.trim().is_empty() {
        return Err(BadDsn::Empty);
    }
    let keys = match dsn.strip_prefix("postgresql://").or_else(|| dsn.strip_prefix("postgres://")) {
        Some(rest) => uri_keys(rest)?,
        None => pair_keys(dsn)?,
    };
    match keys.iter().find(|key| SECRETS.contains(&key.as_str())) {
        Some(key) => Err(BadDsn::Secret(format!("a {key}"))),
        None => Ok(()),
    }
}

/// The parameter names of `user:password@host/database?key=value&…`.
fn uri_keys(rest: &str) -> Result<Vec<String>, BadDsn> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split('/').next().unwrap_or(place);
    let mut keys = Vec::new();
    // A password may hold an unescaped `/`, so the whole place is searched for `@`.
    let user = place.rsplit_once('@').or_else(|| authority.rsplit_once('@')).map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) {
        keys.push("password".to_owned());
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, _) = pair.split_once('=').ok_or(BadDsn::Shape("a parameter after '?' has no '='"))?;
        keys.push(unescape(key));
    }
    Ok(keys)
}

/// The parameter names of `key = value key='quoted value' …`, with libpq's rules for quotes and backslashes.
fn pair_keys(dsn: &str) -> Result<Vec<String>, BadDsn> {
    let mut keys = Vec::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(BadDsn::Shape("a word without '='"))?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(BadDsn::Shape("a word without '='"));
        }
        keys.push(key.to_owned());
        rest = skip_value(after.trim_start())?.trim_start();
    }
    Ok(keys)
}

/// What follows a value.
fn skip_value(text: &str) -> Result<&str, BadDsn> {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return Ok(&text[at + 1..]),
            c if !quoted && c.is_whitespace() => return Ok(&text[at..]),
            _ => {}
        }
    }
    if quoted { Err(BadDsn::Shape("a quote is not closed")) } else { Ok("") }
}

/// A URI's `%70` and the like turned back, so that no name of a parameter hides.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way of libpq to write a connection without a secret is accepted.
    #[test]
    fn good() {
        for dsn in [
            "host=db.example port=5432 dbname=app user=lagmesh sslmode=verify-full",
            "host = '/var/run/my postgres' options='-c search_path=a\\'b'",
            "passfile=/etc/lagmesh/pgpass service=app",
            "postgresql://lagmesh_agent@db.example:5432/app?sslmode=verify-full",
            "postgres://db1:5432,db2:5432/app",
            "postgres://%2Fvar%2Frun/app",
        ] {
            assert_eq!(check(dsn), Ok(()), "{dsn}");
        }
    }

    /// No way of libpq to write a secret gets through, and the error does not repeat it.
    #[test]
    fn secrets() {
        for dsn in [
            "host=db password=hunter2",
            "host=db password = 'hunter2'",
            "host=db sslpassword=hunter2",
            "postgres://user:hunter2@db/app",
            "postgres://user:hunt/er2@db/app",
            "postgres://user@db/app?password=hunter2",
            "postgres://user@db/app?%70assword=hunter2",
        ] {
            let error = check(dsn).unwrap_err();
            assert!(matches!(error, BadDsn::Secret(_)), "{dsn}: {error}");
            assert!(!error.to_string().contains("hunt"), "{error}");
        }
    }

    /// What libpq would not parse is refused here already.
    #[test]
    fn bad() {
        for dsn in ["", "  ", "db.example", "host=db app", "host='db", "=x", "postgres://db?x"] {
            assert!(check(dsn).is_err(), "{dsn:?}");
        }
    }
}
