//! A content control manager that says what a test tells it to: real TLS, real HTTP, no content.

#![allow(clippy::unwrap_used, reason = "a fixture: what goes wrong in it is a failed test")]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// The token that the fake's data directory holds.
pub(crate) const TOKEN: &str = "the-token";

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    /// Method and path with query.
    pub(crate) line: String,
    /// The bearer token.
    pub(crate) token: String,
    /// The body; `Null` when there was none.
    pub(crate) body: Value,
}

#[derive(Default)]
struct Script {
    answers: BTreeMap<String, VecDeque<(u16, String)>>,
    asked: Vec<Asked>,
}

/// The fake. Stops when dropped.
pub(crate) struct Fake {
    directory: TempDir,
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    runtime: Option<Runtime>,
}

impl Fake {
    /// A content control manager as it should be.
    pub(crate) fn start() -> Self {
        Self::start_as("pressrun://ccm")
    }

    /// One whose certificate names somebody.
    pub(crate) fn start_as(uri: &str) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["pressrun.internal".to_owned()]).unwrap();
        leaf.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let certificate: CertificateDer<'static> = leaf.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];

        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        runtime.spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&script)));

        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("keys")).unwrap();
        for (name, text) in [("ccm.address", &format!("https://{address}")), ("admin.token", &TOKEN.to_owned())] {
            fs::write(directory.path().join(name), format!("{text}\n")).unwrap();
        }
        fs::write(directory.path().join("keys/ca.pem"), ca_pem).unwrap();
        Self { directory, address, script, runtime: Some(runtime) }
    }

    /// Has an answer to a request ready; several to the same are given in turn, the last one for good.
    pub(crate) fn answers(self, line: &str, status: u16, body: &str) -> Self {
        let mut script = self.script.lock().unwrap();
        script.answers.entry(line.to_owned()).or_default().push_back((status, body.to_owned()));
        drop(script);
        self
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        self.directory.path()
    }

    /// The certificate authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.data().join("keys/ca.pem")
    }

    /// All requests until now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    /// Listens no more.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Runs a command with `--data` of the fake.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        run(&[arguments, &["--data", self.data().to_str().unwrap()]].concat(), &[])
    }

    /// As [`Fake::run`], with `--json`.
    pub(crate) fn run_json(&self, arguments: &[&str]) -> Ended {
        self.run(&[arguments, &["--json"]].concat())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, script) = (tls.clone(), Arc::clone(&script));
        tokio::spawn(async move {
            // A client that does not like the certificate goes away, which is what some tests want.
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(Arc::clone(&script), request));
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn answer(script: Arc<Mutex<Script>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let line = format!("{} {}", request.method(), request.uri().path_and_query().unwrap());
    let token = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let token = token.unwrap_or_default().trim_start_matches("Bearer ").to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let mut script = script.lock().unwrap();
    let answers = script.answers.get_mut(&line);
    let (status, text) = match answers {
        Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
        Some(answers) => answers[0].clone(),
        None => (404, format!(r#"{{"title":"Not Found","status":404,"detail":"no answer to {line}","code":"fake"}}"#)),
    };
    script.asked.push(Asked { line, token, body });
    Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ends by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs a command in an environment that says nothing but what is given.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pressrun"));
    for name in ["DATA", "CCM", "TOKEN", "TOKEN_FILE", "CA"] {
        command.env_remove(format!("PRESSRUN_{name}"));
    }
    command.args(arguments).envs(environment.iter().copied()).output().unwrap().into()
}
