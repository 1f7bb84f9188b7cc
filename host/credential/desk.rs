//! For tests: a desk that gives credentials out, on loopback, and remembers who asked for what.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::Courier;
use crate::dialer::Network;
use crate::tls::Trust;

/// See the module.
pub(super) struct Desk {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A request that came.
pub(super) struct Asked {
    /// Method, path and query.
    pub line: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the desk answers: a script, or whatever it was asked, as an error.
#[derive(Clone)]
enum Script {
    Answers(Arc<Mutex<VecDeque<(u16, String)>>>),
    Echo(u16),
}

impl Desk {
    /// Gives these answers, one after the other.
    pub(super) async fn answering<'a>(answers: impl IntoIterator<Item = (u16, &'a str)>) -> Self {
        let answers = answers.into_iter().map(|(status, body)| (status, body.to_owned()));
        Self::open(Script::Answers(Arc::new(Mutex::new(answers.collect())))).await
    }

    /// Repeats all that it is told in its refusal.
    pub(super) async fn echoing(status: u16) -> Self {
        Self::open(Script::Echo(status)).await
    }

    async fn open(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen) = (script.clone(), seen.clone());
                let service = service_fn(move |request| answer(request, script.clone(), seen.clone()));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { address, asked }
    }

    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked so far, in order.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn field(&self, name: &str) -> String {
        let mut fields = form_urlencoded::parse(&self.body);
        fields
            .find(|(found, _)| found == name)
            .unwrap_or_default()
            .1
            .into_owned()
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Script,
    seen: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (status, text) = match script {
        Script::Answers(answers) => answers
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or((599, "unexpected".to_owned())),
        Script::Echo(status) => (status, echo(&body)),
    };
    seen.lock().unwrap().push(Asked {
        line: format!("{} {}", head.method, head.uri),
        headers: head.headers,
        body,
    });
    let response = Response::builder().status(status).body(Full::new(Bytes::from(text)));
    Ok(response.unwrap())
}

fn echo(form: &[u8]) -> String {
    let fields: Vec<_> = form_urlencoded::parse(form)
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    serde_json::json!({ "error": "invalid_client", "error_description": fields.join(" ") }).to_string()
}

/// A courier that trusts nobody: nothing here speaks TLS.
pub(super) fn courier() -> Courier {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Courier::new(Arc::new(Network::new(Trust::of(config))))
}

/// An environment with these variables and no others.
pub(super) fn environment(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    move |wanted| {
        let found = variables.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone())
    }
}
