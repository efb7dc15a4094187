//! Beside loopback everything is encrypted and checked, or declared to be insecure; nothing starts half-way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lagmesh_model::status::{AgentStatus, Export, FleetStatus};
use lagmesh_tests::files::{self, RunFolder};
use lagmesh_tests::process::Process;
use lagmesh_tests::{ports, wait, world};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::install_crypto;

const PATIENCE: Duration = Duration::from_secs(30);

/// An authority and the files of a server that it vouches for.
struct Authority {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// One that vouches for `localhost`.
    fn new(folder: &Path, name: &str) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own_key = KeyPair::generate()?;
        let own = params.self_signed(&own_key)?;
        let server_key = KeyPair::generate()?;
        let server =
            CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&server_key, &Issuer::new(params, own_key))?;
        let file = |what: &str, pem: String| -> Result<PathBuf> {
            let path = folder.join(format!("{name}-{what}.pem"));
            fs::write(&path, pem)?;
            Ok(path)
        };
        Ok(Authority {
            ca: file("ca", own.pem())?,
            cert: file("cert", server.pem())?,
            key: file("key", server_key.serialize_pem())?,
        })
    }
}

/// A collector that speaks TLS alone, and one agent of a fleet of two regions without databases.
struct Pair {
    folder: RunFolder,
    collector_port: u16,
    agent_port: u16,
    http: reqwest::Client,
    _processes: Vec<Process>,
}

impl Pair {
    /// `trusted` is whose word the agent takes; the collector shows what `serving` gave it.
    fn start(purpose: &str, serving: &str, trusted: &str) -> Result<Pair> {
        install_crypto();
        let folder = RunFolder::new(purpose)?;
        let (right, other) = (Authority::new(folder.path(), "right")?, Authority::new(folder.path(), "other")?);
        let of = |name: &str| if name == "right" { &right } else { &other };
        let (collector_port, agent_port) = (ports::free()?, ports::free()?);
        let fleet = folder.path().join("fleet.toml");
        fs::write(&fleet, fleet_file(&format!("127.0.0.1:{}", ports::free()?), &format!("https://localhost:{collector_port}")))?;
        let text = |path: &Path| path.display().to_string();
        let state = |name: &str| text(&folder.path().join(name));
        let collector = world::start::daemon(
            "collector",
            "lagmesh-collector",
            &[
                ("--fleet", text(&fleet)),
                ("--http-listen", format!("127.0.0.1:{collector_port}")),
                ("--grpc-listen", "127.0.0.1:0".to_owned()),
                ("--state-dir", state("collector-state")),
                ("--tls-cert-file", text(&of(serving).cert)),
                ("--tls-key-file", text(&of(serving).key)),
            ],
        )?;
        let agent = world::start::daemon(
            "agent",
            "lagmesh-agent",
            &[
                ("--fleet", text(&fleet)),
                ("--region", "a".to_owned()),
                ("--http-listen", format!("127.0.0.1:{agent_port}")),
                ("--state-dir", state("agent-state")),
                ("--otlp-ca-file", text(&of(trusted).ca)),
            ],
        )?;
        let processes = vec![Process::start(collector, folder.path())?, Process::start(agent, folder.path())?];
        let authority = reqwest::Certificate::from_pem(&fs::read(&of(serving).ca)?)?;
        let http = reqwest::Client::builder().tls_certs_only([authority]).timeout(Duration::from_secs(5)).build()?;
        Ok(Pair { folder, collector_port, agent_port, http, _processes: processes })
    }

    async fn fetch(&self, url: String) -> Result<String> {
        Ok(self.http.get(url).send().await?.error_for_status()?.text().await?)
    }

    async fn collector_status(&self) -> Result<FleetStatus> {
        Ok(serde_json::from_str(&self.fetch(format!("https://localhost:{}/v1/status", self.collector_port)).await?)?)
    }

    async fn export(&self) -> Result<Export> {
        let text = self.fetch(format!("http://127.0.0.1:{}/v1/status", self.agent_port)).await?;
        serde_json::from_str::<AgentStatus>(&text)?.exports.into_iter().next().context("no export is listed")
    }

    /// `lagmesh status` of the collector, trusting an authority.
    fn shown(&self, authority: &str) -> Result<Output> {
        let ca = self.folder.path().join(format!("{authority}-ca.pem"));
        let url = format!("https://localhost:{}", self.collector_port);
        Ok(Command::new(files::program("lagmesh")?).args(["status", "--url", &url, "--ca-file"]).arg(ca).output()?)
    }
}

fn fleet_file(mesh: &str, otlp: &str) -> String {
    format!(
        "name = \"tls\"\n[[region]]\nname = \"a\"\n[[region.agent]]\nmesh = \"{mesh}\"\n[[region]]\nname = \"b\"\n[[region.agent]]\n\
         mesh = \"127.0.0.1:9\"\n[[collector]]\nname = \"main\"\notlp = \"{otlp}\"\n[export]\ninterval = \"1s\"\n"
    )
}

/// An agent delivers to a collector for which its authority vouches, and `lagmesh status` reads there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivers_to_whom_its_authority_vouches_for() -> Result<()> {
    let pair = Pair::start("tls", "right", "right")?;
    wait::until("the collector has heard the agent", PATIENCE, || async {
        let status = pair.collector_status().await?;
        ensure!(status.regions_reporting == 1, "{} regions report", status.regions_reporting);
        Ok(())
    })
    .await?;
    wait::until("the agent knows that it delivers", PATIENCE, || async {
        let export = pair.export().await?;
        ensure!(export.acknowledged_age_s.is_known() && export.error.is_none(), "{export:?}");
        Ok(())
    })
    .await?;
    let shown = pair.shown("right")?;
    ensure!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains("1 of 2 regions report"), "{shown:?}");
    let refused = pair.shown("other")?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && why.contains("certificate") && refused.stdout.is_empty(), "{why}");
    Ok(())
}

/// A collector for which somebody else vouches gets nothing: the agent keeps its batches and names the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivers_to_nobody_else() -> Result<()> {
    let pair = Pair::start("tls-wrong", "right", "other")?;
    wait::until("the agent names the certificate", PATIENCE, || async {
        let export = pair.export().await?;
        let error = export.error.context("no error yet")?;
        ensure!(error.contains("certificate"), "{error}");
        ensure!(export.pending_batches >= 3, "only {} batches wait", export.pending_batches);
        ensure!(!export.acknowledged_age_s.is_known(), "something was acknowledged");
        Ok(())
    })
    .await?;
    let status = pair.collector_status().await?;
    ensure!(status.regions_reporting == 0, "something was delivered");
    Ok(())
}

/// Both programs refuse to start unencrypted beside loopback, with code 78 and one line that says what to do.
#[test]
fn refuse_to_start_in_the_open() -> Result<()> {
    let folder = RunFolder::new("open")?;
    let state = folder.path().join("state");
    let run = |program: &str, fleet: &str, args: &[&str]| -> Result<(Option<i32>, String)> {
        let file = folder.path().join("fleet.toml");
        fs::write(&file, fleet)?;
        let mut command = Command::new(files::program(program)?);
        let output = command.arg("--fleet").arg(&file).arg("--state-dir").arg(&state).args(args).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (loopback, beside) = ("127.0.0.1:8620", "192.0.2.1:8620");
    let (tls, plain, local) = ("https://192.0.2.9:8622", "http://192.0.2.9:8622", "http://127.0.0.1:8622");
    let agent = ["--region", "a"];
    for (program, fleet, args, wanted) in [
        ("lagmesh-agent", fleet_file(beside, tls), &agent[..], "--mesh-key-file"),
        ("lagmesh-agent", fleet_file(loopback, plain), &agent, "https"),
        ("lagmesh-agent", fleet_file(loopback, local), &["--region", "a", "--mesh-listen", "0.0.0.0:0"], "--mesh-key-file"),
        ("lagmesh-collector", fleet_file(loopback, local), &["--http-listen", "0.0.0.0:0"], "--tls-cert-file"),
        ("lagmesh-collector", fleet_file(loopback, local), &["--grpc-listen", "[::]:0"], "--tls-cert-file"),
    ] {
        let (code, text) = run(program, &fleet, args)?;
        ensure!(code == Some(78), "{program} {args:?} ended with {code:?}: {text}");
        ensure!(text.lines().count() == 1 && text.contains(wanted) && text.contains("insecure"), "{program} {args:?}: {text}");
        ensure!(!state.exists(), "{program} {args:?} has opened its state before it refused");
    }
    Ok(())
}
