//! The listener for clients: its limits and manners.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::file;
use super::section::Section;
use super::spelling::excerpt;
use crate::origin;
use crate::wire::shape::MIN_ITEMS;

/// One `[server]`: limits and manners of the listener for clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Worker threads, 1 to 1024; default: the cores this process may use.
    pub workers: usize,
    /// How requests are spread over workers; default: per core.
    pub runtime: Runtime,
    /// `None`: plain HTTP, the default.
    pub tls: Option<TlsFiles>,
    /// Connections open at once; more wait to be accepted. Default: 10,000.
    pub max_connections: usize,
    /// Requests in progress at once; more are answered 503. Default: 4096.
    pub max_requests: usize,
    /// Bytes of a request's body; more is answered 413. Default: 32 MiB.
    pub max_body_bytes: usize,
    /// Bytes of the bodies of all requests in progress together; one that no longer fits is answered 503. Default: 1 GiB.
    pub max_bodies_bytes: usize,
    /// Items of a request that is decoded: messages, parts, tools, calls; a long one may have one for every 256 bytes. Default: 4096.
    pub max_items: usize,
    /// Bytes of the whole answers of all requests in progress together, and of events of streams while they come; an answer that no
    /// longer fits is given up with 503. Default: 1 GiB.
    pub max_answers_bytes: usize,
    /// Bytes of a request's head, at least 8 KiB; more is answered 431. Default: 64 KiB.
    pub max_head_bytes: usize,
    /// Time for the head of a connection's first request to arrive; default: 10 s. Later ones have `idle_timeout`.
    pub head_timeout: Duration,
    /// Streams of one HTTP/2 connection at once, 1 to 10,000; default: 128.
    pub http2_max_streams: u32,
    /// What one client may hold of `max_requests`, `max_bodies_bytes` and `max_answers_bytes`, 0.01 to 1: a gateway key or, where there
    /// are none, an address. More is answered 429. Default: 0.5.
    pub client_share: f64,
    /// Time for the whole body of a request to arrive; then 408. Default: 60 s.
    pub body_timeout: Duration,
    /// How long a body may take whatever its rate; default: 10 s.
    pub body_grace: Duration,
    /// Bytes of a body that must arrive in each second beyond that; slower ones are answered 408. 0: any rate will do. Default: 1024.
    pub min_body_rate: u32,
    /// How long a connection may be idle between two requests; default: 75 s.
    pub idle_timeout: Duration,
    /// How long a client may leave what it was sent unread; then its connection is closed. Default: 60 s.
    pub stall_timeout: Duration,
    /// How long open requests may finish after SIGTERM; default: 30 s.
    pub drain: Duration,
    /// How long readiness is red before the listener closes; default: 0.
    pub drain_delay: Duration,
    /// Names besides addresses and `localhost` that requests may ask for; default: none. They are checked where some are written, and
    /// where there are no keys and the listener is on loopback.
    pub hosts: Vec<String>,
    /// Web pages that may send requests and read answers, by origin; default: none. Without keys, no others may send any.
    pub origins: Vec<String>,
}

/// How requests are spread over cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// One single-threaded runtime and one listener for each worker.
    PerCore,
    /// One runtime whose workers share all work.
    Shared,
}

/// Certificate chain and private key, PEM. Both were there and readable when the configuration was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those between it and an authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            workers: thread::available_parallelism().map_or(1, usize::from),
            runtime: Runtime::PerCore,
            tls: None,
            max_connections: 10_000,
            max_requests: 4096,
            max_body_bytes: 32 << 20,
            max_bodies_bytes: 1 << 30,
            max_items: MIN_ITEMS,
            max_answers_bytes: 1 << 30,
            max_head_bytes: 64 << 10,
            http2_max_streams: 128,
            client_share: 0.5,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            body_grace: Duration::from_secs(10),
            min_body_rate: 1024,
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            hosts: Vec::new(),
            origins: Vec::new(),
        }
    }
}

impl Server {
    /// What one client may hold of `all`: at least one, and at least what one request needs.
    pub fn share_of(&self, all: usize, needed: usize) -> usize {
        ((all as f64 * self.client_share).ceil() as usize).max(needed)
    }

    /// How long a body may take of which so many bytes have arrived.
    pub fn time_for_body(&self, arrived: usize) -> Duration {
        let at_least_rate = match self.min_body_rate {
            0 => Duration::MAX,
            rate => Duration::from_secs_f64(arrived as f64 / f64::from(rate)),
        };
        self.body_grace.saturating_add(at_least_rate).min(self.body_timeout)
    }

    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let runtimes = [("per-core", Runtime::PerCore), ("shared", Runtime::Shared)];
        let server = Self {
            workers: section.whole("workers", 1..=1024).unwrap_or(default.workers),
            runtime: section.choice("runtime", &runtimes).unwrap_or(default.runtime),
            tls: TlsFiles::read(section.section("tls")),
            max_connections: section
                .whole("max_connections", 1..=1_000_000)
                .unwrap_or(default.max_connections),
            max_requests: section
                .whole("max_requests", 1..=1_000_000)
                .unwrap_or(default.max_requests),
            max_body_bytes: section.mib("max_body_mib", 1..=1024).unwrap_or(default.max_body_bytes),
            max_bodies_bytes: section
                .mib("max_bodies_mib", 1..=1 << 20)
                .unwrap_or(default.max_bodies_bytes),
            max_items: section.whole("max_items", 1..=10_000_000).unwrap_or(default.max_items),
            max_answers_bytes: section
                .mib("max_answers_mib", 1..=1 << 20)
                .unwrap_or(default.max_answers_bytes),
            max_head_bytes: section.kib("max_head_kib", 8..=1024).unwrap_or(default.max_head_bytes),
            http2_max_streams: section
                .whole("http2_max_streams", 1..=10_000)
                .unwrap_or(default.http2_max_streams),
            client_share: section
                .number("client_share", 0.01..=1.0)
                .unwrap_or(default.client_share),
            head_timeout: section
                .millis("head_timeout_ms", 1..=600_000)
                .unwrap_or(default.head_timeout),
            body_timeout: section
                .millis("body_timeout_ms", 1..=3_600_000)
                .unwrap_or(default.body_timeout),
            body_grace: section
                .millis("body_grace_ms", 1..=3_600_000)
                .unwrap_or(default.body_grace),
            min_body_rate: section
                .whole("min_body_rate", 0..=1 << 30)
                .unwrap_or(default.min_body_rate),
            idle_timeout: section
                .millis("idle_timeout_ms", 1..=3_600_000)
                .unwrap_or(default.idle_timeout),
            stall_timeout: section
                .millis("stall_timeout_ms", 1..=3_600_000)
                .unwrap_or(default.stall_timeout),
            drain: section.millis("drain_ms", 0..=3_600_000).unwrap_or(default.drain),
            drain_delay: section
                .millis("drain_delay_ms", 0..=600_000)
                .unwrap_or(default.drain_delay),
            hosts: names(&mut section, "hosts", origin::fault_of_host, "llm.example.com"),
            origins: names(
                &mut section,
                "origins",
                origin::fault_of_origin,
                "https://app.example.com",
            ),
        };
        if server.max_bodies_bytes < server.max_body_bytes {
            let found = "max_bodies_mib has no room for one body of max_body_mib".to_owned();
            let line = section.line_of("max_bodies_mib");
            section
                .document
                .suspicious(line, found, "raise the one or lower the other");
        }
        section.close();
        server
    }
}

/// A list of hosts or origins.
fn names(
    section: &mut Section<'_>,
    key: &'static str,
    fault: fn(&str) -> Option<&'static str>,
    example: &str,
) -> Vec<String> {
    let written = section.texts(key).unwrap_or_default();
    let names = written.into_iter().filter_map(|name| match fault(name.value) {
        None => Some(name.value.to_owned()),
        Some(fault) => {
            let found = format!("has \"{}\", which {fault}", excerpt(name.value));
            section.wrong(name.line, key, &found, format!("write {key} = [\"{example}\"]"));
            None
        }
    });
    names.collect()
}

impl TlsFiles {
    fn read(mut section: Section<'_>) -> Option<Self> {
        if !section.is_written() {
            return None;
        }
        for key in ["certificate", "key"].into_iter().filter(|key| !section.has(key)) {
            section.missing(key, format!("write {key} = \"PATH\""));
        }
        let certificate = section.pem_file("certificate", file::fault_of_certificates);
        let key = section.pem_file("key", file::fault_of_private_key);
        if let (Some((_, Some(certificate))), Some((path, Some(key)))) = (&certificate, &key)
            && let Some(fault) = file::fault_of_pair(certificate, key)
        {
            let (line, fault) = (
                section.line_of("key"),
                format!("is `{}`, which {fault}", path.display()),
            );
            section.wrong(line, "key", &fault, "write two files that belong together");
        }
        section.close();
        Some(Self {
            certificate: certificate?.0,
            key: key?.0,
        })
    }
}
