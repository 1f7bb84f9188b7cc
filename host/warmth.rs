//! Warm targets: which target last served a session, because it still holds the session's prompt in its cache and reads it again for a
//! fraction of the price. A hint and no more: forgetting one costs a cache miss, never an answer.
//!
//! One lock for all sessions. Measured on a 2-core machine with 10,000 sessions: finding costs 0.03 µs and noting 0.2 µs; when two threads
//! do nothing else, 0.15 and 0.8 µs. A request costs 200 µs elsewhere, so that shards would save less than half a percent of it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Sessions remembered: 10,000, which is about a megabyte, and more than 30 new sessions a second for as long as they stay warm.
pub const SESSIONS: usize = 10_000;

/// How long a target stays warm after it has served a session: 5 min. Anthropic keeps a prompt for 5 minutes after its last use
/// (`docs.anthropic.com`, "Prompt caching", `ephemeral`), OpenAI and Azure typically for 5 to 10 (`developers.openai.com`, "Prompt
/// caching", in-memory retention): the shortest of them.
pub const STAYS_WARM: Duration = Duration::from_secs(5 * 60);

/// A session of a client on a route. Hashed with a secret of this process, so that no client can find a name that meets another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(u64);

/// Which target last served which session. It outlives reloads; a name may be that of a target which no longer exists.
#[derive(Debug)]
pub struct WarmTargets {
    hasher: RandomState,
    most: usize,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    sessions: HashMap<SessionKey, Warmth>,
    /// Sessions in the order in which they were last noted, which is also the order in which they cool down.
    order: BTreeMap<u64, SessionKey>,
    /// The next place in that order.
    next: u64,
}

#[derive(Debug)]
struct Warmth {
    target: Arc<str>,
    since: Instant,
    place: u64,
}

impl WarmTargets {
    /// Remembers at most so many sessions.
    pub fn new(most: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            most,
            memory: Mutex::default(),
        }
    }

    /// The key of a session, as its client calls it. Another client's session of the same name is another one.
    pub fn key(&self, route: &str, client: &str, session: &str) -> SessionKey {
        SessionKey(self.hasher.hash_one((route, client, session)))
    }

    /// The name of the target that served a session in the last 5 minutes.
    pub fn warm(&self, key: SessionKey, now: Instant) -> Option<Arc<str>> {
        let memory = self.memory();
        let warmth = memory.sessions.get(&key).filter(|warmth| warmth.is_warm(now))?;
        Some(warmth.target.clone())
    }

    /// Notes that a target has served a session. What is cold goes out, and one that was noted longest ago when there are too many.
    pub fn note(&self, key: SessionKey, target: &Arc<str>, now: Instant) {
        let mut memory = self.memory();
        memory.insert(key, target.clone(), now);
        while memory.sessions.len() > self.most || memory.oldest().is_some_and(|oldest| !oldest.is_warm(now)) {
            memory.forget_oldest();
        }
    }

    /// Sessions that are remembered.
    pub fn sessions(&self) -> usize {
        self.memory().sessions.len()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A hint: a panic elsewhere can at worst leave a place in the order without a session, which is forgotten when its turn comes.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for WarmTargets {
    fn default() -> Self {
        Self::new(SESSIONS)
    }
}

impl Memory {
    fn insert(&mut self, key: SessionKey, target: Arc<str>, since: Instant) {
        let place = self.next;
        self.next += 1;
        self.order.insert(place, key);
        if let Some(before) = self.sessions.insert(key, Warmth { target, since, place }) {
            self.order.remove(&before.place);
        }
    }

    fn oldest(&self) -> Option<&Warmth> {
        let (_, key) = self.order.first_key_value()?;
        self.sessions.get(key)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_first() {
            self.sessions.remove(&key);
        }
    }
}

impl Warmth {
    fn is_warm(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < STAYS_WARM
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn second() -> Duration {
        Duration::from_secs(1)
    }

    #[test]
    fn a_session_goes_back_to_whoever_served_it_last() {
        let (warm, now) = (WarmTargets::new(10), Instant::now());
        let key = warm.key("smart", "team", "chat-1");
        assert_eq!(warm.warm(key, now), None);
        warm.note(key, &"gpt".into(), now);
        warm.note(key, &"claude".into(), now + second());
        assert_eq!(warm.warm(key, now + second()).as_deref(), Some("claude"));
        assert_eq!(warm.sessions(), 1);
    }

    #[test]
    fn sessions_of_other_clients_and_routes_are_others() {
        let warm = WarmTargets::default();
        let keys = [
            warm.key("smart", "team", "1"),
            warm.key("smart", "tea", "m1"),
            warm.key("smar", "tteam", "1"),
            warm.key("smart", "team", "2"),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
        assert_eq!(keys[0], warm.key("smart", "team", "1"));
    }

    #[test]
    fn goes_cold_after_five_minutes_and_is_then_forgotten() {
        let (warm, now) = (WarmTargets::new(10), Instant::now());
        let (old, new) = (warm.key("r", "c", "old"), warm.key("r", "c", "new"));
        warm.note(old, &"gpt".into(), now);
        assert!(warm.warm(old, now + STAYS_WARM - second()).is_some());
        assert!(warm.warm(old, now + STAYS_WARM).is_none());
        warm.note(new, &"gpt".into(), now + STAYS_WARM);
        assert_eq!(warm.sessions(), 1);
    }

    #[test]
    fn whoever_was_noted_longest_ago_goes_first() {
        let (warm, now) = (WarmTargets::new(2), Instant::now());
        let [a, b, c] = ["a", "b", "c"].map(|name| warm.key("r", "c", name));
        for key in [a, b, a, c] {
            warm.note(key, &"gpt".into(), now);
        }
        assert!(warm.warm(b, now).is_none());
        assert!(warm.warm(a, now).is_some() && warm.warm(c, now).is_some());
    }

    #[test]
    fn no_sessions_means_nothing_is_remembered() {
        let (warm, now) = (WarmTargets::new(0), Instant::now());
        let key = warm.key("r", "c", "s");
        warm.note(key, &"gpt".into(), now);
        assert_eq!((warm.warm(key, now), warm.sessions()), (None, 0));
    }

    /// What stands in the module's head: `cargo test --release --lib warmth -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn what_a_request_pays() {
        const ROUNDS: u32 = 1_000_000;
        let target: Arc<str> = "gpt".into();
        let now = Instant::now();
        for threads in [1u32, 2, 4] {
            let warm = WarmTargets::default();
            let keys: Vec<SessionKey> = (0..SESSIONS + 2_000)
                .map(|name| warm.key("smart", "team", &name.to_string()))
                .collect();
            let timed = |work: &(dyn Fn(SessionKey) + Sync)| {
                let began = Instant::now();
                std::thread::scope(|scope| {
                    for thread in 0..threads {
                        let keys = &keys;
                        scope.spawn(move || {
                            let mut dice = thread.wrapping_mul(2_654_435_769).max(1);
                            for _ in 0..ROUNDS {
                                dice ^= dice << 13;
                                dice ^= dice >> 17;
                                dice ^= dice << 5;
                                work(keys[dice as usize % keys.len()]);
                            }
                        });
                    }
                });
                began.elapsed() / ROUNDS
            };
            let note = timed(&|key| warm.note(key, &target, now));
            let find = timed(&|key| drop(std::hint::black_box(warm.warm(key, now))));
            println!("{threads} threads, each operation of each thread: note {note:?}, warm {find:?}");
        }
    }

    proptest! {
        /// Against a model: what it says is what was noted last and is warm, nothing else, and never more than `most` sessions.
        #[test]
        fn remembers_what_was_noted_last(
            most in 1usize..6,
            steps in prop::collection::vec((0u64..8, 0u8..4, 0u64..90), 1..120),
        ) {
            let (warm, mut now) = (WarmTargets::new(most), Instant::now());
            let mut noted: Vec<(SessionKey, Arc<str>, Instant)> = Vec::new();
            for (session, target, seconds) in steps {
                now += Duration::from_secs(seconds);
                let (key, target) = (SessionKey(session), Arc::from(format!("t{target}")));
                warm.note(key, &target, now);
                noted.retain(|(before, ..)| *before != key);
                noted.push((key, target, now));
                noted.drain(..noted.len().saturating_sub(most));
                for session in (0..8).map(SessionKey) {
                    let known = noted.iter().find(|(key, _, since)| *key == session && now - *since < STAYS_WARM);
                    prop_assert_eq!(warm.warm(session, now), known.map(|(_, target, _)| target.clone()));
                }
                prop_assert!(warm.sessions() <= most);
                prop_assert_eq!(warm.memory().order.len(), warm.sessions());
            }
        }
    }
}
