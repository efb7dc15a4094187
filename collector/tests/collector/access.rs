//! Who gets in over gRPC, and how the others are told.

use lagmesh_model::access::TokenHash;
use lagmesh_model::series::Batch;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use rcgen::{BasicConstraints, CertificateParams, DnValue, IsCa, Issuer, KeyPair, SanType};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::otlp::{batch, request};
use crate::process::{Collector, Home};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, DnValue::Utf8String(name.to_owned()));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key.
    fn issue(&self, name: SanType) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![name];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn agent(&self, uri: &str) -> Identity {
        let (cert, key) = self.issue(SanType::URI(uri.try_into().unwrap()));
        Identity::from_pem(cert, key)
    }
}

/// A collector that asks for certificates of an authority, or for tokens.
struct Door {
    authority: Authority,
    collector: Collector,
    _home: Home,
}

impl Door {
    fn new(more: &[&str]) -> Door {
        let home = Home::new();
        let authority = Authority::new("right");
        let (cert, key) = authority.issue(SanType::DnsName("localhost".try_into().unwrap()));
        let entry = |name: &str, rest: &str| {
            format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{rest}\n", TokenHash::of(name.as_bytes()))
        };
        let tokens = entry("sender", "role = \"ingest\"\nregion = \"a\"")
            + &entry("other", "role = \"ingest\"\nregion = \"b\"")
            + &entry("reader", "role = \"read\"");
        let files = [("cert.pem", &cert), ("key.pem", &key), ("ca.pem", &authority.pem), ("tokens.toml", &tokens)];
        let paths = files.map(|(name, text)| home.write(name, text).display().to_string());
        let flags = ["--tls-cert-file", "--tls-key-file", "--tls-client-ca-file", "--tokens-file"];
        let args: Vec<&str> =
            flags.iter().zip(&paths).flat_map(|(flag, path)| [*flag, path]).chain(more.iter().copied()).collect();
        Door { authority, collector: home.start(&args), _home: home }
    }

    async fn client(&self, identity: Option<Identity>) -> MetricsServiceClient<Channel> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authority.pem));
        let tls = if let Some(identity) = identity { tls.identity(identity) } else { tls };
        let url = format!("https://localhost:{}", self.collector.grpc.port());
        MetricsServiceClient::new(Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap())
    }

    async fn export(&self, identity: Option<Identity>, token: Option<&str>, batch: &Batch) -> Result<(), Status> {
        let mut request = Request::new(request(batch));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        self.client(identity).await.export(request).await.map(drop)
    }
}

/// Over gRPC an agent sends for itself with its certificate or its token, and for nobody else; whoever shows nothing sends nothing.
#[tokio::test]
async fn grpc_takes_from_each_only_its_own() {
    let door = Door::new(&[]);
    let own = "lagmesh://demo/a/a";
    let refused = async |identity: Option<&str>, token| {
        let identity = identity.map(|uri| door.authority.agent(uri));
        let status = door.export(identity, token, &batch(1, 1)).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let (code, why) = refused(Some("lagmesh://demo/b/b"), None).await;
    assert!(code == Code::PermissionDenied && why.contains("for region \"b\"") && why.contains("from region \"a\""), "{why}");
    assert_eq!(refused(Some("lagmesh://other/a/a"), None).await.0, Code::PermissionDenied);
    assert_eq!(refused(Some("https://demo/a/a"), None).await.0, Code::PermissionDenied);
    assert_eq!(refused(None, None).await.0, Code::Unauthenticated);
    assert_eq!(refused(None, Some("guess")).await.0, Code::Unauthenticated);
    assert_eq!(refused(None, Some("reader")).await.0, Code::PermissionDenied);
    assert_eq!(refused(None, Some("other")).await.0, Code::PermissionDenied);
    door.export(Some(door.authority.agent(own)), None, &batch(1, 1)).await.unwrap();
    door.export(None, Some("sender"), &batch(1, 2)).await.unwrap();
}

/// Who sends more than their share over gRPC is told when to come back, in the way that OTLP clients understand.
#[tokio::test]
async fn shares_over_grpc() {
    let door = Door::new(&["--client-requests-per-s", "1"]);
    let mut client = door.client(Some(door.authority.agent("lagmesh://demo/a/a"))).await;
    let mut refusal = None;
    for sequence in 1..30 {
        if let Err(status) = client.export(request(&batch(1, sequence))).await {
            refusal = Some(status);
            break;
        }
    }
    let refusal = refusal.expect("thirty requests at once are too many");
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    let details = String::from_utf8_lossy(refusal.details()).into_owned();
    assert!(details.contains("google.rpc.RetryInfo"), "{details}");
}
