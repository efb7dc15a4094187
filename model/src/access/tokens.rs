//! The file of tokens: who may come in with a secret, and for what. It holds hashes, never a token.
//!
//! A token is 256 random bits, so one round of SHA-256 hides it: what slow hashes protect is words that people make up.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use toml::de::DeValue;

use crate::document::{Document, FileErrors, Found, Section, parsed};
use crate::ids::{AgentName, RegionName, TokenName};
use crate::time::{WallNanos, nanos};

/// What every token begins with, so that scanners for secrets that leaked find it.
pub const TOKEN_PREFIX: &str = "lagmesh_";
/// More tokens than a person can know the holders of; each is compared with what a client shows.
const TOKENS_MAX: usize = 1000;

const TOP: &[&str] = &["token"];
const TOKEN: &[&str] = &["name", "sha256", "role", "region", "agent", "expires"];

/// What the holder of a token may do. Nobody may do anything that is not named here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Send metrics, and nothing else.
    Ingest,
    /// Read the page, `/v1/*` and `/metrics`.
    Read,
    /// Read, and change what can be changed.
    Operate,
}

impl Role {
    /// Every role.
    pub const ALL: &'static [Role] = &[Role::Ingest, Role::Read, Role::Operate];

    /// The word in files, logs and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Read => "read",
            Role::Operate => "operate",
        }
    }

    /// Whether a holder of this role may do what `needed` is for: who may change things may also look at them.
    pub fn allows(self, needed: Role) -> bool {
        self == needed || (self == Role::Operate && needed == Role::Read)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: use ingest, read or operate")]
pub struct BadRole(String);

impl FromStr for Role {
    type Err = BadRole;
    fn from_str(word: &str) -> Result<Role, BadRole> {
        Role::ALL.iter().copied().find(|role| role.as_str() == word).ok_or_else(|| BadRole(word.to_owned()))
    }
}

/// SHA-256 of a token as it is sent.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

/// A text that is no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no SHA-256: write 64 hexadecimal digits, as `lagmesh token` prints them")]
pub struct BadHash;

impl TokenHash {
    /// The hash of a token.
    pub fn of(token: &[u8]) -> TokenHash {
        TokenHash(Sha256::digest(token).into())
    }

    /// Whether both are the same, in a time that does not tell how much of them is.
    pub fn matches(&self, other: &TokenHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(redacted)")
    }
}

impl FromStr for TokenHash {
    type Err = BadHash;
    fn from_str(text: &str) -> Result<TokenHash, BadHash> {
        let digits = text.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return Err(BadHash);
        }
        let digit = |octet: u8| char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(BadHash);
        for (octet, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *octet = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(TokenHash(hash))
    }
}

/// One entry of the file.
#[derive(Debug, Clone)]
pub struct Token {
    /// Who holds it: the name in logs.
    pub name: TokenName,
    /// Its hash.
    pub hash: TokenHash,
    /// What it is for.
    pub role: Role,
    /// The only region that its holder may send for; `None`: any.
    pub region: Option<RegionName>,
    /// The only agent that its holder may send for; `None`: any.
    pub agent: Option<AgentName>,
    /// When it ends to be good; `None`: it does not.
    pub expires: Option<WallNanos>,
}

impl Token {
    /// Whether it is good no longer.
    pub fn has_expired(&self, now: WallNanos) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

/// All tokens of a collector; at least one.
#[derive(Debug, Clone)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Reads the text of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it. A file without a token is wrong, too: half-written is likelier than meant.
    pub fn parse(file: &str, text: &str) -> Result<Tokens, FileErrors> {
        let document = Document::new(file, text);
        let found = document.parse().and_then(|table| tokens(&Section::top(&document, &table, TOP)));
        document.finish(found)
    }

    /// The entry of a token that a client shows, expired or not. Every entry is compared, whichever it is.
    pub fn find(&self, shown: &[u8]) -> Option<&Token> {
        let hash = TokenHash::of(shown);
        self.0.iter().fold(None, |found, token| if token.hash.matches(&hash) { Some(token) } else { found })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

fn tokens(top: &Section<'_>) -> Found<Tokens> {
    let sections = top.sections("token", TOKEN);
    if top.has_none("token") {
        return Err(top.tell("token", "there is no token; add [[token]] as `lagmesh token` prints it"));
    }
    if sections.len() > TOKENS_MAX {
        return Err(top.tell("token", format!("there are {} tokens, at most {TOKENS_MAX} are allowed", sections.len())));
    }
    let (mut names, mut hashes) = (BTreeMap::new(), BTreeMap::new());
    let mut all = Vec::with_capacity(sections.len());
    for section in &sections {
        // Each entry is read in full before an error ends the reading, so that all are told.
        let found = token(section).and_then(|token| {
            let line = section.document.line(section.at("name"));
            once(section, "name", &mut names, token.name.to_string(), line)?;
            once(section, "sha256", &mut hashes, token.hash.to_string(), line)?;
            Ok(token)
        });
        all.push(found);
    }
    all.into_iter().collect::<Found<Vec<Token>>>().map(Tokens)
}

fn once(section: &Section<'_>, key: &str, seen: &mut BTreeMap<String, usize>, value: String, line: usize) -> Found<()> {
    match seen.insert(value, line) {
        None => Ok(()),
        Some(first) => Err(section.tell(key, format!("is the same as that of the token in line {first}"))),
    }
}

fn token(section: &Section<'_>) -> Found<Token> {
    let name = section.require("name", parsed);
    let hash = section.require("sha256", parsed);
    let role = section.require("role", parsed::<Role>);
    let (region, agent) = (section.get("region", parsed), section.get("agent", parsed));
    let expires = section.get("expires", moment);
    let token = Token { name: name?, hash: hash?, role: role?, region: region?, agent: agent?, expires: expires? };
    for (key, is_written) in [("region", token.region.is_some()), ("agent", token.agent.is_some())] {
        if is_written && token.role != Role::Ingest {
            return Err(
                section.tell(key, format!("says for whom the holder may send, and role = \"{}\" sends nothing", token.role))
            );
        }
    }
    Ok(token)
}

/// A TOML date with time in UTC.
fn moment(value: &DeValue<'_>) -> Result<WallNanos, String> {
    const HOW: &str = "write a moment in UTC without quotes, such as 2027-01-31T00:00:00Z";
    let written = value.as_datetime().ok_or(HOW)?.to_string();
    let moment = humantime::parse_rfc3339(&written).map_err(|_| format!("{written} is no such moment; {HOW}"))?;
    let since = moment.duration_since(UNIX_EPOCH).map_err(|_| format!("{written} is before 1970"))?;
    Ok(WallNanos(nanos(since)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn entry(name: &str, hash: &str, rest: &str) -> String {
        format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{rest}\n")
    }

    fn wrong(text: &str) -> String {
        Tokens::parse("tokens.toml", text).unwrap_err().to_string()
    }

    /// A token is found by what is sent, is good until its end, and no longer.
    #[test]
    fn found_by_hash() {
        let text = entry("ci", HASH, "role = \"ingest\"\nregion = \"oslo\"\nexpires = 1970-01-01T00:00:02Z");
        let tokens = Tokens::parse("tokens.toml", &(text + &entry("eve", &"0".repeat(64), "role = \"read\""))).unwrap();
        let token = tokens.find(b"abc").unwrap();
        assert_eq!((token.name.as_str(), token.role, tokens.count()), ("ci", Role::Ingest, 2));
        assert_eq!(token.region.as_ref().map(RegionName::as_str), Some("oslo"));
        assert!(!token.has_expired(WallNanos(1_999_999_999)) && token.has_expired(WallNanos(2_000_000_000)));
        assert!(tokens.find(b"abcd").is_none() && tokens.find(b"").is_none());
        assert_eq!(TokenHash::of(b"abc").to_string(), HASH);
        assert!(!format!("{tokens:?}").contains("ba78"));
    }

    /// Every mistake is told with its line, and a file with one is no file: half of the tokens would be worse than the old ones.
    #[test]
    fn mistakes() {
        let text =
            entry("A B", "12", "role = \"admin\"\nexpires = \"soon\"") + &entry("b", HASH, "roll = \"read\"\nrole = \"read\"");
        let told = wrong(&text);
        for (line, what) in [(2, "no name"), (3, "no SHA-256"), (4, "no role"), (5, "moment in UTC"), (9, "unknown key")] {
            assert!(told.lines().any(|one| one.contains(&format!(":{line}:")) && one.contains(what)), "{line} {what}: {told}");
        }
        let twice = entry("a", HASH, "role = \"read\"") + &entry("a", HASH, "role = \"read\"");
        assert!(wrong(&twice).contains("in line 2"));
        assert!(wrong(&entry("a", HASH, "role = \"read\"\nregion = \"x\"")).contains("sends nothing"));
        assert!(wrong(&entry("a", HASH, "role = \"read\"\nexpires = 2027-01-01T00:00:00+02:00")).contains("in UTC"));
        assert!(wrong(&entry("a", HASH, "")).contains("is missing"));
        for nothing in ["", "token = []", "[token]\nname = \"a\""] {
            assert!(!wrong(nothing).is_empty());
        }
    }

    /// Who operates may read; nobody else may do what another role is for.
    #[test]
    fn roles() {
        let allowed = |role: Role| Role::ALL.iter().copied().filter(move |needed| role.allows(*needed)).collect::<Vec<_>>();
        assert_eq!(allowed(Role::Ingest), [Role::Ingest]);
        assert_eq!(allowed(Role::Read), [Role::Read]);
        assert_eq!(allowed(Role::Operate), [Role::Read, Role::Operate]);
    }
}
