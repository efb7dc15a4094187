//! What the command line says of the ways out. Secrets stand in files, never in the fleet file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use lagmesh_model::fleet::Fleet;
use lagmesh_model::ids::TargetName;
use reqwest::Certificate;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Headers and certificates are far smaller [bytes].
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The ways out
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ForwardArgs {
    /// Headers for a [[forward]] of the fleet file, one "Name: value" a line, such as Authorization or X-Scope-OrgID; may be given again
    /// for another target
    #[arg(long, env = "LAGMESH_FORWARD_HEADERS_FILE", value_name = "TARGET=FILE", value_delimiter = ',')]
    pub forward_headers_file: Vec<String>,

    /// Certificate authorities (PEM) that may vouch for the targets of [[forward]] [default: those of the system]
    #[arg(long, env = "LAGMESH_FORWARD_CA_FILE", value_name = "FILE")]
    pub forward_ca_file: Option<PathBuf>,

    /// What `instance` says in series that are passed on, the host's name if not given; each collector of a pair needs its own
    #[arg(long, env = "LAGMESH_FORWARD_INSTANCE", value_name = "NAME")]
    pub forward_instance: Option<String>,
}

/// What the ways out need to know beside the fleet file. Checked.
#[derive(Debug, Clone, Default)]
pub struct ForwardSettings {
    /// Where the headers of targets stand; read again for every request.
    pub(crate) headers_files: BTreeMap<TargetName, PathBuf>,
    /// The authorities that may vouch for targets; `None` for those of the system.
    pub(crate) authorities: Option<Vec<Certificate>>,
    /// What `instance` says.
    pub(crate) instance: String,
}

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No `TARGET=FILE`.
    #[error("--forward-headers-file {0}: write it as TARGET=FILE, where TARGET is the name of a [[forward]] of the fleet file")]
    Form(String),
    /// A target that is not in the fleet file.
    #[error("--forward-headers-file {given}: the fleet file has no [[forward]] with this name; {hint}")]
    Unknown {
        /// What is written.
        given: String,
        /// Which there are.
        hint: String,
    },
    /// A target with two files.
    #[error("--forward-headers-file: {0} has two files; put all headers into one")]
    Twice(TargetName),
    /// A file cannot be read or understood.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// An empty name.
    #[error("--forward-instance is empty; leave it out, or name this collector")]
    Instance,
}

impl ForwardArgs {
    /// Reads the files once, so that what is wrong is told at the start.
    ///
    /// # Errors
    /// If anything is wrong.
    pub fn read(&self, fleet: &Fleet) -> Result<ForwardSettings, ForwardError> {
        let mut headers_files = BTreeMap::new();
        for given in &self.forward_headers_file {
            let (name, path) = given.split_once('=').ok_or_else(|| ForwardError::Form(given.clone()))?;
            let Some(forward) = fleet.forwards.iter().find(|forward| forward.name.as_str() == name) else {
                return Err(ForwardError::Unknown { given: given.clone(), hint: hint(fleet) });
            };
            let path = PathBuf::from(path);
            read_headers(&path).map_err(|why| ForwardError::File { path: path.clone(), why })?;
            if headers_files.insert(forward.name.clone(), path).is_some() {
                return Err(ForwardError::Twice(forward.name.clone()));
            }
        }
        let authorities = self
            .forward_ca_file
            .as_ref()
            .map(|path| authorities(path).map_err(|why| ForwardError::File { path: path.clone(), why }));
        let instance = match &self.forward_instance {
            Some(name) if name.trim().is_empty() => return Err(ForwardError::Instance),
            Some(name) => name.clone(),
            None => host_name(),
        };
        Ok(ForwardSettings { headers_files, authorities: authorities.transpose()?, instance })
    }
}

fn hint(fleet: &Fleet) -> String {
    let names: Vec<&str> = fleet.forwards.iter().map(|forward| forward.name.as_str()).collect();
    if names.is_empty() { "it has none at all".to_owned() } else { format!("there are: {}", names.join(", ")) }
}

/// The host's own name; a host without one is as good as any.
fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".to_owned())
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let text = read_text(path).map_err(|e| e.to_string())?;
    match Certificate::from_pem_bundle(text.as_bytes()) {
        Ok(certificates) if certificates.is_empty() => Err("it holds no certificate".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(e) => Err(format!("it holds no certificates that can be read: {e}")),
    }
}

/// The headers of a file: one a line, empty lines and lines that begin with `#` left out. Values are marked as secrets.
pub(super) fn read_headers(path: &Path) -> Result<HeaderMap, String> {
    headers(&read_text(path).map_err(|e| e.to_string())?)
}

fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut found = HeaderMap::new();
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        // What is wrong is not repeated: it may be a secret.
        let (name, value) = line.split_once(':').ok_or_else(|| format!("line {number} is no header; write it as Name: value"))?;
        let name: HeaderName = name.trim().parse().map_err(|_| format!("line {number}: the name is none of a header"))?;
        let mut value: HeaderValue = value
            .trim()
            .parse()
            .map_err(|_| format!("line {number}: the value of {name} has characters that headers cannot have"))?;
        value.set_sensitive(true);
        found.append(name, value);
    }
    if found.is_empty() { Err("it holds no header; write one as Name: value".to_owned()) } else { Ok(found) }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers are read as people write them; a mistake is told by its line, and never with what may be a secret.
    #[test]
    fn headers_are_read() {
        let found = headers("# a comment\n\nAuthorization: Bearer a:b\r\nX-Scope-OrgID:tenant\n").unwrap();
        assert_eq!(found["authorization"], "Bearer a:b");
        assert_eq!(found["x-scope-orgid"], "tenant");
        assert!(!format!("{found:?}").contains("Bearer"));
        for (text, why) in [
            ("", "it holds no header; write one as Name: value"),
            ("secret", "line 1 is no header; write it as Name: value"),
            ("# x\nbad name: secret", "line 2: the name is none of a header"),
            ("a: sec\u{1}ret", "line 1: the value of a has characters that headers cannot have"),
        ] {
            assert_eq!(headers(text).unwrap_err(), why);
        }
    }

    /// Each mistake of the command line says what to write instead.
    #[test]
    fn arguments() {
        let text = "name = \"f\"\n[[region]]\nname = \"a\"\n[[region.agent]]\nmesh = \"127.0.0.1:1\"\n\
            [[forward]]\nname = \"mimir\"\nkind = \"otlp\"\nurl = \"http://127.0.0.1:2\"\n";
        let fleet = Fleet::parse("fleet.toml", text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        fs::write(&file, "A: b").unwrap();
        let read = |given: &[String]| ForwardArgs { forward_headers_file: given.to_vec(), ..ForwardArgs::default() }.read(&fleet);
        let right = format!("mimir={}", file.display());
        assert_eq!(read(std::slice::from_ref(&right)).unwrap().headers_files.len(), 1);
        assert!(!read(&[]).unwrap().instance.is_empty());
        assert!(matches!(read(&["mimir".to_owned()]), Err(ForwardError::Form(_))));
        assert!(matches!(read(&[right.clone(), right]), Err(ForwardError::Twice(_))));
        assert!(matches!(read(&["mimir=/nowhere".to_owned()]), Err(ForwardError::File { .. })));
        let unknown = read(&["thanos=/x".to_owned()]).unwrap_err().to_string();
        assert!(unknown.ends_with("there are: mimir"), "{unknown}");
    }
}
