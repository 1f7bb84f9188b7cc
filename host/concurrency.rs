//! The limit of requests in progress at one target: fixed, or found by watching how long it takes to answer, as TCP finds the width of a
//! path. What is above the limit waits in a line, first come, first served, for as long as its request has time and the line has room.
//!
//! One lock, held for well under a microsecond and never across an await; none at all where there is no limit. A waiter gets its permit
//! through a channel that drops the permit when the waiter is gone, which hands it on: no wake-up is lost, whoever is cancelled when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How many requests a target may have in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// As many as come: the default.
    #[default]
    Unlimited,
    /// So many; 0 counts as 1.
    Fixed(u32),
    /// As many as it carries without getting slower, within these bounds.
    Adaptive {
        /// Never fewer; 0 counts as 1.
        least: u32,
        /// Never more.
        most: u32,
    },
}

/// The rules of a target's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Requests in progress.
    pub limit: Limit,
    /// Requests that may wait in line; more are turned away. Default: 0, since another target usually beats a line.
    pub queue: usize,
    /// How long a request stands in line, if its own time for content does not end before. Default: `Duration::MAX`.
    pub patience: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            limit: Limit::default(),
            queue: 0,
            patience: Duration::MAX,
        }
    }
}

/// The limit of one target. It outlives reloads.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    /// Whether there is no limit, so that nobody need take the lock to learn it.
    unlimited: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Rules,
    in_progress: u32,
    /// Who waits, by number, in the order in which they came.
    line: BTreeMap<u64, oneshot::Sender<Permit>>,
    /// The next number.
    next: u64,
    estimate: Estimate,
}

/// The right to have one request in progress. It is free again when this is dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped is free again"]
pub struct Permit {
    /// `None`: there was no limit when it was given, so nothing has to come back.
    limit: Option<Arc<ConcurrencyLimit>>,
}

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPermit {
    /// The line has no room.
    #[error("too many requests wait for this target")]
    Full,
    /// It was not this request's turn before its deadline.
    #[error("no turn at this target came in time")]
    TimedOut,
}

/// What an attempt says about the load of its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, after the latency that is stated with this.
    Answered,
    /// It said, or showed by a timeout, that it has too much to do: 429, 503, 529.
    Overloaded,
    /// Nothing: it was cancelled, or failed for another reason.
    Other,
}

/// What is going on at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// `None`: there is no limit, and nothing is counted.
    pub limit: Option<u32>,
    /// Requests in progress.
    pub in_progress: u32,
    /// Requests in line.
    pub waiting: usize,
}

/// A place in the line, left when it is dropped.
struct Place<'a> {
    limit: &'a ConcurrencyLimit,
    number: u64,
}

impl ConcurrencyLimit {
    /// A limit with nothing in progress.
    pub fn new(rules: Rules, now: Instant) -> Self {
        let state = State {
            rules,
            in_progress: 0,
            line: BTreeMap::new(),
            next: 0,
            estimate: Estimate::new(rules.limit, now),
        };
        Self {
            unlimited: AtomicBool::new(rules.limit == Limit::Unlimited),
            state: Mutex::new(state),
        }
    }

    /// Changes the rules. What is in progress and in line stays; what an adaptive limit has found stays within the new bounds.
    pub fn set_rules(self: &Arc<Self>, rules: Rules) {
        let mut state = self.state();
        state.rules = rules;
        state.estimate.keep_within(rules.limit);
        self.unlimited.store(rules.limit == Limit::Unlimited, Ordering::Relaxed);
        drop(state);
        self.hand_out();
    }

    /// A permit, now or when it is this request's turn.
    pub async fn acquire(self: &Arc<Self>, deadline: Instant) -> Result<Permit, NoPermit> {
        if self.unlimited.load(Ordering::Relaxed) {
            return Ok(Permit { limit: None });
        }
        let (place, turn) = match self.enter()? {
            Entry::Go(permit) => return Ok(permit),
            Entry::Wait(number, turn) => (Place { limit: self, number }, turn),
        };
        let permit = timeout_at(deadline, turn).await;
        drop(place);
        // A place is in the line until it is left or served, so that its turn is never called off.
        permit.ok().and_then(Result::ok).ok_or(NoPermit::TimedOut)
    }

    /// A permit if there is one now: for attempts that are not worth waiting for, such as hedges.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        if self.unlimited.load(Ordering::Relaxed) {
            return Some(Permit { limit: None });
        }
        self.state().take().then(|| self.permit())
    }

    /// What is going on.
    pub fn load(&self) -> Load {
        let state = self.state();
        Load {
            limit: state.limit(),
            in_progress: state.in_progress,
            waiting: state.line.len(),
        }
    }

    fn enter(self: &Arc<Self>) -> Result<Entry, NoPermit> {
        let mut state = self.state();
        if state.take() {
            return Ok(Entry::Go(self.permit()));
        }
        if state.line.len() >= state.rules.queue {
            return Err(NoPermit::Full);
        }
        let (serve, turn) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        state.line.insert(number, serve);
        Ok(Entry::Wait(number, turn))
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit {
            limit: Some(self.clone()),
        }
    }

    /// Serves the line as far as the limit allows. Must follow whatever lowers what is in progress or raises the limit.
    fn hand_out(self: &Arc<Self>) {
        while let Some(turn) = self.next_turn() {
            // Whoever left at this very moment does not want it: the next one may.
            if let Err(mut permit) = turn.send(self.permit()) {
                permit.limit = None;
                self.state().in_progress -= 1;
            }
        }
    }

    fn next_turn(&self) -> Option<oneshot::Sender<Permit>> {
        let mut state = self.state();
        if !state.has_room() {
            return None;
        }
        let (_, turn) = state.line.pop_first()?;
        state.in_progress += 1;
        Some(turn)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request finds at the door.
enum Entry {
    Go(Permit),
    Wait(u64, oneshot::Receiver<Permit>),
}

impl State {
    fn limit(&self) -> Option<u32> {
        match self.rules.limit {
            Limit::Unlimited => None,
            Limit::Fixed(limit) => Some(limit.max(1)),
            Limit::Adaptive { .. } => Some(self.estimate.limit as u32),
        }
    }

    fn has_room(&self) -> bool {
        self.limit().is_none_or(|limit| self.in_progress < limit)
    }

    /// Takes a place among those in progress, if nobody came before.
    fn take(&mut self) -> bool {
        let takes = self.line.is_empty() && self.has_room();
        self.in_progress += u32::from(takes);
        takes
    }
}

impl Permit {
    /// The attempt has ended. See [`Permit::note`].
    pub fn finish(self, latency: Duration, outcome: Outcome, now: Instant) {
        self.note(latency, outcome, now);
    }

    /// Tells an adaptive limit how its target does, while the request goes on: a stream says all of that with its first content, minutes
    /// before it ends. `latency` is from sending to the first content, without the time in line; that of whole answers depends on their
    /// length and says less. To be called once.
    pub fn note(&self, latency: Duration, outcome: Outcome, now: Instant) {
        let Some(limit) = &self.limit else {
            return;
        };
        let mut state = limit.state();
        let State {
            rules,
            in_progress,
            estimate,
            ..
        } = &mut *state;
        if let Limit::Adaptive { .. } = rules.limit {
            estimate.add(latency, outcome, *in_progress, now);
            estimate.keep_within(rules.limit);
            drop(state);
            limit.hand_out();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(limit) = self.limit.take() {
            limit.state().in_progress -= 1;
            limit.hand_out();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.limit.state().line.remove(&self.number);
    }
}

/// What an adaptive limit has found out. Pure.
///
/// Netflix's Gradient2 (`github.com/Netflix/concurrency-limits`, `Gradient2Limit`; its numbers, but for two): each window's mean latency is
/// held against the usual one, and as much as it is longer, requests queue inside the target and the limit falls. Where a target says
/// that it is overloaded, the limit falls at once, as in the same library's `AIMDLimit`.
///
/// What lasts becomes usual: a vendor that is slower all afternoon is not strangled for it, and the limit of a target that is overloaded
/// all afternoon without ever saying so creeps up to its upper bound. Simulated, one that carries 60 at once: 104 after 2 minutes, 117
/// after 8, 135 after 15, 200 of at most 200 after an hour.
#[derive(Debug)]
struct Estimate {
    limit: f64,
    /// Exponential mean of the windows' latencies, in seconds.
    usual: f64,
    /// Windows so far, up to [`WARM_UP`].
    windows: f64,
    window: Window,
    /// An overload before this moment is the same as the one that was seen.
    calm_from: Instant,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    answers: u32,
    /// Sum of their latencies, in seconds.
    seconds: f64,
    /// The most that was in progress.
    busiest: u32,
}

/// What an adaptive limit begins with, within its bounds.
const INITIAL: u32 = 20;
/// The shortest window (`WindowedLimit`).
const WINDOW: Duration = Duration::from_secs(1);
/// Answers without which a mean says too little (`WindowedLimit`).
const MIN_ANSWERS: u32 = 10;
/// Windows of which the usual latency is the plain mean (`ExpAvgMeasurement`).
const WARM_UP: f64 = 10.0;
/// What each window after those weighs: 600 of them, 10 minutes of a busy target, make a latency the usual one (`longWindow`).
const WEIGHT: f64 = 2.0 / 601.0;
/// What one weighs whose latency makes the limit fall: with [`WEIGHT`] the limit of a target that carries 60 is 147 after 4 minutes of
/// overload and 200 after 8, since the queue itself becomes usual. A sixth makes minutes an hour.
const QUEUED_WEIGHT: f64 = WEIGHT / 6.0;
/// How many times the usual latency is still usual (`rttTolerance`).
const TOLERANCE: f64 = 1.5;
/// The steepest gradient: one slow window cannot do worse.
const STEEPEST: f64 = 0.5;
/// How much of a new limit is believed at once.
const SMOOTHING: f64 = 0.2;
/// When latencies are so many times shorter than usual, the load that was usual is over...
const DRIFT: f64 = 2.0;
/// ...and the usual latency falls by so much, faster than its mean would.
const DRIFT_DECAY: f64 = 0.9;
/// What an overload leaves of the limit (`AIMDLimit`), once in a window: all that were in progress fail together.
const BACKOFF: f64 = 0.9;

impl Estimate {
    fn new(limit: Limit, now: Instant) -> Self {
        let mut estimate = Self {
            limit: INITIAL.into(),
            usual: 0.0,
            windows: 0.0,
            window: Window::new(now),
            calm_from: now,
        };
        estimate.keep_within(limit);
        estimate
    }

    fn keep_within(&mut self, limit: Limit) {
        if let Limit::Adaptive { least, most } = limit {
            let least = least.max(1);
            self.limit = self.limit.clamp(least.into(), most.max(least).into());
        }
    }

    fn add(&mut self, latency: Duration, outcome: Outcome, in_progress: u32, now: Instant) {
        match outcome {
            Outcome::Other => {}
            Outcome::Overloaded if now < self.calm_from => {}
            Outcome::Overloaded => {
                self.limit *= BACKOFF;
                self.calm_from = now + WINDOW;
                self.window = Window::new(now);
            }
            Outcome::Answered => {
                self.window.add(latency, in_progress);
                if self.window.is_over(now) {
                    let window = std::mem::replace(&mut self.window, Window::new(now));
                    self.learn(&window);
                }
            }
        }
    }

    fn learn(&mut self, window: &Window) {
        // Not zero: latencies are divided by one another.
        let latency = (window.seconds / f64::from(window.answers)).max(1e-6);
        let weight = if self.windows < WARM_UP {
            self.windows += 1.0;
            1.0 / self.windows
        } else if latency > TOLERANCE * self.usual {
            QUEUED_WEIGHT
        } else {
            WEIGHT
        };
        self.usual += weight * (latency - self.usual);
        if self.usual > DRIFT * latency {
            self.usual *= DRIFT_DECAY;
        }
        // Where the limit was never near, latencies say nothing about it.
        if f64::from(window.busiest) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * self.usual / latency).clamp(STEEPEST, 1.0);
        // Room to grow into: the square root, as in `GradientLimit`. The 4 of `Gradient2Limit` are too many for a server that carries 8.
        let found = self.limit * gradient + self.limit.sqrt();
        self.limit += SMOOTHING * (found - self.limit);
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            answers: 0,
            seconds: 0.0,
            busiest: 0,
        }
    }

    fn add(&mut self, latency: Duration, in_progress: u32) {
        self.answers += 1;
        self.seconds += latency.as_secs_f64();
        self.busiest = self.busiest.max(in_progress);
    }

    fn is_over(&self, now: Instant) -> bool {
        self.answers >= MIN_ANSWERS && now.saturating_duration_since(self.began) >= WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicU32;
    use tokio::task::{JoinSet, yield_now};
    use tokio::time::{sleep, timeout};

    fn limit(limit: Limit, queue: usize) -> Arc<ConcurrencyLimit> {
        Arc::new(ConcurrencyLimit::new(rules(limit, queue), Instant::now()))
    }

    fn rules(limit: Limit, queue: usize) -> Rules {
        Rules {
            limit,
            queue,
            ..Rules::default()
        }
    }

    fn within(milliseconds: u64) -> Instant {
        Instant::now() + Duration::from_millis(milliseconds)
    }

    fn counts(limit: &ConcurrencyLimit) -> (u32, usize) {
        (limit.load().in_progress, limit.load().waiting)
    }

    #[tokio::test]
    async fn without_a_limit_nothing_is_counted() {
        let limit = limit(Limit::Unlimited, 0);
        let permits = [limit.acquire(within(0)).await, limit.acquire(within(0)).await];
        assert!(permits.iter().all(Result::is_ok));
        assert_eq!(
            limit.load(),
            Load {
                limit: None,
                in_progress: 0,
                waiting: 0
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_above_the_limit_is_served_in_its_order() {
        let limit = limit(Limit::Fixed(1), 8);
        let first = limit.acquire(within(0)).await.unwrap();
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut line = JoinSet::new();
        for number in 0..5 {
            let (limit, served) = (limit.clone(), served.clone());
            line.spawn(async move {
                let _permit = limit.acquire(within(1000)).await.unwrap();
                served.lock().unwrap().push(number);
                sleep(Duration::from_millis(10)).await;
            });
            yield_now().await;
        }
        assert_eq!(counts(&limit), (1, 5));
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert!(limit.try_acquire().is_none(), "nobody jumps the line");
        line.join_all().await;
        assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(counts(&limit), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_has_an_end_and_waiting_has_one() {
        let limit = limit(Limit::Fixed(1), 1);
        let held = limit.acquire(within(0)).await.unwrap();
        let began = Instant::now();
        let (waited, turned_away) = tokio::join!(limit.acquire(within(50)), limit.acquire(within(50)));
        assert_eq!(waited.unwrap_err(), NoPermit::TimedOut);
        assert_eq!(turned_away.unwrap_err(), NoPermit::Full);
        assert_eq!(began.elapsed(), Duration::from_millis(50));
        assert_eq!(counts(&limit), (1, 0), "the line is empty again");
        drop(held);
        assert!(limit.acquire(within(0)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_waiter_leaves_the_line_even_when_it_was_just_served() {
        let limit = limit(Limit::Fixed(1), 8);
        let held = limit.acquire(within(0)).await.unwrap();
        let mut gone = Box::pin(limit.acquire(within(1000)));
        let mut served = Box::pin(limit.acquire(within(1000)));
        let mut last = Box::pin(limit.acquire(within(1000)));
        for waiter in [&mut gone, &mut served, &mut last] {
            assert!(timeout(Duration::ZERO, waiter).await.is_err());
        }
        assert_eq!(counts(&limit), (1, 3));
        drop(gone);
        assert_eq!(counts(&limit), (1, 2));
        drop(held);
        assert_eq!(counts(&limit), (1, 1), "served, and does not know it yet");
        drop(served);
        assert!(last.await.is_ok());
        assert_eq!(counts(&limit), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_grows_serves_the_line_and_one_that_shrinks_throws_nobody_out() {
        let limit = limit(Limit::Fixed(1), 8);
        let rules = |fixed| Rules {
            patience: Duration::MAX,
            limit: Limit::Fixed(fixed),
            queue: 8,
        };
        let first = limit.acquire(within(0)).await.unwrap();
        let (second, third) = tokio::join!(limit.acquire(within(10)), async {
            limit.set_rules(rules(3));
            limit.acquire(within(0)).await
        });
        assert_eq!(counts(&limit), (3, 0));
        limit.set_rules(rules(1));
        drop((first, second));
        assert_eq!(counts(&limit), (1, 0));
        assert!(limit.try_acquire().is_none());
        drop(third);
        assert!(limit.try_acquire().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_lifted_serves_everybody() {
        let limit = limit(Limit::Fixed(1), 8);
        let held = limit.acquire(within(0)).await.unwrap();
        let (served, ()) = tokio::join!(limit.acquire(within(10)), async { limit.set_rules(Rules::default()) });
        assert!(served.is_ok());
        drop((held, served));
        assert_eq!(counts(&limit), (0, 0));
    }

    #[test]
    fn threads_that_come_and_go_lose_no_permit() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build()
            .unwrap();
        let limit = limit(Limit::Fixed(3), 5);
        let held = Arc::new(AtomicU32::new(0));
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for number in 0..8u64 {
                let (limit, held) = (limit.clone(), held.clone());
                tasks.spawn(async move {
                    let mut dice = fastrand::Rng::with_seed(number);
                    for _ in 0..3_000 {
                        let patience = Duration::from_micros(dice.u64(0..2_000));
                        // Half of them are cancelled from outside, the others by their deadline.
                        let far = Instant::now() + if dice.bool() { patience } else { Duration::from_secs(60) };
                        if let Ok(Ok(_permit)) = timeout(patience, limit.acquire(far)).await {
                            assert!(held.fetch_add(1, Ordering::SeqCst) < 3);
                            if dice.bool() {
                                yield_now().await;
                            }
                            held.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
            tasks.join_all().await;
        });
        assert_eq!(counts(&limit), (0, 0));
    }

    /// A target that carries so many at once in a fifth of a second; what is above that queues inside it. Each tenth of a second's answers
    /// are noted. The limit after so many seconds.
    fn settled(bounds: Limit, carries: f64, seconds: u32, fill: impl Fn(u32) -> u32) -> u32 {
        let mut now = Instant::now();
        let mut estimate = Estimate::new(bounds, now);
        for _ in 0..seconds * 10 {
            now += Duration::from_millis(100);
            let in_progress = fill(estimate.limit as u32);
            let latency = Duration::from_millis(200).mul_f64((f64::from(in_progress) / carries).max(1.0));
            for _ in 0..4 {
                estimate.add(latency, Outcome::Answered, in_progress, now);
                estimate.keep_within(bounds);
            }
        }
        estimate.limit as u32
    }

    const WIDE: Limit = Limit::Adaptive { least: 2, most: 200 };

    #[test]
    fn an_adaptive_limit_finds_what_a_target_carries() {
        let found = settled(WIDE, 60.0, 480, |limit| limit);
        assert!((60..=130).contains(&found), "{found} where 60 are carried");
        assert_eq!(settled(WIDE, 1000.0, 120, |limit| limit), 200);
    }

    #[test]
    fn a_limit_that_nobody_needs_does_not_grow() {
        assert_eq!(settled(WIDE, 1000.0, 120, |_| 5), INITIAL);
    }

    #[test]
    fn a_target_that_gets_slower_is_given_less() {
        let mut now = Instant::now();
        let mut estimate = Estimate::new(WIDE, now);
        let mut seconds = |count: u32, milliseconds: u64| {
            for _ in 0..count * 10 {
                now += Duration::from_millis(100);
                estimate.add(Duration::from_millis(milliseconds), Outcome::Answered, 200, now);
                estimate.keep_within(WIDE);
            }
            estimate.limit as u32
        };
        let usual = seconds(120, 300);
        assert_eq!(seconds(60, 400), usual, "a third more is still usual");
        assert!(seconds(60, 3000) < usual / 3);
        assert_eq!(seconds(300, 300), usual);
    }

    #[test]
    fn an_overload_counts_once_in_a_window() {
        let now = Instant::now();
        let mut estimate = Estimate::new(WIDE, now);
        for _ in 0..100 {
            estimate.add(Duration::ZERO, Outcome::Overloaded, 20, now);
        }
        assert_eq!(estimate.limit, 18.0);
        estimate.add(Duration::ZERO, Outcome::Overloaded, 20, now + WINDOW);
        assert_eq!(estimate.limit, 16.2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_permits_tell_moves_the_limit_within_its_bounds() {
        let limit = limit(Limit::Adaptive { least: 18, most: 30 }, 0);
        assert_eq!(limit.load().limit, Some(20));
        let mut now = Instant::now();
        for _ in 0..3 {
            now += WINDOW;
            limit
                .acquire(within(0))
                .await
                .unwrap()
                .finish(Duration::ZERO, Outcome::Overloaded, now);
        }
        assert_eq!(limit.load().limit, Some(18));
        for _ in 0..200 {
            now += WINDOW / 10;
            let permits: Vec<Permit> = std::iter::from_fn(|| limit.try_acquire()).collect();
            for permit in permits {
                permit.finish(Duration::from_millis(300), Outcome::Answered, now);
            }
        }
        assert_eq!(
            limit.load(),
            Load {
                limit: Some(30),
                in_progress: 0,
                waiting: 0
            }
        );
    }

    /// A request of a random story: when it comes, how long it waits at most, when it is cancelled, and how long it is in progress.
    #[derive(Debug, Clone, Copy)]
    struct Request {
        comes: u64,
        patience: u64,
        cancelled: u64,
        takes: u64,
        outcome: Outcome,
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let outcome = prop::sample::select(vec![Outcome::Answered, Outcome::Overloaded, Outcome::Other]);
        (0u64..200, 0u64..60, 0u64..120, 0u64..30, outcome).prop_map(|(comes, patience, cancelled, takes, outcome)| {
            Request {
                comes,
                patience,
                cancelled,
                takes,
                outcome,
            }
        })
    }

    fn any_rules() -> impl Strategy<Value = Rules> {
        let limits = prop_oneof![
            (1u32..5).prop_map(Limit::Fixed),
            (1u32..3, 3u32..6).prop_map(|(least, most)| Limit::Adaptive { least, most }),
        ];
        (limits, 0usize..6).prop_map(|(limit, queue)| rules(limit, queue))
    }

    /// The most that rules can ever let in.
    fn most(rules: &Rules) -> u32 {
        match rules.limit {
            Limit::Unlimited => u32::MAX,
            Limit::Fixed(most) | Limit::Adaptive { most, .. } => most,
        }
    }

    async fn tell(limit: Arc<ConcurrencyLimit>, request: Request, held: Arc<AtomicU32>, ceiling: u32) {
        sleep(Duration::from_millis(request.comes)).await;
        let began = Instant::now();
        let patience = Duration::from_millis(request.patience);
        let story = async {
            let Ok(permit) = limit.acquire(began + patience).await else {
                return;
            };
            assert!(began.elapsed() <= patience, "served after the deadline");
            let _held = Counted::new(held, ceiling);
            assert!(limit.load().waiting <= 6);
            let latency = Duration::from_millis(request.takes);
            sleep(latency).await;
            permit.finish(latency, request.outcome, began + latency);
        };
        let _ = timeout(Duration::from_millis(request.cancelled), story).await;
    }

    /// One that is in progress, counted from outside.
    struct Counted(Arc<AtomicU32>);

    impl Counted {
        fn new(held: Arc<AtomicU32>, ceiling: u32) -> Self {
            assert!(
                held.fetch_add(1, Ordering::SeqCst) < ceiling,
                "more than the limit in progress"
            );
            Self(held)
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    proptest! {
        /// Never more in progress than the limit, whoever comes, waits, is cancelled or changes the rules; and every waiter ends, with no
        /// permit and no place in line left behind.
        #[test]
        fn never_more_than_the_limit_and_every_waiter_ends(
            rules in prop::collection::vec((any_rules(), 0u64..100), 1..4),
            requests in prop::collection::vec(any_request(), 1..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let ceiling = rules.iter().map(|(rules, _)| most(rules)).max().unwrap();
            let limit = limit(rules[0].0.limit, rules[0].0.queue);
            let held = Arc::new(AtomicU32::new(0));
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for request in requests {
                    tasks.spawn(tell(limit.clone(), request, held.clone(), ceiling));
                }
                for (next, after) in rules {
                    limit.set_rules(next);
                    sleep(Duration::from_millis(after)).await;
                }
                timeout(Duration::from_secs(10), tasks.join_all()).await.expect("every waiter ends");
            });
            prop_assert_eq!(counts(&limit), (0, 0));
        }

        #[test]
        fn an_estimate_stays_within_its_bounds(
            (least, most) in (0u32..50, 0u32..300),
            steps in prop::collection::vec((0u64..2_000, 0u64..u64::MAX, 0u32..400, 0u8..8), 1..200),
        ) {
            let bounds = Limit::Adaptive { least, most };
            let mut now = Instant::now();
            let mut estimate = Estimate::new(bounds, now);
            for (pause, latency, in_progress, outcome) in steps {
                now += Duration::from_millis(pause);
                let outcome = if outcome == 0 { Outcome::Overloaded } else { Outcome::Answered };
                estimate.add(Duration::from_millis(latency), outcome, in_progress, now);
                estimate.keep_within(bounds);
                prop_assert!((least.max(1)..=most.max(least).max(1)).contains(&(estimate.limit as u32)));
            }
        }
    }

    /// What acquiring and releasing costs: `cargo test --release --lib concurrency -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn what_a_request_pays() {
        const ROUNDS: u32 = 1_000_000;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        for rules in [Limit::Unlimited, Limit::Fixed(100), WIDE] {
            let limit = limit(rules, 100);
            let deadline = within_real(60);
            let began = Instant::now();
            runtime.block_on(async {
                for _ in 0..ROUNDS {
                    let permit = limit.acquire(deadline).await.unwrap();
                    permit.finish(Duration::from_millis(1), Outcome::Answered, began);
                }
            });
            println!("{rules:?}: {:?}", began.elapsed() / ROUNDS);
        }
    }

    fn within_real(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }
}
