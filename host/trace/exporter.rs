//! Tells a collector of spans, on a thread of its own: requests hand theirs over and go on. What cannot be delivered at once is dropped
//! and counted, for a collector that is slow or away is nobody's business but the operator's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::otlp::{Rejected, Teller};
use super::span::{Span, clipped};
use crate::config;
use crate::connection::{AnswerBody, Connections, Keep, Reach};
use crate::dialer::{Dial, Endpoint};

/// See the module.
pub struct Exporter {
    /// The spans of one request each.
    queue: mpsc::Receiver<Vec<Span>>,
    teller: Teller,
    /// The request without its body.
    headers: HeaderMap,
    path: Uri,
    endpoint: Arc<Endpoint>,
    connections: Arc<Connections>,
    timeout: Duration,
    dropped: Counter,
    /// The last delivery was not taken: that is told once, and when it is over.
    is_failing: bool,
}

/// Several requests that are told of at once.
#[derive(Default)]
struct Batch {
    requests: u64,
    spans: Vec<Span>,
}

/// Spans of one delivery; those of one request stay together.
const MAX_SPANS: usize = 512;
/// How long the first of a delivery waits for others.
const GATHERING: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

impl Exporter {
    /// Tells whatever comes through the queue, counting what it cannot deliver.
    pub fn new(
        rules: &config::Trace,
        queue: mpsc::Receiver<Vec<Span>>,
        dialer: Arc<dyn Dial>,
        dropped: Counter,
    ) -> Self {
        let keep = Keep {
            per_endpoint: 1,
            idle: Duration::from_secs(30),
            age: config::Attempts::default().connection_age,
        };
        let endpoint = Endpoint::of(&rules.endpoint);
        let path = rules.endpoint.path_and_query().map_or("/", |path| path.as_str());
        Self {
            queue,
            teller: Teller::new(),
            headers: headers(rules, &endpoint),
            path: path.parse().unwrap_or_default(),
            endpoint: Arc::new(endpoint),
            connections: Arc::new(Connections::new(keep, dialer)),
            timeout: rules.timeout,
            dropped,
            is_failing: false,
        }
    }

    /// Runs until nobody can hand anything over any more and all that was is told.
    pub fn start(self) -> io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || runtime.block_on(self.run()))
    }

    async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            let told = match timeout(self.timeout, self.tell(&batch.spans)).await {
                Ok(told) => told,
                Err(_) => Err(format!("no answer within {} ms", self.timeout.as_millis())),
            };
            match told {
                Ok(rejected) => self.delivered(rejected),
                Err(why) => self.lost(batch.requests, &why),
            }
        }
    }

    /// What is to be told next: what is there, and what comes soon.
    async fn gather(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        batch.add(self.queue.recv().await?);
        let until = Instant::now() + GATHERING;
        while batch.spans.len() < MAX_SPANS {
            match timeout_at(until, self.queue.recv()).await {
                Ok(Some(spans)) => batch.add(spans),
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }

    async fn tell(&self, spans: &[Span]) -> Result<Option<Rejected>, String> {
        let body = Bytes::from(self.teller.encode(spans));
        let request = || self.request(body.clone());
        let sent = self
            .connections
            .send(&self.endpoint, request, || true, Reach::within(self.timeout))
            .await;
        let answer = sent.map_err(|error| error.to_string())?;
        // Read in any case, so that the connection can be used again.
        let said = read(answer.body).await?;
        match answer.head.status {
            status if status.is_success() => Ok(Rejected::read(&said)),
            StatusCode::NOT_FOUND => Err("404: the endpoint's path may be wrong, usually it is /v1/traces".to_owned()),
            status => Err(format!("it answered {status}")),
        }
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    fn delivered(&mut self, rejected: Option<Rejected>) {
        let collector = self.endpoint.authority();
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(collector, "traces are delivered again");
        }
        if let Some(Rejected { spans, why }) = rejected {
            tracing::warn!(collector, spans, why = clipped(&why), "the collector rejected spans");
        }
    }

    fn lost(&mut self, requests: u64, why: &str) {
        self.dropped.inc_by(requests);
        if !std::mem::replace(&mut self.is_failing, true) {
            let collector = self.endpoint.authority();
            tracing::warn!(
                collector,
                why,
                "traces cannot be delivered: until they can, they are dropped"
            );
        }
    }
}

impl Batch {
    fn add(&mut self, spans: Vec<Span>) {
        self.requests += 1;
        self.spans.extend(spans);
    }
}

fn headers(rules: &config::Trace, endpoint: &Endpoint) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &rules.headers {
        let mut value = HeaderValue::from_str(value.reveal()).expect("it was checked when it was read");
        value.set_sensitive(true);
        headers.insert(name.clone(), value);
    }
    let host = endpoint
        .authority()
        .parse()
        .expect("an address was checked when it was read");
    headers.insert(header::HOST, host);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
        .entry(header::USER_AGENT)
        .or_insert(HeaderValue::from_static(concat!(
            "pointsman/",
            env!("CARGO_PKG_VERSION")
        )));
    headers
}

async fn read(mut body: AnswerBody) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = body.bytes().await {
        whole.extend_from_slice(&bytes.map_err(|error| format!("its answer broke off: {error}"))?);
        if whole.len() > MAX_ANSWER {
            return Err(format!("its answer is longer than {MAX_ANSWER} bytes"));
        }
    }
    Ok(whole.freeze())
}
