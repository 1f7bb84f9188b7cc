//! A source: one credential that is fetched when it is first wanted and kept fresh from then on, so that no request waits while a
//! valid one is there.
//!
//! A task of its own, the keeper, does all fetching: it renews a credential before it expires, and sleeps in between. There is one
//! keeper for each source, so no two fetches run at once.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::Error;

/// Fetches a credential from wherever it comes from.
pub trait Fetch<T>: Send + Sync + 'static {
    /// Fetches it once. Takes its own time limits; [`Source`] has one above them.
    fn fetch(&self) -> BoxFuture<'_, Result<Fresh<T>, Error>>;
}

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Fresh<T> {
    /// The credential.
    pub value: T,
    /// How long it will do. `None`: it does not expire.
    pub lifetime: Option<Duration>,
}

/// See the module. Clones are the same source; the last one that goes ends its keeper.
pub struct Source<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    name: String,
    fetch: Box<dyn Fetch<T>>,
    current: ArcSwapOption<Lease<T>>,
    state: watch::Sender<State>,
    wake: Arc<Notify>,
}

/// A credential with its times.
struct Lease<T> {
    value: Arc<T>,
    /// When to fetch the next. `None`: never.
    due: Option<Instant>,
    expires: Option<Instant>,
}

#[derive(Default)]
struct State {
    /// There is a keeper.
    kept: bool,
    /// When the last fetch began.
    fetched: Option<Instant>,
    /// The last fetch failed.
    failure: Option<Failure>,
    /// Failures since the last success.
    failures: u32,
}

#[derive(Clone)]
struct Failure {
    error: Arc<Error>,
    /// Until then nobody is asked again.
    until: Instant,
}

/// How long before its end a credential is renewed; one that lives for less than twice this is renewed half-way.
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// So long before its end a credential is not used any more: a request takes time to arrive.
const MARGIN: Duration = Duration::from_secs(10);

/// Limit of one fetch, which may be several exchanges.
const LONGEST_FETCH: Duration = Duration::from_secs(30);

/// Between two fetches after the first and after many failures.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The pause after a fetch that failed because this machine was at a limit, which may be over at any moment.
const AT_A_LIMIT: Duration = Duration::from_millis(200);

/// A vendor that refuses a credential makes it be fetched anew, but not more often than this.
const BETWEEN_REJECTIONS: Duration = Duration::from_secs(60);

impl<T: Send + Sync + 'static> Source<T> {
    /// Fetches nothing yet. `name` is what logs call it, such as `AWS credentials of target claude`.
    pub fn new(name: impl Into<String>, fetch: impl Fetch<T>) -> Self {
        Self {
            shared: Arc::new(Shared {
                name: name.into(),
                fetch: Box::new(fetch),
                current: ArcSwapOption::empty(),
                state: watch::Sender::default(),
                wake: Arc::default(),
            }),
        }
    }

    /// The credential. Waits only when there is none that is valid and nobody has just failed to get one. Needs a Tokio runtime that
    /// outlives the call.
    pub async fn get(&self) -> Result<Arc<T>, Arc<Error>> {
        if let Some(value) = self.current() {
            return Ok(value);
        }
        let mut news = self.shared.state.subscribe();
        loop {
            if let Some(value) = self.current() {
                return Ok(value);
            }
            if let Some(error) = self.shared.recent_failure() {
                return Err(error);
            }
            self.start_keeper();
            // It cannot fail: the sender is ours.
            let _ = news.changed().await;
        }
    }

    /// The credential, if there is a valid one now.
    pub fn current(&self) -> Option<Arc<T>> {
        let lease = self.shared.current.load();
        let lease = lease.as_ref().filter(|lease| lease.is_valid())?;
        Some(lease.value.clone())
    }

    /// Starts to fetch, unless that has happened: the first request then finds a credential. Needs a Tokio runtime.
    pub fn warm(&self) {
        if self.current().is_none() && self.shared.recent_failure().is_none() {
            self.start_keeper();
        }
    }

    /// A vendor said no to this credential, so another one is fetched, in the background and at most once a minute. Until that is
    /// there the old one is served: the vendor may have meant something else.
    pub fn reject(&self, refused: &Arc<T>) {
        let lease = self.shared.current.load();
        let is_current = lease.as_ref().is_some_and(|lease| Arc::ptr_eq(&lease.value, refused));
        if is_current && self.shared.may_reject() && !self.start_keeper() {
            self.shared.wake.notify_one();
        }
    }

    /// Fetches another one, in the background. Until that is there the old one is served.
    pub fn renew(&self) {
        self.shared.wake.notify_one();
    }

    /// `false`: there is one already.
    fn start_keeper(&self) -> bool {
        let mut start = false;
        self.shared.state.send_if_modified(|state| {
            start = !state.kept;
            state.kept = true;
            false
        });
        if start {
            let keeper = Keeper(Arc::downgrade(&self.shared));
            tokio::spawn(keeper.run(self.shared.wake.clone()));
        }
        start
    }
}

impl<T: 'static> Shared<T> {
    fn recent_failure(&self) -> Option<Arc<Error>> {
        let state = self.state.borrow();
        let failure = state.failure.as_ref()?;
        (Instant::now() < failure.until).then(|| failure.error.clone())
    }

    /// Whether the last fetch is long enough ago. If it is, the next one counts from now, so that only one caller is told so.
    fn may_reject(&self) -> bool {
        let mut may = false;
        self.state.send_if_modified(|state| {
            may = state.fetched.is_none_or(|at| at.elapsed() >= BETWEEN_REJECTIONS);
            if may {
                state.fetched = Some(Instant::now());
            }
            false
        });
        may
    }

    fn has_valid(&self) -> bool {
        self.current.load().as_ref().is_some_and(|lease| lease.is_valid())
    }

    /// Fetches once. Says when to do it again; `None`: when somebody asks.
    async fn renew(&self) -> Option<Instant> {
        self.state.send_if_modified(|state| {
            state.fetched = Some(Instant::now());
            false
        });
        let fetched = timeout(LONGEST_FETCH, self.fetch.fetch()).await;
        match fetched.unwrap_or_else(|_| Err(too_slow())).and_then(Lease::new) {
            Ok(lease) => self.succeed(lease),
            Err(error) => self.fail(error),
        }
    }

    fn succeed(&self, lease: Lease<T>) -> Option<Instant> {
        let due = lease.due;
        tracing::debug!(
            source = self.name,
            renew_in_s = due.map(seconds_until),
            "fetched a credential"
        );
        self.current.store(Some(Arc::new(lease)));
        self.state.send_modify(|state| {
            state.failure = None;
            state.failures = 0;
        });
        due
    }

    fn fail(&self, error: Error) -> Option<Instant> {
        let is_local = matches!(error, Error::LocalLimit(_));
        let wait = if is_local {
            AT_A_LIMIT
        } else {
            backoff(self.state.borrow().failures)
        };
        let until = Instant::now() + wait;
        let is_kept = self.has_valid();
        tracing::warn!(
            source = self.name,
            %error,
            retry_in_ms = wait.as_millis() as u64,
            "{}",
            if is_kept { "a credential was not renewed; the old one is still valid" } else { "there is no credential" }
        );
        self.state.send_modify(|state| {
            state.failures = state.failures.saturating_add(u32::from(!is_local));
            let error = Arc::new(error);
            state.failure = Some(Failure { error, until });
        });
        is_kept.then_some(until)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl<T> Lease<T> {
    fn new(fresh: Fresh<T>) -> Result<Self, Error> {
        let now = Instant::now();
        if fresh.lifetime.is_some_and(|lifetime| lifetime <= MARGIN) {
            return Err(Error::Unusable {
                place: "the fetched credential".to_owned(),
                fault: "has expired or is about to".to_owned(),
                instead: "check this machine's clock, and that whoever gives the credential out renews it".to_owned(),
            });
        }
        // A century stands for ever: the sum must not overflow.
        const FAR: Duration = Duration::from_secs(100 * 365 * 86400);
        let lifetime = fresh.lifetime.map(|lifetime| lifetime.min(FAR));
        Ok(Self {
            value: Arc::new(fresh.value),
            due: lifetime.map(|lifetime| now + lifetime - AHEAD.min(lifetime / 2)),
            expires: lifetime.map(|lifetime| now + lifetime),
        })
    }

    fn is_valid(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() + MARGIN < expires)
    }
}

/// Keeps a source fresh for as long as there is one.
struct Keeper<T>(Weak<Shared<T>>);

impl<T: Send + Sync + 'static> Keeper<T> {
    async fn run(self, wake: Arc<Notify>) {
        while let Some(shared) = self.0.upgrade() {
            let again = shared.renew().await;
            if again.is_none() && !shared.has_valid() {
                return;
            }
            drop(shared);
            // One that does not expire is fetched again only where somebody knows better.
            let due = async {
                match again {
                    Some(again) => sleep_until(again).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = wake.notified() => {}
            }
        }
    }
}

impl<T> Drop for Keeper<T> {
    /// Also when its runtime ends: the next to ask starts another one.
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.state.send_modify(|state| state.kept = false);
        }
    }
}

impl<T> Clone for Source<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

/// Twice as long after each failure, ±20 %.
fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let wait = first.saturating_mul(1 << failures.min(16)).min(longest);
    wait.mul_f64(0.8 + 0.4 * fastrand::f64())
}

fn seconds_until(moment: Instant) -> u64 {
    moment.saturating_duration_since(Instant::now()).as_secs()
}

fn too_slow() -> Error {
    Error::Missing {
        what: "credential",
        instead: format!(
            "fetching it took more than {} s; check the network",
            LONGEST_FETCH.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives out 1, 2, 3 and so on, each after a second; fails while told to.
    #[derive(Clone, Default)]
    struct Counter {
        given: Arc<AtomicUsize>,
        asked: Arc<AtomicUsize>,
        broken: Arc<Mutex<bool>>,
        lifetime: Option<Duration>,
    }

    impl Fetch<usize> for Counter {
        fn fetch(&self) -> BoxFuture<'_, Result<Fresh<usize>, Error>> {
            Box::pin(async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                if *self.broken.lock().unwrap() {
                    return Err(Error::Signing("broken".to_owned()));
                }
                Ok(Fresh {
                    value: self.given.fetch_add(1, Ordering::Relaxed) + 1,
                    lifetime: self.lifetime,
                })
            })
        }
    }

    impl Counter {
        fn living(seconds: u64) -> Self {
            Self {
                lifetime: Some(Duration::from_secs(seconds)),
                ..Self::default()
            }
        }

        fn source(&self) -> Source<usize> {
            Source::new("test", self.clone())
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }

        fn set_broken(&self, broken: bool) {
            *self.broken.lock().unwrap() = broken;
        }
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_requests_are_one_fetch() {
        let counter = Counter::living(3600);
        let source = counter.source();
        let all = (0..100).map(|_| {
            let source = source.clone();
            tokio::spawn(async move { *source.get().await.unwrap() })
        });
        for one in all.collect::<Vec<_>>() {
            assert_eq!(one.await.unwrap(), 1);
        }
        assert_eq!(counter.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_renewed_five_minutes_before_its_end_and_nobody_waits() {
        let counter = Counter::living(3600);
        let source = counter.source();
        source.get().await.unwrap();
        pass(3600 - 300 - 2).await;
        assert_eq!(counter.asked(), 1);
        pass(3).await;
        assert_eq!(counter.asked(), 2);
        let before = Instant::now();
        assert_eq!(
            *source.get().await.unwrap(),
            1,
            "the old one while the new one is fetched"
        );
        assert_eq!(before.elapsed(), Duration::ZERO);
        pass(1).await;
        assert_eq!(source.current().as_deref(), Some(&2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_one_is_renewed_half_way() {
        let counter = Counter::living(100);
        let source = counter.source();
        source.get().await.unwrap();
        pass(52).await;
        assert_eq!(source.current().as_deref(), Some(&2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_renewal_keeps_the_old_one_until_it_expires() {
        let counter = Counter::living(3600);
        let source = counter.source();
        source.get().await.unwrap();
        counter.set_broken(true);
        pass(3600 - 20).await;
        assert_eq!(source.current().as_deref(), Some(&1));
        let asked = counter.asked();
        assert!((5..=15).contains(&asked), "with growing pauses: {asked}");
        pass(20).await;
        assert_eq!(source.current(), None);
        counter.set_broken(false);
        pass(90).await;
        assert_eq!(source.get().await.ok().as_deref(), Some(&2));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_nobody_waits_and_nobody_asks_at_once() {
        let counter = Counter::living(3600);
        counter.set_broken(true);
        let source = counter.source();
        source.get().await.unwrap_err();
        let before = Instant::now();
        source.get().await.unwrap_err();
        assert_eq!((before.elapsed(), counter.asked()), (Duration::ZERO, 1));
        counter.set_broken(false);
        pass(2).await;
        assert_eq!(source.get().await.ok().as_deref(), Some(&1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_expire_is_fetched_once() {
        let counter = Counter::default();
        let source = counter.source();
        source.get().await.unwrap();
        pass(100_000).await;
        assert_eq!((source.current().as_deref(), counter.asked()), (Some(&1), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_one_is_replaced_once_a_minute() {
        for counter in [Counter::living(3600), Counter::default()] {
            let source = counter.source();
            let first = source.get().await.unwrap();
            source.reject(&first);
            pass(2).await;
            assert_eq!(counter.asked(), 1, "it is new");
            pass(60).await;
            source.reject(&first);
            source.reject(&first);
            pass(2).await;
            source.reject(&first);
            pass(2).await;
            assert_eq!((source.current().as_deref(), counter.asked()), (Some(&2), 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_keeper_ends_with_its_source() {
        let counter = Counter::living(3600);
        let source = counter.source();
        source.get().await.unwrap();
        drop(source);
        pass(10_000).await;
        assert_eq!(counter.asked(), 1);
    }

    #[test]
    fn a_keeper_that_died_with_its_runtime_is_replaced() {
        let counter = Counter::living(600);
        let source = counter.source();
        for expected in [1, 2] {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let given = source.get().await.unwrap();
                assert_eq!(*given, expected);
                source.shared.current.store(None);
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_on_arrival_is_an_error() {
        let error = Counter::living(5).source().get().await.unwrap_err();
        assert!(error.to_string().contains("clock"), "{error}");
    }
}
