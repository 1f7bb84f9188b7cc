//! The swap check: a policy's file is replaced again and again while requests run, and each answer tells which version
//! decided it. What is allowed is in `history`.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{MissedTickBehavior, interval_at, sleep, timeout},
};

use crate::{
    client::{Client, Exchange, Failure},
    history::{History, Sighting},
    load,
    process::Usage,
};

/// Requests run alone for so long, before the first memory sample and the first swap.
const WARM_UP: Duration = Duration::from_secs(2);

/// How often a swap that waits for its share of the requests looks again.
const PACE: Duration = Duration::from_millis(1);

/// Memory is sampled at most so many times, evenly over the swaps, and once before them.
const MEMORY_SAMPLES: u32 = 10;

#[derive(Args)]
pub struct Options {
    /// The gateway; loopback only.
    #[arg(long, value_parser = load::loopback)]
    address: SocketAddr,
    /// The gateway's process, for its memory.
    #[arg(long)]
    pid: u32,
    /// The file in the plugin folder that is replaced. What it holds now must be serving; the policy is named after it.
    #[arg(long)]
    installed: PathBuf,
    /// A folder on the same file system, where the next version is written before it is renamed into place.
    #[arg(long)]
    staging: PathBuf,
    #[arg(long, default_value_t = 1000)]
    swaps: u32,
    /// So many different files take turns, all deciding the same; with more than there are swaps, every swap is one
    /// never seen before.
    #[arg(long, default_value_t = 2)]
    distinct: u32,
    /// Requests to send at least; swaps are spread over them.
    #[arg(long, default_value_t = 200_000)]
    requests: u64,
    /// Whole answers asked for each second, over all connections.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Connections that ask for whole answers.
    #[arg(long, default_value_t = 28)]
    connections: u32,
    /// Connections that ask for streams, one after the other.
    #[arg(long, default_value_t = 4)]
    streams: u32,
    /// Time between seeing a version and replacing it, in which every request must be decided by it.
    #[arg(long, default_value_t = 20)]
    dwell_ms: u64,
    /// Give up when a version is not seen within this time.
    #[arg(long, default_value_t = 10_000)]
    live_limit_ms: u64,
    /// Give up altogether after this time.
    #[arg(long, default_value_t = 900)]
    limit_s: u64,
}

/// One line of numbers.
#[derive(Serialize)]
pub struct Report {
    pub swaps: u32,
    pub distinct: u32,
    /// Answered requests, streams among them.
    pub requests: usize,
    pub seconds: f64,
    pub failures: u64,
    pub first_failure: Option<String>,
    pub violations: u64,
    pub first_violation: Option<String>,
    pub decisive: u64,
    /// From the rename to the first answer by the new version.
    pub live_p50_ms: f64,
    pub live_p99_ms: f64,
    pub live_max_ms: f64,
    /// Before the first swap, then after each tenth of the swaps.
    pub rss_kib: Vec<u64>,
}

/// What connections and swaps share.
struct Traffic {
    seen: Mutex<Seen>,
    /// The newest version has been seen.
    proven: Notify,
    stop: AtomicBool,
}

struct Seen {
    history: History,
    failures: u64,
    first_failure: Option<String>,
}

/// The policy and where its versions go.
struct Plugin<'a> {
    options: &'a Options,
    name: String,
    /// The version that served at first.
    original: Vec<u8>,
}

pub async fn run(options: Options) -> io::Result<Report> {
    let limit = Duration::from_secs(options.limit_s);
    timeout(limit, swap_under_load(&options))
        .await
        .map_err(|_| io::Error::other("the swaps took longer than --limit-s"))?
}

async fn swap_under_load(options: &Options) -> io::Result<Report> {
    let plugin = Plugin::open(options)?;
    let traffic = Arc::new(Traffic::new(plugin.token(&plugin.original)));
    let began = Instant::now();
    let mut connections = start_connections(options, &traffic);
    sleep(WARM_UP).await;

    let before = traffic.seen().history.sightings() as u64;
    let (mut took, mut rss_kib) = (Vec::new(), vec![Usage::of_process(options.pid)?.rss_kib]);
    for swap in 1..=options.swaps {
        took.push(plugin.swap(swap, &traffic).await?);
        if swap % options.swaps.div_ceil(MEMORY_SAMPLES) == 0 {
            rss_kib.push(Usage::of_process(options.pid)?.rss_kib);
        }
        let share = before + options.requests * u64::from(swap) / u64::from(options.swaps);
        while (traffic.seen().history.sightings() as u64) < share {
            sleep(PACE).await;
        }
    }
    traffic.stop.store(true, Ordering::Relaxed);
    while connections.join_next().await.is_some() {}
    Ok(Report::new(options, &traffic.seen(), took, rss_kib, began.elapsed()))
}

fn start_connections(options: &Options, traffic: &Arc<Traffic>) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let period = Duration::from_secs(1) * options.connections / options.rate;
    for nth in 0..options.connections {
        let client = Client::new(options.address, false, None);
        // Spread over the period, so that requests come evenly.
        let offset = period * nth / options.connections;
        connections.spawn(Arc::clone(traffic).send_evenly(client, offset, period));
    }
    for _ in 0..options.streams {
        let client = Client::new(options.address, true, None);
        connections.spawn(Arc::clone(traffic).send_on_and_on(client));
    }
    connections
}

impl Traffic {
    fn new(token: String) -> Self {
        let history = History::new(token, Instant::now());
        let seen = Mutex::new(Seen {
            history,
            failures: 0,
            first_failure: None,
        });
        Self {
            seen,
            proven: Notify::new(),
            stop: AtomicBool::new(false),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while it holds this")
    }

    async fn send_evenly(self: Arc<Self>, mut client: Client, offset: Duration, period: Duration) {
        let mut ticks = interval_at((Instant::now() + offset).into(), period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            self.note(client.exchange().await);
        }
    }

    async fn send_on_and_on(self: Arc<Self>, mut client: Client) {
        while !self.stop.load(Ordering::Relaxed) {
            self.note(client.exchange().await);
        }
    }

    fn note(&self, result: Result<Exchange, Failure>) {
        let mut seen = self.seen();
        match result {
            Ok(Exchange { sent, head, policy, .. }) => {
                if seen.history.saw(Sighting {
                    sent,
                    head,
                    token: policy.unwrap_or_default(),
                }) {
                    self.proven.notify_one();
                }
            }
            Err(failure) => {
                seen.failures += 1;
                seen.first_failure.get_or_insert_with(|| format!("{failure:?}"));
            }
        }
    }
}

impl<'a> Plugin<'a> {
    fn open(options: &'a Options) -> io::Result<Self> {
        let name = options
            .installed
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            options,
            name,
            original: fs::read(&options.installed)?,
        })
    }

    /// What the gateway calls a version: its name and the first 8 hexadecimal digits of its file's SHA-256.
    fn token(&self, wasm: &[u8]) -> String {
        let hash: String = Sha256::digest(wasm)[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{}@{hash}", self.name)
    }

    /// Rename the next version into place, wait until it is seen, let it dwell, and return how long it took.
    async fn swap(&self, swap: u32, traffic: &Traffic) -> io::Result<Duration> {
        let wasm = with_mark(&self.original, swap % self.options.distinct);
        let token = self.token(&wasm);
        let next = self.write_staged(&wasm)?;
        traffic.seen().history.rename(token, Instant::now());
        fs::rename(next, &self.options.installed)?;

        let limit = Duration::from_millis(self.options.live_limit_ms);
        timeout(limit, traffic.proven.notified())
            .await
            .map_err(|_| self.never_seen(swap, traffic))?;
        sleep(Duration::from_millis(self.options.dwell_ms)).await;
        Ok(traffic.seen().history.newest_took().expect("it has just been proven"))
    }

    fn write_staged(&self, wasm: &[u8]) -> io::Result<PathBuf> {
        let next = self.options.staging.join(Path::new(&self.name).with_extension("next"));
        fs::write(&next, wasm)?;
        Ok(next)
    }

    fn never_seen(&self, swap: u32, traffic: &Traffic) -> io::Error {
        let seen = traffic.seen();
        io::Error::other(format!(
            "version {swap} was not seen within {} ms; {} requests, {} failures, first {:?}, {:?}",
            self.options.live_limit_ms,
            seen.history.sightings(),
            seen.failures,
            seen.first_failure,
            seen.history.check()
        ))
    }
}

/// `wasm` with a custom section at its end: another file with another hash that does the same. Mark 0 is the file
/// itself.
fn with_mark(wasm: &[u8], mark: u32) -> Vec<u8> {
    let mut marked = wasm.to_vec();
    if mark != 0 {
        // Section 0, its size, the length of its name, its name, its content; the same in core modules and components.
        marked.extend_from_slice(b"\0\x0a\x05bench");
        marked.extend_from_slice(&mark.to_le_bytes());
    }
    marked
}

impl Report {
    fn new(options: &Options, seen: &Seen, mut took: Vec<Duration>, rss_kib: Vec<u64>, elapsed: Duration) -> Self {
        took.sort_unstable();
        let ms = |share| load::percentile(&took, share).as_secs_f64() * 1e3;
        let verdict = seen.history.check();
        Self {
            swaps: options.swaps,
            distinct: options.distinct,
            requests: seen.history.sightings(),
            seconds: elapsed.as_secs_f64(),
            failures: seen.failures,
            first_failure: seen.first_failure.clone(),
            violations: verdict.violations,
            first_violation: verdict.first_violation,
            decisive: verdict.decisive,
            live_p50_ms: ms(0.50),
            live_p99_ms: ms(0.99),
            live_max_ms: ms(1.0),
            rss_kib,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_one_well_formed_custom_section() {
        let wasm = b"\0asm\x01\0\0\0";
        assert_eq!(with_mark(wasm, 0), wasm);
        let marked = with_mark(wasm, 258);
        let section = &marked[wasm.len()..];
        assert_eq!(section[0], 0);
        assert_eq!(usize::from(section[1]), section.len() - 2);
        assert_eq!(&section[3..3 + usize::from(section[2])], b"bench");
        assert_ne!(with_mark(wasm, 1), with_mark(wasm, 2));
    }
}
