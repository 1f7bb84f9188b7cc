//! The threads that load plugins. What routes use has threads of its own, and so have earlier versions; plugins that no route uses
//! are loaded when there is nothing else to do. A thread that does not come back is replaced, and its plugin is refused.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::compile::Cancel;
use super::load::{Order, Outcome};
use super::program::Hash;
use super::refusal::Refusal;

/// Who waits for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// A route.
    Used,
    /// An operator, or a policy that has nothing else to serve.
    Earlier,
    /// Nobody, yet.
    Unused,
}

/// The lanes and how many threads each of them has.
const LANES: [(Lane, usize); 3] = [(Lane::Used, 2), (Lane::Earlier, 1), (Lane::Unused, 1)];

/// Threads that did not come back and were replaced; with more of them, something is wrong that no further thread mends.
const MAX_LOST: usize = 16;

/// What a thread tells of its job.
pub(super) enum News {
    /// The plugin of this content is being compiled: it was never loaded before.
    Compiling(Hash),
    /// It is over; it took so long.
    Done(Outcome, Duration),
}

/// A plugin to load.
pub(super) struct Job {
    pub(super) order: Order,
    pub(super) lane: Lane,
    /// After this time its thread counts as lost.
    pub(super) limit: Duration,
    pub(super) tell: Box<dyn Fn(News) + Send + Sync>,
}

/// What loads a plugin, and calls its second argument before it compiles.
type Work = dyn Fn(&Order, &dyn Fn(Hash)) -> Outcome + Send + Sync;

/// See the module. Dropping it cancels everything.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    work: Arc<Work>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    at_work: BTreeMap<u64, AtWork>,
    /// Jobs that were begun.
    begun: u64,
    /// Threads that have not come back and were replaced.
    lost: usize,
    closed: bool,
}

struct AtWork {
    policy: String,
    lane: Lane,
    since: Instant,
    limit: Duration,
    cancel: Cancel,
    listener: Arc<Listener>,
}

/// Is told once that a job is over, by the thread that did it or by the one that gave that thread up.
struct Listener {
    tell: Box<dyn Fn(News) + Send + Sync>,
    over: AtomicBool,
}

impl Lanes {
    /// Starts the threads: they are all there from the start, so that no reload depends on getting one.
    pub(super) fn start(work: impl Fn(&Order, &dyn Fn(Hash)) -> Outcome + Send + Sync + 'static) -> io::Result<Self> {
        let lanes = Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            work: Arc::new(work),
        };
        for (lane, threads) in LANES {
            for _ in 0..threads {
                lanes.start_thread(lane)?;
            }
        }
        Ok(lanes)
    }

    /// Loads a plugin, behind those of its lane that were ordered before.
    pub(super) fn load(&self, job: Job) {
        self.shared.lock().waiting.push_back(job);
        self.shared.changed.notify_all();
    }

    /// Gives up threads that are longer at work than they may be, and starts others in their place.
    pub(super) fn replace_lost(&self) {
        let mut state = self.shared.lock();
        let late = |job: &AtWork| job.since.elapsed() > job.limit;
        while state.lost < MAX_LOST
            && let Some(number) = state
                .at_work
                .iter()
                .find(|(_, job)| late(job))
                .map(|(number, _)| *number)
            && let Some(job) = state.at_work.remove(&number)
        {
            state.lost += 1;
            tracing::error!(
                policy = job.policy,
                lost = state.lost,
                "a loader did not come back; it is replaced"
            );
            job.cancel.cancel();
            if let Err(error) = self.start_thread(job.lane) {
                tracing::error!(%error, "no thread to load policies with");
            }
            job.listener
                .done(Outcome::refused(Refusal::LoaderLost(job.limit)), job.since.elapsed());
        }
    }

    fn start_thread(&self, lane: Lane) -> io::Result<()> {
        let (shared, work) = (Arc::clone(&self.shared), Arc::clone(&self.work));
        let thread = thread::Builder::new().name("policy-load".into());
        thread.spawn(move || shared.run(lane, &*work)).map(drop)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.waiting.clear();
        state.at_work.values().for_each(|job| job.cancel.cancel());
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn run(&self, lane: Lane, work: &Work) {
        while let Some((number, order, listener)) = self.next(lane) {
            let start = Instant::now();
            let outcome = if order.cancel.is_cancelled() {
                Outcome::refused(Refusal::Outdated)
            } else {
                // A plugin that finds a mistake in this program must not stop those after it.
                let compiling = |hash| listener.compiling(hash);
                let outcome = panic::catch_unwind(AssertUnwindSafe(|| work(&order, &compiling)));
                outcome.unwrap_or_else(|_| {
                    let why = "a mistake in the gateway; please report it";
                    Outcome::refused(Refusal::CompileFailed(why.into()))
                })
            };
            let is_lost = self.finish(number);
            listener.done(outcome, start.elapsed());
            if is_lost {
                return;
            }
        }
    }

    /// The next job of a lane; `None` at the end.
    fn next(&self, lane: Lane) -> Option<(u64, Order, Arc<Listener>)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.take(lane) {
                let listener = Arc::new(Listener {
                    tell: job.tell,
                    over: AtomicBool::new(false),
                });
                state.begun += 1;
                let number = state.begun;
                let at_work = AtWork {
                    policy: job.order.policy.clone(),
                    lane,
                    since: Instant::now(),
                    limit: job.limit,
                    cancel: job.order.cancel.clone(),
                    listener: Arc::clone(&listener),
                };
                state.at_work.insert(number, at_work);
                return Some((number, job.order, listener));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A job is over. Returns whether its thread had been given up.
    fn finish(&self, number: u64) -> bool {
        let mut state = self.lock();
        let is_lost = state.at_work.remove(&number).is_none();
        if is_lost {
            state.lost -= 1;
        }
        // Plugins that no route uses wait for this.
        self.changed.notify_all();
        is_lost
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, lane: Lane) -> Option<Job> {
        // What nobody waits for yet must not take processor time from what somebody does.
        let others = self.waiting.iter().any(|job| job.lane != Lane::Unused)
            || self.at_work.values().any(|job| job.lane != Lane::Unused);
        if lane == Lane::Unused && others {
            return None;
        }
        let first = self.waiting.iter().position(|job| job.lane == lane)?;
        self.waiting.remove(first)
    }
}

impl Listener {
    fn compiling(&self, hash: Hash) {
        if !self.over.load(Ordering::Acquire) {
            (self.tell)(News::Compiling(hash));
        }
    }

    fn done(&self, outcome: Outcome, took: Duration) {
        if !self.over.swap(true, Ordering::AcqRel) {
            (self.tell)(News::Done(outcome, took));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;
    use crate::config::Config;
    use crate::policy::load::Source;
    use crate::policy::settings::Settings;

    const SOON: Duration = Duration::from_secs(20);

    /// Lanes whose work is to wait for a word, where the policy's name says so.
    fn lanes() -> (Lanes, Sender<()>) {
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let lanes = Lanes::start(move |order, _| {
            if order.policy.starts_with("stuck") {
                let _ = released.lock().unwrap().recv();
            }
            Outcome::refused(Refusal::Empty)
        });
        (lanes.unwrap(), release)
    }

    /// Orders a policy, and tells its name when it is done, with why it was refused.
    fn order(lanes: &Lanes, policy: &str, lane: Lane, limit: Duration) -> (Receiver<(String, Refusal)>, Cancel) {
        let config = Config::without_file(std::path::Path::new("."), &|_| None);
        let order = Settings::of(&config).order(policy, Source::ReadyMade(b""), Vec::new());
        let cancel = order.cancel.clone();
        let (sender, done) = mpsc::channel();
        let name = policy.to_owned();
        lanes.load(Job {
            order,
            lane,
            limit,
            tell: Box::new(move |news| {
                if let News::Done(outcome, _) = news {
                    let refusal = outcome.program.err().unwrap();
                    _ = sender.send((name.clone(), refusal));
                }
            }),
        });
        (done, cancel)
    }

    #[test]
    fn a_thread_that_does_not_come_back_is_replaced() {
        let (lanes, release) = lanes();
        let limit = Duration::from_millis(50);
        let stuck = [1, 2].map(|_| order(&lanes, "stuck", Lane::Used, limit).0);
        let (after, _) = order(&lanes, "after", Lane::Used, SOON);
        let start = Instant::now();
        while after.try_recv().is_err() {
            assert!(start.elapsed() < SOON, "both threads of the lane are lost for good");
            lanes.replace_lost();
            thread::sleep(Duration::from_millis(1));
        }
        for stuck in stuck {
            assert_eq!(stuck.recv_timeout(SOON).unwrap().1, Refusal::LoaderLost(limit));
            // One that comes back after all tells nothing more.
            release.send(()).unwrap();
            assert!(stuck.recv_timeout(SOON).is_err());
        }
    }

    #[test]
    fn what_no_route_uses_waits_for_what_routes_use() {
        let (lanes, release) = lanes();
        let (used, _) = order(&lanes, "stuck", Lane::Used, SOON);
        let (unused, _) = order(&lanes, "unused", Lane::Unused, SOON);
        let (other, _) = order(&lanes, "other", Lane::Used, SOON);
        assert_eq!(other.recv_timeout(SOON).unwrap().0, "other");
        assert!(unused.recv_timeout(Duration::from_millis(50)).is_err());
        release.send(()).unwrap();
        assert!(used.recv_timeout(SOON).is_ok() && unused.recv_timeout(SOON).is_ok());
    }

    #[test]
    fn what_is_cancelled_while_it_waits_is_not_begun() {
        let (lanes, release) = lanes();
        let stuck = [1, 2].map(|_| order(&lanes, "stuck", Lane::Used, SOON).0);
        let (waiting, cancel) = order(&lanes, "waiting", Lane::Used, SOON);
        cancel.cancel();
        stuck.iter().for_each(|_| release.send(()).unwrap());
        assert_eq!(waiting.recv_timeout(SOON).unwrap().1, Refusal::Outdated);
    }
}
