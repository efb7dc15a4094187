//! The two grammars of a connection string, as in libpq's `conninfo_parse` and `conninfo_uri_parse`.

use std::collections::BTreeMap;

use super::ConnInfoError;

/// One keyword of libpq.
pub(super) struct Keyword {
    pub(super) name: &'static str,
    /// The environment variable that stands in for it.
    pub(super) variable: Option<&'static str>,
}

const fn keyword(name: &'static str, variable: &'static str) -> Keyword {
    Keyword { name, variable: Some(variable) }
}

const fn bare(name: &'static str) -> Keyword {
    Keyword { name, variable: None }
}

/// What lagmesh acts on.
pub(super) const KEYWORDS: &[Keyword] = &[
    keyword("host", "PGHOST"),
    keyword("hostaddr", "PGHOSTADDR"),
    keyword("port", "PGPORT"),
    keyword("dbname", "PGDATABASE"),
    keyword("user", "PGUSER"),
    keyword("password", "PGPASSWORD"),
    keyword("passfile", "PGPASSFILE"),
    keyword("sslmode", "PGSSLMODE"),
    keyword("sslrootcert", "PGSSLROOTCERT"),
    keyword("sslcert", "PGSSLCERT"),
    keyword("sslkey", "PGSSLKEY"),
    keyword("sslnegotiation", "PGSSLNEGOTIATION"),
    keyword("channel_binding", "PGCHANNELBINDING"),
    keyword("gssencmode", "PGGSSENCMODE"),
    keyword("connect_timeout", "PGCONNECT_TIMEOUT"),
    keyword("application_name", "PGAPPNAME"),
    bare("fallback_application_name"),
    keyword("options", "PGOPTIONS"),
    keyword("target_session_attrs", "PGTARGETSESSIONATTRS"),
    bare("keepalives"),
    bare("keepalives_idle"),
    bare("keepalives_interval"),
    bare("keepalives_count"),
    bare("tcp_user_timeout"),
];

/// What libpq knows and lagmesh does not act on: refused, because silence would look like consent.
const UNSUPPORTED: &[&str] = &[
    "client_encoding",
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
    "sslsni",
];

type Settings = BTreeMap<&'static str, String>;

/// The settings that a connection string gives; a later one replaces an earlier one.
pub(super) fn settings(text: &str) -> Result<Settings, ConnInfoError> {
    let text = text.trim();
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => address(rest),
        None => pairs(text),
    }
}

fn known(name: &str) -> Result<&'static str, ConnInfoError> {
    if let Some(keyword) = KEYWORDS.iter().find(|keyword| keyword.name == name) {
        return Ok(keyword.name);
    }
    match UNSUPPORTED.iter().find(|unsupported| **unsupported == name) {
        Some(unsupported) => Err(ConnInfoError::Unsupported(unsupported)),
        None => Err(ConnInfoError::UnknownKeyword(name.to_owned())),
    }
}

fn syntax(what: impl Into<String>) -> ConnInfoError {
    ConnInfoError::Syntax(what.into())
}

/// `keyword = value ...`, values bare with backslash escapes or in single quotes.
fn pairs(text: &str) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(after) = after.trim_start().strip_prefix('=') else {
            // The word may be a stray password: it is not repeated.
            return Err(syntax("a word without \"=\" after it; write keyword=value, and quote values that hold spaces"));
        };
        let (value, after) = value(after.trim_start(), name)?;
        settings.insert(known(name)?, value);
        rest = after.trim_start();
    }
    Ok(settings)
}

/// One value and what follows it.
fn value<'t>(text: &'t str, name: &str) -> Result<(String, &'t str), ConnInfoError> {
    let quoted = text.starts_with('\'');
    let mut characters = text.char_indices();
    if quoted {
        characters.next();
    }
    let mut value = String::new();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_ascii_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(syntax(format!("the quoted value of {name:?} has no closing quote"))) } else { Ok((value, "")) }
}

/// `[user[:password]@][host[:port],...][/dbname][?keyword=value&...]`
fn address(rest: &str) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::new();
    let (rest, parameters) = rest.split_once('?').map_or((rest, None), |(rest, parameters)| (rest, Some(parameters)));
    let (authority, database) = rest.split_once('/').map_or((rest, None), |(authority, database)| (authority, Some(database)));
    let (login, hosts) = authority.split_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
    if let Some(login) = login {
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        settings.insert("user", decode(user)?);
        if let Some(password) = password {
            settings.insert("password", decode(password)?);
        }
    }
    if !hosts.is_empty() {
        let hosts = hosts.split(',').map(host_and_port).collect::<Result<Vec<_>, _>>()?;
        let join = |part: fn(&(String, String)) -> &str| hosts.iter().map(part).collect::<Vec<_>>().join(",");
        settings.insert("host", join(|host| &host.0));
        settings.insert("port", join(|host| &host.1));
        if hosts.iter().all(|host| host.1.is_empty()) {
            settings.remove("port");
        }
    }
    if let Some(database) = database {
        settings.insert("dbname", decode(database)?);
    }
    for parameter in parameters.unwrap_or("").split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(|| syntax("a parameter after \"?\" has no \"=\""))?;
        let (name, value) = (decode(name)?, decode(value)?);
        if name == "ssl" && value == "true" {
            settings.insert("sslmode", "require".to_owned());
        } else {
            settings.insert(known(&name)?, value);
        }
    }
    Ok(settings)
}

fn host_and_port(text: &str) -> Result<(String, String), ConnInfoError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(|| syntax("an IPv6 address has no closing \"]\""))?;
            let port = if after.is_empty() { Some("") } else { after.strip_prefix(':') };
            (host, port.ok_or_else(|| syntax("after the \"]\" of an IPv6 address comes \":port\" or nothing"))?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    Ok((decode(host)?, decode(port)?))
}

/// Percent-decoding; a zero byte is refused because no C string can hold it.
fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = hex.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|byte| *byte != 0);
        bytes.push(byte.ok_or_else(|| syntax("\"%\" must be followed by two hexadecimal digits other than 00"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| syntax("the percent-encoded bytes are no UTF-8"))
}
