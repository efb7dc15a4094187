//! `lagmesh token`: a secret for whoever comes to a collector without a certificate.

use std::fmt::Write as _;
use std::io::Write;

use lagmesh_model::access::{Role, TOKEN_PREFIX, TokenHash, Tokens};
use lagmesh_model::ids::{AgentName, RegionName, TokenName};

use crate::Failure;

/// What the secret holds of chance [octets]: nobody guesses it, so one round of SHA-256 hides it.
const SECRET_LENGTH: usize = 32;

const HELP_EXPIRES: &str = "When it ends to be good, in UTC, such as 2027-01-31T00:00:00Z [default: never]";

/// Make a token for a collector: the secret for its holder, and the entry for the collector's file of tokens
///
/// Nothing is kept: the secret is shown this once. The entry goes into the file that the collector's --tokens-file names; it holds a hash
/// and no secret. The collector takes it over within ten seconds.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  lagmesh token --name grafana --role read
  lagmesh token --name oslo --role ingest --region oslo --expires 2027-01-31T00:00:00Z

The secret goes to standard output, the entry to standard error, so that
  (umask 077; lagmesh token --name grafana --role read > grafana.token) 2>> tokens.toml
puts each where it belongs.

Exit codes: 0 made, 64 wrong command line.")]
pub(crate) struct Args {
    /// Who holds it: the name in the collector's log
    #[arg(long, value_name = "NAME")]
    name: TokenName,

    /// What it is for: ingest (send metrics), read (page, status, /metrics), operate (read, and change what can be changed)
    #[arg(long, value_name = "ROLE")]
    role: Role,

    /// The only region that its holder may send for
    #[arg(long, value_name = "NAME")]
    region: Option<RegionName>,

    /// The only agent that its holder may send for
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,

    /// When it ends to be good
    #[arg(long, value_name = "MOMENT", help = HELP_EXPIRES)]
    expires: Option<String>,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let mut secret = [0; SECRET_LENGTH];
    getrandom::fill(&mut secret)
        .map_err(|error| Failure::Broken(anyhow::anyhow!("the system gives no random octets: {error}")))?;
    let (token, entry) = make(args, &secret)?;
    writeln!(out, "{token}")?;
    std::io::stderr().write_all(entry.as_bytes())?;
    Ok(())
}

/// The token of a secret, and its entry, which a collector will understand.
fn make(args: &Args, secret: &[u8; SECRET_LENGTH]) -> Result<(String, String), Failure> {
    let mut token = TOKEN_PREFIX.to_owned();
    for octet in secret {
        write!(token, "{octet:02x}").map_err(|error| Failure::Broken(error.into()))?;
    }
    let Args { name, role, region, agent, expires } = args;
    let mut entry =
        format!("\n[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\nrole = \"{role}\"\n", TokenHash::of(token.as_bytes()));
    let bound = [("region", region.as_ref().map(RegionName::as_str)), ("agent", agent.as_ref().map(AgentName::as_str))];
    let bound = bound.into_iter().filter_map(|(key, value)| Some(format!("{key} = \"{}\"\n", value?)));
    entry.extend(bound.chain(expires.iter().map(|moment| format!("expires = {moment}\n"))));
    Tokens::parse("the entry", &entry).map_err(|errors| Failure::Config(errors.to_string()))?;
    Ok((token, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(line: &[&str]) -> Result<(String, String), String> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let line = <Line as clap::Parser>::try_parse_from([&["token"], line].concat()).map_err(|error| error.to_string())?;
        make(&line.args, &[0xAB; SECRET_LENGTH]).map_err(|failure| failure.to_string())
    }

    /// What is printed is what a collector understands, and the entry does not hold the secret.
    #[test]
    fn entries_are_understood() {
        let (token, entry) =
            made(&["--name", "oslo", "--role", "ingest", "--region", "oslo", "--expires", "2027-01-31T00:00:00Z"]).unwrap();
        assert_eq!(token, format!("lagmesh_{}", "ab".repeat(32)));
        assert!(!entry.contains(&token));
        let tokens = Tokens::parse("tokens.toml", &entry).unwrap();
        let found = tokens.find(token.as_bytes()).unwrap();
        assert_eq!((found.name.as_str(), found.role, found.expires.is_some()), ("oslo", Role::Ingest, true));
    }

    /// What a collector would refuse is refused here.
    #[test]
    fn mistakes() {
        for line in [
            &["--name", "a", "--role", "admin"][..],
            &["--name", "A B", "--role", "read"],
            &["--name", "a", "--role", "read", "--region", "oslo"],
            &["--name", "a", "--role", "read", "--expires", "tomorrow"],
            &["--name", "a", "--role", "read", "--expires", "2027-01-31T00:00:00Z\n[[token]]"],
            &["--name", "a"],
        ] {
            assert!(made(line).is_err(), "{line:?}");
        }
    }
}
