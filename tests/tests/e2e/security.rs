//! Who may do what, with the real programs: certificates, tokens, and both replaced while everything runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::status::{AgentStatus, Export, FleetStatus};
use lagmesh_tests::files::{self, RunFolder};
use lagmesh_tests::process::Process;
use lagmesh_tests::prometheus::repository;
use lagmesh_tests::{ports, wait, world};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};

use crate::support::install_crypto;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody who signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), pem })
    }

    /// Writes `NAME.crt` and `NAME.key`; `until` is the year in which the certificate ends.
    fn issue(&self, folder: &Path, name: &str, names: SanType, until: i32) -> Result<()> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![names];
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate()?;
        files::secret(folder, &format!("{name}.key"), &key.serialize_pem())?;
        fs::write(folder.join(format!("{name}.crt")), params.signed_by(&key, &self.issuer)?.pem())?;
        Ok(())
    }

    fn server(&self, folder: &Path, name: &str) -> Result<()> {
        self.issue(folder, name, SanType::DnsName("localhost".try_into()?), 2100)
    }

    fn agent(&self, folder: &Path, name: &str, region: &str, until: i32) -> Result<()> {
        self.issue(folder, name, SanType::URI(format!("lagmesh://example/{region}/{region}").try_into()?), until)
    }
}

/// A collector of a fleet of two regions without databases, with certificates and tokens, and what belongs to it.
pub(crate) struct Yard {
    folder: RunFolder,
    pub(crate) port: u16,
    collector: Process,
}

impl Yard {
    /// The folder holds `collector.crt` and `.key`, `ca.crt`, `tokens.toml`.
    pub(crate) fn start(folder: RunFolder) -> Result<Yard> {
        install_crypto();
        let port = ports::free()?;
        let fleet = format!(
            "name = \"example\"\n[[region]]\nname = \"new-york\"\n[[region.agent]]\nmesh = \"127.0.0.1:{}\"\n[[region]]\n\
             name = \"dublin\"\n[[region.agent]]\nmesh = \"127.0.0.1:{}\"\n[[collector]]\nname = \"main\"\n\
             otlp = \"https://localhost:{port}\"\n[export]\ninterval = \"1s\"\n",
            ports::free()?,
            ports::free()?
        );
        fs::write(folder.path().join("fleet.toml"), fleet)?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let program = world::start::daemon(
            "collector",
            "lagmesh-collector",
            &[
                ("--fleet", path("fleet.toml")),
                ("--http-listen", format!("127.0.0.1:{port}")),
                ("--grpc-listen", "127.0.0.1:0".to_owned()),
                ("--state-dir", path("collector-state")),
                ("--tls-cert-file", path("collector.crt")),
                ("--tls-key-file", path("collector.key")),
                ("--tls-client-ca-file", path("ca.crt")),
                ("--tokens-file", path("tokens.toml")),
            ],
        )?;
        let collector = Process::start(program, folder.path())?;
        Ok(Yard { folder, port, collector })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An agent that shows what these arguments name.
    fn agent(&self, region: &str, shown: &[(&str, String)]) -> Result<Agent> {
        let port = ports::free()?;
        let text = |name: &str| self.path(name).display().to_string();
        let mut args = vec![
            ("--fleet", text("fleet.toml")),
            ("--region", region.to_owned()),
            ("--http-listen", format!("127.0.0.1:{port}")),
            ("--state-dir", text(&format!("{region}-state"))),
            ("--otlp-ca-file", text("ca.crt")),
        ];
        args.extend_from_slice(shown);
        let process =
            Process::start(world::start::daemon(&format!("agent-{region}"), "lagmesh-agent", &args)?, self.folder.path())?;
        Ok(Agent { port, process })
    }

    /// The flags of an agent's certificate.
    fn certificate(&self, name: &str) -> [(&'static str, String); 2] {
        let path = |ending: &str| self.path(&format!("{name}.{ending}")).display().to_string();
        [("--otlp-cert-file", path("crt")), ("--otlp-key-file", path("key"))]
    }

    /// A client that trusts the authority in a file.
    pub(crate) fn client(&self, ca: &str) -> Result<reqwest::Client> {
        let authority = reqwest::Certificate::from_pem(&fs::read(self.path(ca))?)?;
        Ok(reqwest::Client::builder().tls_certs_only([authority]).timeout(Duration::from_secs(5)).build()?)
    }

    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> Result<(u16, String)> {
        let request = self.client("ca.crt")?.get(format!("https://localhost:{}{path}", self.port));
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub(crate) async fn status(&self) -> Result<FleetStatus> {
        let (status, text) = self.get("/v1/status", Some("reader")).await?;
        ensure!(status == 200, "{status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// How often somebody was refused for a reason.
    async fn refusals(&self, reason: &str) -> Result<u64> {
        self.count(&format!("lagmesh_collector_refusals_total{{reason=\"{reason}\"}} ")).await
    }

    pub(crate) async fn count(&self, series: &str) -> Result<u64> {
        let (_, text) = self.get("/metrics", Some("reader")).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        Ok(line.map_or(Ok(0), str::parse)?)
    }

    /// Where it takes OTLP over gRPC, as its log says.
    pub(crate) fn grpc_port(&self) -> Result<u16> {
        let log = self.collector.output()?;
        let said = log.lines().find_map(|line| line.split_once(" grpc=127.0.0.1:")).context("the log names no gRPC address")?;
        Ok(said.1.split(' ').next().unwrap_or_default().parse()?)
    }

    /// Waits until just the agent in Dublin and the collector tell when their certificates end [s since 1970].
    async fn until_ends(&self, of_agent: f64, of_collector: f64) -> Result<()> {
        wait::until(&format!("{of_agent} and {of_collector} are told"), PATIENCE, || async {
            let (_, page) = self.get("/metrics", Some("reader")).await?;
            let lines =
                page.lines().filter(|line| line.starts_with("lagmesh_") && line.contains("_certificate_not_after_seconds"));
            let mut told = Vec::new();
            for (series, value) in lines.filter_map(|line| line.rsplit_once(' ')) {
                told.push((series.contains("agent=\"dublin\""), value.parse::<f64>()?));
            }
            told.sort_by_key(|(is_agent, _)| !is_agent);
            ensure!(told == [(true, of_agent), (false, of_collector)], "{told:?}");
            Ok(())
        })
        .await
    }

    async fn until_reporting(&self, regions: u64) -> Result<()> {
        wait::until(&format!("{regions} regions report"), PATIENCE, || async {
            let reporting = self.status().await?.regions_reporting;
            ensure!(reporting == regions, "{reporting} regions report");
            Ok(())
        })
        .await
    }
}

struct Agent {
    port: u16,
    process: Process,
}

impl Agent {
    async fn export(&self) -> Result<Export> {
        let text = reqwest::get(format!("http://127.0.0.1:{}/v1/status", self.port)).await?.text().await?;
        serde_json::from_str::<AgentStatus>(&text)?.exports.into_iter().next().context("no export is listed")
    }

    async fn until_error(&self, what: &str) -> Result<()> {
        wait::until(&format!("the agent names {what:?}"), PATIENCE, || async {
            let error = self.export().await?.error.context("no error yet")?;
            ensure!(error.contains(what), "{error}");
            Ok(())
        })
        .await
    }
}

/// A token whose secret is its name.
fn entry(name: &str, role: &str) -> String {
    let hash = lagmesh_model::access::TokenHash::of(name.as_bytes());
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\nrole = \"{role}\"\n")
}

fn tokens() -> String {
    entry("reader", "read") + &entry("sender", "ingest") + &entry("boss", "operate")
}

/// A folder with everything that a collector needs.
pub(crate) fn furnished(purpose: &str, authority: &Authority) -> Result<RunFolder> {
    let folder = RunFolder::new(purpose)?;
    authority.server(folder.path(), "collector")?;
    fs::write(folder.path().join("ca.crt"), &authority.pem)?;
    fs::write(folder.path().join("tokens.toml"), tokens())?;
    Ok(folder)
}

/// An agent delivers with its own certificate. With that of another region, one that has expired, one of a strange authority, or none it
/// delivers nothing, is counted by reason and loses nothing: once the file is right, everything arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_speak_for_themselves() -> Result<()> {
    let (right, strange) = (Authority::new("right")?, Authority::new("strange")?);
    let yard = Yard::start(furnished("certificates", &right)?)?;
    let folder = yard.folder.path();
    right.agent(folder, "new-york", "new-york", 2100)?;
    let _new_york = yard.agent("new-york", &yard.certificate("new-york"))?;
    yard.until_reporting(1).await?;

    let nothing = yard.agent("dublin", &[])?;
    nothing.until_error("client certificate").await?;
    ensure!(yard.refusals("no-credentials").await? >= 1, "not counted");
    drop(nothing);

    right.agent(folder, "dublin", "new-york", 2100)?;
    let mut dublin = yard.agent("dublin", &yard.certificate("dublin"))?;
    dublin.until_error("the certificate is for region \"new-york\" and the batch comes from region \"dublin\"").await?;
    ensure!(yard.refusals("identity-region").await? >= 1, "not counted");
    let log = yard.collector.output()?;
    let line = log.lines().find(|line| line.contains("audit") && line.contains("identity-region"));
    ensure!(line.is_some_and(|line| line.contains("lagmesh://example/new-york/new-york")), "no line of the audit log: {log}");

    for (authority, until) in [(&right, 2001), (&strange, 2100)] {
        let before = yard.refusals("bad-certificate").await?;
        authority.agent(folder, "dublin", "dublin", until)?;
        dublin.process.signal(Signal::SIGHUP)?;
        wait::until("the certificate is refused", PATIENCE, || async {
            let refused = yard.refusals("bad-certificate").await?;
            ensure!(refused > before, "{refused} certificates were refused");
            Ok(())
        })
        .await?;
    }
    ensure!(yard.status().await?.regions_reporting == 1, "something of dublin was taken");
    wait::until("dublin keeps what it cannot deliver", PATIENCE, || async {
        let pending = dublin.export().await?.pending_batches;
        ensure!(pending >= 3, "{pending} batches wait");
        Ok(())
    })
    .await?;

    right.agent(folder, "dublin", "dublin", 2100)?;
    dublin.process.signal(Signal::SIGHUP)?;
    yard.until_reporting(2).await?;
    wait::until("everything is delivered", PATIENCE, || async {
        let export = dublin.export().await?;
        ensure!(export.pending_batches <= 1 && export.error.is_none(), "{export:?}");
        Ok(())
    })
    .await
}

/// When a certificate ends is told by collector and agent of the one that they show, and of the next one once it has been taken over; an agent that
/// shows none tells nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_of_certificates_are_told() -> Result<()> {
    let right = Authority::new("right")?;
    let mut yard = Yard::start(furnished("ends", &right)?)?;
    right.agent(yard.folder.path(), "dublin", "dublin", 2050)?;
    let mut dublin = yard.agent("dublin", &yard.certificate("dublin"))?;
    let _new_york =
        yard.agent("new-york", &[("--otlp-token-file", format!("main={}", written(&yard, "agent.token", "sender")?))])?;
    yard.until_reporting(2).await?;
    // The first of January of those years [s since 1970].
    yard.until_ends(2_524_608_000.0, 4_102_444_800.0).await?;

    let folder = yard.folder.path();
    right.agent(folder, "dublin", "dublin", 2060)?;
    right.issue(folder, "collector", SanType::DnsName("localhost".try_into()?), 2070)?;
    dublin.process.signal(Signal::SIGHUP)?;
    yard.collector.signal(Signal::SIGHUP)?;
    yard.until_ends(2_840_140_800.0, 3_155_760_000.0).await
}

/// Each role may do what it is for, as programs and as browsers show it, and what is open to everybody says nothing about the fleet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_by_role() -> Result<()> {
    let yard = Yard::start(furnished("tokens", &Authority::new("right")?)?)?;
    wait::until("the collector judges", PATIENCE, || async {
        let (status, text) = yard.get("/ready", None).await?;
        ensure!(status == 200, "{text}");
        Ok(())
    })
    .await?;
    ensure!(yard.get("/", Some("guess")).await?.0 == 401, "a guess gets in");
    for path in ["/", "/page.js", "/v1/status", "/metrics"] {
        for (token, expected) in [(None, 401), (Some("sender"), 403), (Some("reader"), 200), (Some("boss"), 200)] {
            let (status, text) = yard.get(path, token).await?;
            ensure!(status == expected, "{path} with {token:?}: {status} {text}");
            ensure!(expected == 200 || !text.contains("dublin"), "{path} says more than it should: {text}");
        }
    }
    ensure!(yard.get("/health", None).await? == (200, "alive\n".to_owned()), "/health is open");
    let url = format!("https://localhost:{}/", yard.port);
    let asked = yard.client("ca.crt")?.get(&url).send().await?;
    let ways = asked.headers().get_all("www-authenticate").iter().filter_map(|way| way.to_str().ok()).collect::<String>();
    ensure!(asked.status() == 401 && ways.contains("Basic realm"), "a browser would not ask: {ways}");
    let page = yard.client("ca.crt")?.get(&url).basic_auth("anybody", Some("reader")).send().await?;
    ensure!(page.status() == 200, "a browser does not get in: {}", page.status());

    let _agent = yard.agent("dublin", &[("--otlp-token-file", format!("main={}", written(&yard, "agent.token", "sender")?))])?;
    yard.until_reporting(1).await?;

    let status = |token: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(files::program("lagmesh")?);
        command.env_clear().args(["status", "--url", &url, "--ca-file"]).arg(yard.path("ca.crt")).args(token);
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
    };
    let token = written(&yard, "reader.token", "reader\n")?;
    let (code, text) = status(&["--token-file", &token])?;
    ensure!(code == Some(0) && text.contains("1 of 2 regions report"), "{text}");
    let (code, text) = status(&[])?;
    ensure!(code == Some(1) && text.contains("--token-file") && text.contains("role read"), "{text}");
    Ok(())
}

fn written(yard: &Yard, name: &str, text: &str) -> Result<String> {
    Ok(files::secret(yard.folder.path(), name, text)?.display().to_string())
}

/// Tokens and certificates are replaced while the collector runs, on SIGHUP and without; a broken file keeps the old one in force and is
/// counted. What `lagmesh token` prints is understood.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_while_running() -> Result<()> {
    let mut yard = Yard::start(furnished("rotation", &Authority::new("right")?)?)?;
    yard.until_reporting(0).await?;
    let failures = async |yard: &Yard, what: &str| {
        yard.count(&format!("lagmesh_collector_reload_failures_total{{reason=\"{what}\"}} ")).await
    };

    // Broken files change nothing.
    fs::write(yard.path("tokens.toml"), tokens() + "[[token]]\nname = \"half")?;
    fs::write(yard.path("collector.key"), "-----BEGIN PRIVATE KEY-----\n")?;
    yard.collector.signal(Signal::SIGHUP)?;
    wait::until("both failures are counted", PATIENCE, || async {
        let counts = (failures(&yard, "tokens").await?, failures(&yard, "certificates").await?);
        ensure!(counts == (1, 1), "{counts:?}");
        Ok(())
    })
    .await?;
    ensure!(yard.get("/", Some("boss")).await?.0 == 200, "the old tokens are in force");

    // A new token, with nobody saying so; the entry of an old one is gone.
    let made = Command::new(files::program("lagmesh")?).args(["token", "--name", "new", "--role", "read"]).output()?;
    let (token, added) = (String::from_utf8(made.stdout)?, String::from_utf8(made.stderr)?);
    fs::write(yard.path("tokens.toml"), entry("reader", "read") + &added)?;
    wait::until("the new token is taken", PATIENCE, || async {
        let (status, text) = yard.get("/", Some(token.trim())).await?;
        ensure!(status == 200, "{status} {text}");
        Ok(())
    })
    .await?;
    // Those who waited for the new one were refused often enough that this may be told to come later.
    let (status, text) = yard.get("/", Some("boss")).await?;
    ensure!(matches!(status, 401 | 429), "a token that was taken back: {status} {text}");

    // A certificate of another authority: whoever trusts only the old one no longer connects.
    let other = Authority::new("other")?;
    fs::write(yard.path("other.crt"), &other.pem)?;
    other.server(yard.folder.path(), "collector")?;
    yard.collector.signal(Signal::SIGHUP)?;
    let health = format!("https://localhost:{}/health", yard.port);
    wait::until("the new certificate is shown", PATIENCE, || async {
        ensure!(yard.client("other.crt")?.get(&health).send().await?.status() == 200, "not well");
        Ok(())
    })
    .await?;
    ensure!(yard.client("ca.crt")?.get(&health).send().await.is_err(), "the old certificate is still shown");
    Ok(())
}

/// Beside loopback a certificate is not enough: a collector that asks nobody who they are does not start, with code 78 and one line.
#[test]
fn refuses_to_start_open_to_strangers() -> Result<()> {
    let authority = Authority::new("right")?;
    let folder = furnished("strangers", &authority)?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("fleet.toml"), "name = \"example\"\n[[region]]\nname = \"a\"\n[[region.agent]]\nmesh = \"127.0.0.1:9\"\n")?;
    let run = |more: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(files::program("lagmesh-collector")?);
        command.args(["--fleet", &path("fleet.toml"), "--state-dir", &path("state"), "--http-listen", "0.0.0.0:0"]);
        command.args(["--tls-cert-file", &path("collector.crt"), "--tls-key-file", &path("collector.key")]).args(more);
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, text) = run(&[])?;
    ensure!(code == Some(78) && text.lines().count() == 1, "ended with {code:?}: {text}");
    ensure!(["--tls-client-ca-file", "--tokens-file", "insecure"].iter().all(|word| text.contains(word)), "{text}");
    fs::write(path("tokens.toml"), "")?;
    let (code, text) = run(&["--tokens-file", &path("tokens.toml")])?;
    ensure!(code == Some(78) && text.contains("lagmesh token"), "ended with {code:?}: {text}");
    let (code, text) = run(&["--tls-client-ca-file", &path("tokens.toml")])?;
    ensure!(code == Some(78) && text.contains("authority of the clients"), "ended with {code:?}: {text}");
    Ok(())
}

/// The commands of the handbook make certificates with which a fleet works, as they stand there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_the_handbook() -> Result<()> {
    let page = fs::read_to_string(repository("docs/security.md"))?;
    let script = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).context("no commands")?;
    ensure!(script.contains("DNS:collector.example.com"), "the commands name the collector otherwise");
    let folder = RunFolder::new("handbook")?;
    let script = script.replace("collector.example.com", "localhost").replace("dublin-1", "dublin");
    let made = Command::new("sh").args(["-ec", &script]).current_dir(folder.path()).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(folder.path().join("tokens.toml"), tokens())?;
    let yard = Yard::start(folder)?;
    let _agents = [yard.agent("new-york", &yard.certificate("new-york"))?, yard.agent("dublin", &yard.certificate("dublin"))?];
    yard.until_reporting(2).await
}
