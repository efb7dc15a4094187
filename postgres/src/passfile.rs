//! libpq's password file: lines of `host:port:database:user:password`, each of the first four fields literal or `*`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::conninfo::{ConnInfo, Host, Passfile, Password};

/// The largest password file that is read [bytes]; a larger one is no password file.
const SIZE_MAX_BYTES: u64 = 1 << 20;

/// Why a password file gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Ignored {
    /// Others may read it.
    #[error("password file {} is ignored: its mode is {mode:04o}, and others could read it; run chmod 0600 on it", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A folder, a device, or too large.
    #[error("password file {} is ignored: it is no plain file of at most 1 MiB", path.display())]
    NoPlainFile {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("password file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the search for a password found.
#[derive(Debug, Default)]
pub struct Search {
    /// The password of the first line that fits.
    pub password: Option<Password>,
    /// The files that had to be ignored on the way.
    pub ignored: Vec<Ignored>,
}

/// Looks for the password of a login at `host`: the connection string's own, else a line of the password files.
pub fn find(info: &ConnInfo, host: &Host) -> Search {
    if info.password.is_some() {
        return Search { password: info.password.clone(), ignored: Vec::new() };
    }
    let mut search = Search::default();
    for path in paths(&info.passfile) {
        let in_credentials = info.passfile.credentials.as_ref().is_some_and(|folder| path.starts_with(folder));
        match read(&path, in_credentials) {
            Ok(None) => {}
            Ok(Some(text)) => {
                let login = [&host.passfile_name(), &host.port.to_string(), &info.dbname, &info.user];
                search.password = lookup(&text, login.map(String::as_str));
            }
            Err(ignored) => search.ignored.push(ignored),
        }
        if search.password.is_some() {
            break;
        }
    }
    search
}

fn paths(passfile: &Passfile) -> Vec<PathBuf> {
    match &passfile.named {
        Some(named) => vec![named.clone()],
        None => passfile.credentials.iter().map(|folder| folder.join("pgpass")).chain(passfile.home.clone()).collect(),
    }
}

/// The text of a password file, or `None` if there is no such file.
///
/// systemd grants a service its credentials through an access control list, which shows as a group permission: inside that folder
/// the group's read bit is harmless.
fn read(path: &Path, in_credentials: bool) -> Result<Option<String>, Ignored> {
    let metadata = match fs::metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        other => other.map_err(|source| Ignored::Unreadable { path: path.to_owned(), source })?,
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if !metadata.is_file() || metadata.size() > SIZE_MAX_BYTES {
        return Err(Ignored::NoPlainFile { path: path.to_owned() });
    }
    let others = if in_credentials { 0o037 } else { 0o077 };
    if mode & others != 0 {
        return Err(Ignored::TooOpen { path: path.to_owned(), mode });
    }
    fs::read_to_string(path).map(Some).map_err(|source| Ignored::Unreadable { path: path.to_owned(), source })
}

/// The password of the first line whose fields are those of the login (host, port, database, user) or `*`.
pub fn lookup(text: &str, login: [&str; 4]) -> Option<Password> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| password(line, login))
}

fn password(line: &str, login: [&str; 4]) -> Option<Password> {
    let mut rest = line;
    for wanted in login {
        let (field, after) = field(rest)?;
        // Only a bare star is a wildcard: an escaped one is a name.
        let wildcard = rest.starts_with("*:");
        if !wildcard && field != wanted {
            return None;
        }
        rest = after;
    }
    let secret = unescape(rest);
    (!secret.is_empty()).then(|| Password::from(secret))
}

/// The field before the next unescaped colon, and what follows the colon.
fn field(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((unescape(&text[..at]), &text[at + 1..])),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            // A backslash at the very end stands for itself.
            '\\' => plain.push(characters.next().unwrap_or('\\')),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str, login: [&str; 4]) -> Option<String> {
        lookup(text, login).map(|password| password.reveal().to_owned())
    }

    /// The first line that fits wins, a star fits everything, and comments and broken lines fit nothing.
    #[test]
    fn lines() {
        let text = "# a comment:1:2:3:no\nbroken\nhost:5432:db:ann:first\n*:*:*:ann:second\r\n*:*:*:*:last:with:colons\n";
        let table = [
            (["host", "5432", "db", "ann"], "first"),
            (["host", "5433", "db", "ann"], "second"),
            (["other", "1", "x", "bob"], "last:with:colons"),
        ];
        for (login, expected) in table {
            assert_eq!(found(text, login).as_deref(), Some(expected), "{login:?}");
        }
        assert_eq!(found("h:1:d:u:", ["h", "1", "d", "u"]), None);
        assert_eq!(found("\\*:1:d:u:p", ["h", "1", "d", "u"]), None, "an escaped star is a name");
        assert_eq!(found("\\:\\:1:5432:d\\\\b:u:p\\:w", ["::1", "5432", "d\\b", "u"]).as_deref(), Some("p:w"));
    }

    fn info(folder: &Path) -> ConnInfo {
        let environment = |name: &str| match name {
            "USER" => Some("ann".to_owned()),
            "HOME" => Some(folder.join("home").display().to_string()),
            "CREDENTIALS_DIRECTORY" => Some(folder.join("credentials").display().to_string()),
            _ => None,
        };
        ConnInfo::parse("host=h", environment).unwrap()
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn search(info: &ConnInfo) -> Search {
        find(info, &info.hosts[0])
    }

    /// A file that others may read is ignored, and the error says what to do; a group bit is fine among systemd's credentials.
    #[test]
    fn open_files_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let info = info(folder.path());
        assert!(search(&info).password.is_none() && search(&info).ignored.is_empty(), "no file is no news");

        let home = folder.path().join("home/.pgpass");
        write(&home, "*:*:*:*:home", 0o640);
        let seen = search(&info);
        assert!(seen.password.is_none());
        assert!(seen.ignored[0].to_string().contains("0640") && seen.ignored[0].to_string().contains("chmod 0600"));
        write(&home, "*:*:*:*:home", 0o600);
        assert_eq!(search(&info).password.unwrap().reveal(), "home");

        let credential = folder.path().join("credentials/pgpass");
        write(&credential, "*:*:*:*:credential", 0o440);
        assert_eq!(search(&info).password.unwrap().reveal(), "credential");
        write(&credential, "elsewhere:*:*:*:credential", 0o440);
        assert_eq!(search(&info).password.unwrap().reveal(), "home", "the next file is asked");
        write(&credential, "*:*:*:*:credential", 0o444);
        assert_eq!(search(&info).ignored.len(), 1);
    }

    /// A named file is the only one that is asked, and the string's own password needs no file.
    #[test]
    fn named_file_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut info = info(folder.path());
        write(&folder.path().join("home/.pgpass"), "*:*:*:*:home", 0o600);
        info.passfile.named = Some(folder.path().join("named"));
        assert!(search(&info).password.is_none());
        info.passfile.named = Some(folder.path().to_owned());
        assert!(matches!(search(&info).ignored[..], [Ignored::NoPlainFile { .. }]));
        info.password = Some(Password::from("own".to_owned()));
        assert_eq!(search(&info).password.unwrap().reveal(), "own");
    }

    proptest! {
        /// Any fields survive being escaped.
        #[test]
        fn any_field_survives(fields in prop::array::uniform5("[^\\n\\r#]{1,8}")) {
            let escaped: Vec<_> = fields.iter().map(|field| field.replace('\\', "\\\\").replace(':', "\\:").replace('*', "\\*")).collect();
            let login = [fields[0].as_str(), fields[1].as_str(), fields[2].as_str(), fields[3].as_str()];
            prop_assert_eq!(found(&escaped.join(":"), login), Some(fields[4].clone()));
        }
    }
}
