use lagmesh_model::ids::BootId;

use super::*;

const NOW: WallNanos = WallNanos(1_000);

/// Tokens whose secrets are their names; `old` has expired.
fn tokens() -> Tokens {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (name, rest) in [
        ("sender", "role = \"ingest\""),
        ("oslo", "role = \"ingest\"\nregion = \"oslo\""),
        ("oslo-1", "role = \"ingest\"\nagent = \"oslo-1\""),
        ("reader", "role = \"read\""),
        ("boss", "role = \"operate\""),
        ("old", "role = \"operate\"\nexpires = 1970-01-01T00:00:00Z"),
    ] {
        let hash = lagmesh_model::access::TokenHash::of(name.as_bytes());
        write!(text, "[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{rest}\n").unwrap();
    }
    Tokens::parse("tokens.toml", &text).unwrap()
}

fn rules(certificates: bool, with_tokens: bool, open_to_read: bool) -> Rules {
    Rules { tokens: with_tokens.then(tokens), certificates, open_to_read }
}

fn agent() -> Certificate {
    Certificate::Agent("lagmesh://demo/oslo/oslo-1".parse().unwrap())
}

fn token(text: &str) -> Shown {
    Shown::Token(text.as_bytes().to_vec())
}

/// The reason of a refusal, or "in".
fn outcome(rules: &Rules, role: Role, certificate: &Certificate, shown: &Shown) -> &'static str {
    rules.decide(role, certificate, shown, NOW).map_or_else(|refusal| refusal.reason, |_| "in")
}

/// The whole table of who may do what, by what the collector was given and what a client shows.
#[test]
fn who_may_do_what() {
    use Role::{Ingest, Operate, Read};
    let (nothing, nobody) = (Shown::Nothing, Certificate::None);
    let nameless = Certificate::Nobody("no URI".to_owned());
    let (open, closed) = (rules(false, false, true), rules(false, false, false));
    let (certificates, by_token, both) = (rules(true, false, false), rules(false, true, true), rules(true, true, true));
    for (rules, certificate, shown, ingest, read, operate) in [
        // Nobody is asked: as on loopback.
        (&open, &nobody, &nothing, "in", "in", "no-tokens"),
        (&open, &nobody, &token("anything"), "in", "in", "no-tokens"),
        (&closed, &nobody, &nothing, "in", "no-tokens", "no-tokens"),
        // Agents by certificate.
        (&certificates, &agent(), &nothing, "in", "no-tokens", "no-tokens"),
        (&certificates, &nobody, &nothing, "no-credentials", "no-tokens", "no-tokens"),
        (&certificates, &nameless, &nothing, "no-identity", "no-tokens", "no-tokens"),
        (&certificates, &nobody, &token("sender"), "no-credentials", "no-tokens", "no-tokens"),
        // Everybody by token.
        (&by_token, &nobody, &nothing, "no-credentials", "no-credentials", "no-credentials"),
        (&by_token, &nobody, &token("sender"), "in", "wrong-role", "wrong-role"),
        (&by_token, &nobody, &token("reader"), "wrong-role", "in", "wrong-role"),
        (&by_token, &nobody, &token("boss"), "wrong-role", "in", "in"),
        (&by_token, &nobody, &token("old"), "expired-token", "expired-token", "expired-token"),
        (&by_token, &nobody, &token("Reader"), "unknown-token", "unknown-token", "unknown-token"),
        (&by_token, &nobody, &Shown::Malformed, "malformed-credentials", "malformed-credentials", "malformed-credentials"),
        // Both: a certificate is for sending alone.
        (&both, &agent(), &nothing, "in", "no-credentials", "no-credentials"),
        (&both, &agent(), &token("boss"), "in", "in", "in"),
        (&both, &nameless, &token("sender"), "in", "wrong-role", "wrong-role"),
        (&both, &nameless, &nothing, "no-identity", "no-credentials", "no-credentials"),
    ] {
        let told = [Ingest, Read, Operate].map(|role| outcome(rules, role, certificate, shown));
        assert_eq!(told, [ingest, read, operate], "{rules:?} {certificate:?}");
    }
}

/// What everybody may ask for is that the program lives; whatever is not known changes something.
#[test]
fn what_needs_which_role() {
    let http = |method: Method, path: &str| needed(Transport::Http, &method, path);
    assert_eq!(http(Method::GET, "/health"), None);
    assert_eq!(http(Method::GET, "/ready"), None);
    for path in ["/", "/metrics", "/v1/status", "/v1/history", "/nothing", "/health/", "//health"] {
        assert_eq!(http(Method::GET, path), Some(Role::Read), "{path}");
        assert_eq!(http(Method::POST, path), Some(Role::Operate), "{path}");
    }
    assert_eq!(http(Method::POST, "/v1/metrics"), Some(Role::Ingest));
    assert_eq!(needed(Transport::Grpc, &Method::POST, "/health"), Some(Role::Ingest));
}

/// Nobody sends for another fleet, region or agent than they are named for, and the refusal says which names differ.
#[test]
fn scopes() {
    let from = |fleet: &str, region: &str, agent: &str| Exporter {
        fleet: fleet.to_owned(),
        region: region.parse().unwrap(),
        agent: agent.parse().unwrap(),
        boot: BootId(1),
        version: String::new(),
    };
    let own = from("demo", "oslo", "oslo-1");
    let of = |certificate: &Certificate, shown: &Shown| {
        rules(true, true, false).decide(Role::Ingest, certificate, shown, NOW).unwrap().scope
    };
    let word = |scope: &Scope, exporter: &Exporter| scope.covers(exporter).map_or_else(|(reason, _)| reason, |()| "in");
    let certified = of(&agent(), &token("sender"));
    assert_eq!(word(&certified, &own), "in");
    assert_eq!(word(&certified, &from("other", "oslo", "oslo-1")), "identity-fleet");
    assert_eq!(word(&certified, &from("demo", "rome", "oslo-1")), "identity-region");
    assert_eq!(word(&certified, &from("demo", "oslo", "oslo-2")), "identity-agent");
    let (_, why) = certified.covers(&from("demo", "rome", "rome")).unwrap_err();
    assert!(why.contains("for region \"oslo\"") && why.contains("from agent \"rome\"") && !why.contains("fleet"), "{why}");

    let (region, agent) = (of(&Certificate::None, &token("oslo")), of(&Certificate::None, &token("oslo-1")));
    assert_eq!([word(&region, &own), word(&region, &from("demo", "rome", "oslo-1"))], ["in", "identity-region"]);
    assert_eq!([word(&agent, &own), word(&agent, &from("demo", "oslo", "oslo-2"))], ["in", "identity-agent"]);
    assert_eq!(word(&of(&Certificate::None, &token("sender")), &from("demo", "rome", "rome")), "in");
    assert_ne!(word(&Scope::Nobody, &own), "in");
}
