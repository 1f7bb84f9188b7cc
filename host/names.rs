//! Addresses of names: one lookup at a time for each name, shared by all who wait for it, and kept for a short time. A name whose
//! servers do not answer delays nobody who asks for another name.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::connect_error::{Cause, ConnectError};
use crate::local_limit;

/// Asks for the addresses of a name. The gateway's own is [`System`]; tests bring another.
pub trait Resolve: Send + Sync {
    /// Starts a lookup. It goes on when the future that is returned is not polled.
    fn resolve(&self, host: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>>;
}

/// See the module. Shared by all workers.
pub struct Names {
    resolve: Box<dyn Resolve>,
    known: Mutex<HashMap<String, Name>>,
}

/// What is known of one name.
struct Name {
    /// The newest lookup, which may have ended.
    lookup: Lookup,
    began: Instant,
    /// The last addresses, and when they were found.
    last: Option<(Addresses, Instant)>,
}

/// Addresses in the order in which they should be tried.
pub type Addresses = Arc<[IpAddr]>;

/// A lookup that everybody who wants its name waits for.
type Lookup = Shared<BoxFuture<'static, Ended>>;

/// What a lookup found, and when.
#[derive(Clone)]
struct Ended {
    found: Result<Addresses, ConnectError>,
    at: Instant,
}

/// How long addresses are used before the name is looked up again. The system has its own caches; this one only keeps a burst of
/// requests from asking it again and again.
const FRESH: Duration = Duration::from_secs(5);
/// How long a failed lookup stands for the next ones.
const FAILED: Duration = Duration::from_millis(500);
/// How long the last addresses are used while the name servers do not answer.
const STALE: Duration = Duration::from_secs(600);
/// How long a lookup is waited for where there are last addresses.
const PATIENCE: Duration = Duration::from_millis(500);
/// A lookup that takes longer than this is given up, and the next request begins another.
const LONGEST: Duration = Duration::from_secs(30);
/// Names that are kept at most.
const MAX_NAMES: usize = 1024;
/// Addresses of one name that are kept.
const MAX_ADDRESSES: usize = 16;

impl Names {
    /// Knows nothing yet.
    pub fn new(resolve: impl Resolve + 'static) -> Self {
        Self {
            resolve: Box::new(resolve),
            known: Mutex::default(),
        }
    }

    /// The addresses of a host, in the order in which they should be tried. How long that may take is for the caller to say.
    pub async fn lookup(&self, host: &str) -> Result<Addresses, ConnectError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Arc::new([address]));
        }
        let (lookup, last) = self.current(host);
        let Some(last) = last else {
            let ended = lookup.await;
            self.note(host, &ended);
            return ended.found;
        };
        match timeout(PATIENCE, lookup).await {
            Ok(ended) => {
                self.note(host, &ended);
                // The name servers have a fault: what they said before is better than nothing.
                ended
                    .found
                    .or_else(|error| is_passing(&error).then_some(last).ok_or(error))
            }
            Err(_) => Ok(last),
        }
    }

    /// The lookup to wait for, which may have ended, and the last addresses that may be used instead.
    fn current(&self, host: &str) -> (Lookup, Option<Addresses>) {
        let now = Instant::now();
        let mut known = self.known();
        if let Some(name) = known.get_mut(host) {
            if name.is_outdated(now) {
                name.lookup = self.begin(host);
                name.began = now;
            }
            return (name.lookup.clone(), name.last_at(now));
        }
        if known.len() >= MAX_NAMES {
            known.retain(|_, name| !name.is_outdated(now));
        }
        let lookup = self.begin(host);
        if known.len() < MAX_NAMES {
            let name = Name {
                lookup: lookup.clone(),
                began: now,
                last: None,
            };
            known.insert(host.to_owned(), name);
        }
        (lookup, None)
    }

    fn begin(&self, host: &str) -> Lookup {
        let resolving = self.resolve.resolve(host);
        let ended = resolving.map(|found| Ended {
            found: found.map(in_turns).map(Addresses::from),
            at: Instant::now(),
        });
        ended.boxed().shared()
    }

    fn note(&self, host: &str, ended: &Ended) {
        let Ok(addresses) = &ended.found else { return };
        if let Some(name) = self.known().get_mut(host) {
            name.last = Some((addresses.clone(), ended.at));
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        // Whole values are put in and out: a panic elsewhere cannot leave them half.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    /// Whether the next who wants the name should begin another lookup.
    fn is_outdated(&self, now: Instant) -> bool {
        match self.lookup.clone().now_or_never() {
            Some(Ended { found: Ok(_), at }) => now.saturating_duration_since(at) >= FRESH,
            Some(Ended { found: Err(_), at }) => now.saturating_duration_since(at) >= FAILED,
            None => now.saturating_duration_since(self.began) >= LONGEST,
        }
    }

    fn last_at(&self, now: Instant) -> Option<Addresses> {
        let (addresses, at) = self.last.as_ref()?;
        (now.saturating_duration_since(*at) < STALE).then(|| addresses.clone())
    }
}

/// Whether the next lookup may succeed: the name servers, or this machine, had a fault.
fn is_passing(error: &ConnectError) -> bool {
    const FINAL: [&str; 4] = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
    ];
    !FINAL.iter().any(|words| error.words.contains(words))
}

/// Addresses of both families in turns, that of the first address first (RFC 8305, 4).
fn in_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (firsts, seconds): (Vec<IpAddr>, Vec<IpAddr>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut firsts, mut seconds) = (firsts.into_iter(), seconds.into_iter());
    let pairs = std::iter::from_fn(|| match (firsts.next(), seconds.next()) {
        (None, None) => None,
        (first, second) => Some(first.into_iter().chain(second)),
    });
    pairs.flatten().take(MAX_ADDRESSES).collect()
}

/// Asks the system, which knows `/etc/hosts`, the name servers and whatever else it is set up for. It has no way to be asked without
/// blocking, so each lookup has a thread of its own, which the end of the process does not wait for.
#[derive(Default)]
pub struct System {
    running: Arc<AtomicUsize>,
}

/// Lookups at once: many names whose servers do not answer must not become as many threads.
const MAX_LOOKUPS: usize = 64;
/// Bytes of a lookup's stack.
const STACK: usize = 512 * 1024;

impl Resolve for System {
    fn resolve(&self, host: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>> {
        let (sender, receiver) = oneshot::channel();
        match self.start(host.to_owned(), sender) {
            Ok(()) => receiver
                .map(|found| found.unwrap_or_else(|_| Err(ConnectError::new(Cause::Dns, "the lookup broke off"))))
                .boxed(),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }
}

impl System {
    fn start(
        &self,
        host: String,
        sender: oneshot::Sender<Result<Vec<IpAddr>, ConnectError>>,
    ) -> Result<(), ConnectError> {
        let running = Running::new(&self.running).ok_or_else(|| {
            let words = format!("{MAX_LOOKUPS} names are being looked up already");
            ConnectError::new(Cause::LocalLimit, words)
        })?;
        let thread = std::thread::Builder::new().name("lookup".into()).stack_size(STACK);
        let started = thread.spawn(move || {
            let found = ask_system(&host);
            drop(running);
            // Nobody may be waiting any more.
            let _ = sender.send(found);
        });
        started.map(drop).map_err(|error| ConnectError::from_system(&error))
    }
}

/// One of the lookups that run at once.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(running: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |count: usize| (count < MAX_LOOKUPS).then_some(count + 1);
        running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(running.clone()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn ask_system(host: &str) -> Result<Vec<IpAddr>, ConnectError> {
    let found = (host, 0).to_socket_addrs().map_err(|error| no_address(host, &error))?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    if addresses.is_empty() {
        return Err(ConnectError::new(
            Cause::Dns,
            format!("no such host: {host} has no address"),
        ));
    }
    Ok(addresses)
}

/// Why the system has no address for a name.
fn no_address(host: &str, error: &io::Error) -> ConnectError {
    let words = error.to_string();
    let words = words.rsplit(": ").next().unwrap_or_default();
    if local_limit::is_local(error) || words == "Memory allocation failure" {
        return ConnectError::new(Cause::LocalLimit, format!("looking {host} up: {words}"));
    }
    // The system does not say that it could not open its own files and sockets.
    if let Err(error) = std::fs::File::open("/dev/null")
        && local_limit::is_local(&error)
    {
        return ConnectError::from_system(&error);
    }
    let error = ConnectError::new(Cause::Dns, format!("no such host: {host} ({words})"));
    if is_passing(&error) {
        return ConnectError::new(Cause::Dns, format!("looking {host} up failed: {words}"));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// A name server of which tests say what it answers.
    #[derive(Clone, Default)]
    struct Servers(Arc<Inner>);

    #[derive(Default)]
    struct Inner {
        asked: AtomicU32,
        answers: Mutex<HashMap<String, Answer>>,
    }

    #[derive(Clone)]
    enum Answer {
        Addresses(Vec<IpAddr>),
        Error(&'static str),
        Never,
    }

    impl Servers {
        fn set(&self, host: &str, answer: Answer) {
            self.0.answers.lock().unwrap().insert(host.to_owned(), answer);
        }

        fn asked(&self) -> u32 {
            self.0.asked.load(Ordering::Relaxed)
        }
    }

    impl Resolve for Servers {
        fn resolve(&self, host: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>> {
            self.0.asked.fetch_add(1, Ordering::Relaxed);
            let answer = self.0.answers.lock().unwrap()[host].clone();
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                match answer {
                    Answer::Addresses(addresses) => Ok(addresses),
                    Answer::Error(words) => Err(ConnectError::new(Cause::Dns, words)),
                    Answer::Never => std::future::pending().await,
                }
            }
            .boxed()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn names() -> (Servers, Arc<Names>) {
        let servers = Servers::default();
        servers.set("well", Answer::Addresses(vec![ip("10.0.0.1")]));
        servers.set("slow", Answer::Never);
        (servers.clone(), Arc::new(Names::new(servers)))
    }

    async fn first(names: &Names, host: &str) -> Result<IpAddr, String> {
        let found = tokio::time::timeout(Duration::from_secs(5), names.lookup(host)).await;
        match found {
            Ok(found) => found.map(|addresses| addresses[0]).map_err(|error| error.words),
            Err(_) => Err("too late".to_owned()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_want_a_name_share_one_lookup() {
        let (servers, names) = names();
        let all = (0..700).map(|_| first(&names, "well"));
        for found in futures_util::future::join_all(all).await {
            assert_eq!(found, Ok(ip("10.0.0.1")));
        }
        assert_eq!(servers.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_never_answered_delays_no_other() {
        let (servers, names) = names();
        let slow: Vec<_> = (0..700)
            .map(|_| {
                let names = names.clone();
                tokio::spawn(async move { first(&names, "slow").await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = Instant::now();
        assert_eq!(first(&names, "well").await, Ok(ip("10.0.0.1")));
        assert!(began.elapsed() < Duration::from_millis(50));
        for found in slow {
            assert_eq!(found.await.unwrap(), Err("too late".to_owned()));
        }
        assert_eq!(servers.asked(), 2, "one lookup for each name");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_moves_is_followed_within_seconds() {
        let (servers, names) = names();
        assert_eq!(first(&names, "well").await, Ok(ip("10.0.0.1")));
        servers.set("well", Answer::Addresses(vec![ip("10.0.0.2")]));
        assert_eq!(first(&names, "well").await, Ok(ip("10.0.0.1")), "kept for a moment");
        tokio::time::sleep(FRESH).await;
        assert_eq!(first(&names, "well").await, Ok(ip("10.0.0.2")));
        assert_eq!(servers.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_addresses_serve_while_the_name_servers_are_down() {
        let (servers, names) = names();
        first(&names, "well").await.unwrap();
        for fault in [Answer::Error("Temporary failure in name resolution"), Answer::Never] {
            servers.set("well", fault);
            tokio::time::sleep(FRESH).await;
            let began = Instant::now();
            assert_eq!(first(&names, "well").await, Ok(ip("10.0.0.1")));
            assert!(began.elapsed() <= PATIENCE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_gone_has_no_address_any_more() {
        let (servers, names) = names();
        first(&names, "well").await.unwrap();
        servers.set("well", Answer::Error("no such host: well (Name or service not known)"));
        tokio::time::sleep(FRESH).await;
        assert!(first(&names, "well").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_takes_too_long_is_begun_again() {
        let (servers, names) = names();
        assert!(first(&names, "slow").await.is_err());
        servers.set("slow", Answer::Addresses(vec![ip("10.0.0.3")]));
        assert!(
            first(&names, "slow").await.is_err(),
            "the first lookup is still waited for"
        );
        tokio::time::sleep(LONGEST).await;
        assert_eq!(first(&names, "slow").await, Ok(ip("10.0.0.3")));
    }

    #[tokio::test]
    async fn the_system_is_asked_beside_the_runtime() {
        let names = Names::new(System::default());
        assert!(names.lookup("localhost").await.unwrap()[0].is_loopback());
        assert_eq!(names.lookup("192.0.2.1").await.unwrap().to_vec(), [ip("192.0.2.1")]);
        let error = names.lookup("no-such-host.invalid").await.unwrap_err();
        assert_eq!(error.cause, Cause::Dns);
        assert!(error.words.contains("no-such-host.invalid"), "{error}");
    }

    #[test]
    fn families_take_turns() {
        let turns = |addresses: &[&str]| -> Vec<String> {
            let addresses = addresses.iter().map(|address| ip(address)).collect();
            in_turns(addresses).iter().map(IpAddr::to_string).collect()
        };
        assert_eq!(
            turns(&["::1", "::2", "::3", "10.0.0.1"]),
            ["::1", "10.0.0.1", "::2", "::3"]
        );
        assert_eq!(turns(&["10.0.0.1", "::1"]), ["10.0.0.1", "::1"]);
        assert!(turns(&[]).is_empty());
    }

    #[test]
    fn lookups_at_once_are_limited() {
        let running = Arc::default();
        let all: Vec<_> = (0..MAX_LOOKUPS).map(|_| Running::new(&running).unwrap()).collect();
        assert!(Running::new(&running).is_none());
        drop(all);
        assert!(Running::new(&running).is_some());
    }
}
