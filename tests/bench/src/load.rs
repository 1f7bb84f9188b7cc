//! The load generator: a number of connections, each sending its next request when the last answer is complete.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep_until};

use crate::{
    client::{Client, Failure},
    process::Usage,
};

#[derive(Args)]
pub struct Options {
    /// Whom to send to; loopback only.
    #[arg(long, value_parser = loopback)]
    address: SocketAddr,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Ask for streams instead of whole answers.
    #[arg(long)]
    stream: bool,
    /// Ask in the format of Anthropic messages.
    #[arg(long)]
    messages: bool,
    /// Requests sent before this has passed are not counted.
    #[arg(long, default_value_t = 1000)]
    warmup_ms: u64,
    /// How long to count.
    #[arg(long, default_value_t = 4000)]
    duration_ms: u64,
    /// Send so many requests a second in all, instead of one after the other.
    #[arg(long)]
    rate: Option<f64>,
    /// Stop earlier, after so many counted requests.
    #[arg(long, default_value_t = u64::MAX)]
    requests: u64,
    /// Every answer must name this policy in `x-pointsman-policy`.
    #[arg(long)]
    policy: Option<String>,
    /// The process under test: its processor time and memory are reported.
    #[arg(long)]
    watch: Option<u32>,
}

/// Accept only addresses on this machine: a load generator must not be turned on anyone else.
pub fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("`{text}` is not IP:PORT"))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("{address} is not a loopback address"))
    }
}

/// One line of numbers. Latencies are in microseconds, of requests whose answer was complete.
#[derive(Serialize)]
pub struct Report {
    pub requests: u64,
    pub failures: u64,
    pub first_failure: Option<String>,
    pub seconds: f64,
    pub requests_per_s: f64,
    /// From the first byte of the request to the last of the answer.
    pub p50_us: f64,
    pub p99_us: f64,
    /// The longest of these.
    pub max_us: f64,
    /// From the first byte of the request to the first of the answer's body.
    pub first_byte_p50_us: f64,
    pub first_byte_p99_us: f64,
    #[serde(flatten)]
    pub watched: Option<Watched>,
}

/// What the process under test used while requests were counted.
#[derive(Serialize)]
pub struct Watched {
    pub cpu_us_per_request: f64,
    /// Share of one core; near 1 when the process under test was the bottleneck, on one core.
    pub busy: f64,
    pub rss_kib: u64,
    pub peak_kib: u64,
}

/// When requests count.
#[derive(Clone)]
struct Window {
    opens: Instant,
    closes: Instant,
    /// Counted requests that may still be sent.
    left: Arc<AtomicU64>,
}

#[derive(Default)]
struct Samples {
    latencies: Vec<Duration>,
    first_bytes: Vec<Duration>,
    failures: u64,
    first_failure: Option<String>,
}

pub async fn run(options: Options) -> io::Result<Report> {
    let opens = Instant::now() + Duration::from_millis(options.warmup_ms);
    let closes = opens + Duration::from_millis(options.duration_ms);
    let window = Window {
        opens,
        closes,
        left: Arc::new(AtomicU64::new(options.requests)),
    };
    let mut connections = JoinSet::new();
    for number in 0..options.connections {
        let new = if options.messages {
            Client::of_messages
        } else {
            Client::new
        };
        let client = new(options.address, options.stream, options.policy.clone());
        let pause = options
            .rate
            .map(|rate| Duration::from_secs_f64(options.connections as f64 / rate));
        // They take turns, so that requests come evenly.
        let begin = Instant::now()
            + pause
                .unwrap_or_default()
                .mul_f64(number as f64 / options.connections as f64);
        connections.spawn(drive(client, begin, pause, window.clone()));
    }

    sleep_until(opens.into()).await;
    let counted_from = Instant::now();
    let before = options.watch.map(Usage::of_tree).transpose()?;
    let mut samples = Samples::default();
    while let Some(driven) = connections.join_next().await {
        samples.add(driven.map_err(io::Error::other)?);
    }
    let elapsed = counted_from.elapsed();
    let after = options.watch.map(Usage::of_tree).transpose()?;
    Ok(Report::new(samples, elapsed, before.zip(after)))
}

/// Send requests one after the other until the window closes, one each `pause` if there is one.
async fn drive(mut client: Client, begin: Instant, pause: Option<Duration>, window: Window) -> Samples {
    let mut samples = Samples::default();
    let mut next = begin;
    loop {
        if let Some(pause) = pause {
            sleep_until(next.into()).await;
            // Who was held up does not make up for it: that would be a burst.
            next = (next + pause).max(Instant::now());
        }
        let now = Instant::now();
        let counts = now >= window.opens;
        if now >= window.closes || counts && !window.take() {
            return samples;
        }
        let result = client.exchange().await;
        match result {
            // A failure counts even while warming up: nothing here is allowed to fail.
            Err(failure) => samples.fail(&failure),
            Ok(exchange) if counts => {
                samples.latencies.push(exchange.done - exchange.sent);
                samples.first_bytes.push(exchange.first_byte - exchange.sent);
            }
            Ok(_) => {}
        }
    }
}

impl Window {
    fn take(&self) -> bool {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }
}

impl Samples {
    fn fail(&mut self, failure: &Failure) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| format!("{failure:?}"));
    }

    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.first_bytes.extend(other.first_bytes);
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

impl Report {
    fn new(mut samples: Samples, elapsed: Duration, usage: Option<(Usage, Usage)>) -> Self {
        samples.latencies.sort_unstable();
        samples.first_bytes.sort_unstable();
        let requests = samples.latencies.len() as u64;
        let seconds = elapsed.as_secs_f64();
        let us = |sorted: &[Duration], share| percentile(sorted, share).as_secs_f64() * 1e6;
        Self {
            requests,
            failures: samples.failures,
            first_failure: samples.first_failure,
            seconds,
            requests_per_s: requests as f64 / seconds,
            p50_us: us(&samples.latencies, 0.50),
            p99_us: us(&samples.latencies, 0.99),
            max_us: us(&samples.latencies, 1.0),
            first_byte_p50_us: us(&samples.first_bytes, 0.50),
            first_byte_p99_us: us(&samples.first_bytes, 0.99),
            watched: usage.map(|(before, after)| Watched::new(before, after, requests, seconds)),
        }
    }
}

impl Watched {
    fn new(before: Usage, after: Usage, requests: u64, seconds: f64) -> Self {
        let cpu_us = (after.cpu_us - before.cpu_us) as f64;
        Self {
            cpu_us_per_request: cpu_us / requests.max(1) as f64,
            busy: cpu_us / 1e6 / seconds,
            rss_kib: after.rss_kib,
            peak_kib: after.peak_kib,
        }
    }
}

/// The smallest sample that at least `share` of all samples do not exceed; zero without samples.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::vendor;

    fn options(address: SocketAddr, stream: bool) -> Options {
        Options {
            messages: false,
            rate: None,
            address,
            connections: 4,
            stream,
            warmup_ms: 0,
            duration_ms: 10_000,
            requests: 100,
            policy: None,
            watch: Some(std::process::id()),
        }
    }

    #[tokio::test]
    async fn every_answer_of_the_vendor_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(vendor::serve(listener, Duration::ZERO));
        for stream in [false, true] {
            let report = run(options(address, stream)).await.expect("run");
            assert_eq!(
                (report.requests, report.failures),
                (100, 0),
                "{:?}",
                report.first_failure
            );
            assert!(report.p50_us > 0.0 && report.p99_us >= report.p50_us);
            assert!(report.first_byte_p50_us <= report.p50_us);
        }
        let mut unguarded = options(address, false);
        unguarded.policy = Some("plan-b".to_owned());
        let report = run(unguarded).await.expect("run");
        assert_eq!((report.requests, report.failures), (0, 100), "no policy decided these");
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_off_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.expect("request"), 0);
                let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n";
                stream.write_all(answer).await.expect("answer");
            }
        });
        let mut few = options(address, true);
        few.requests = 8;
        let report = run(few).await.expect("run");
        assert_eq!((report.requests, report.failures), (0, 8));
        assert_eq!(report.first_failure.as_deref(), Some("Closed"));
    }

    #[test]
    fn percentiles_are_exact_ranks() {
        let samples: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&samples, 0.50), Duration::from_micros(100));
        assert_eq!(percentile(&samples, 0.99), Duration::from_micros(198));
        assert_eq!(percentile(&samples[..1], 0.99), Duration::from_micros(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn only_loopback_is_loaded() {
        assert!(loopback("127.0.0.1:80").is_ok() && loopback("[::1]:80").is_ok());
        assert!(loopback("192.0.2.1:80").is_err() && loopback("localhost").is_err());
    }
}
