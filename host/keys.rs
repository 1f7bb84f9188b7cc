//! The keys of one target: its credentials, which of them rest, and whose turn it is. A key that is refused, used up or limited says
//! nothing of the others: the next attempt takes another one at once. No lock, and no secret: a key is known by its digest here, so that
//! it keeps its rest through a reload, and by its place in the configuration for whoever signs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use sha2::{Digest, Sha256};

use crate::config;
use crate::failure::{Blame, Failure};

/// The keys of a target, as one configuration lists them.
#[derive(Debug)]
pub struct KeyPool {
    keys: Vec<Arc<Key>>,
    /// Picks so far; they go round.
    picks: AtomicUsize,
}

/// What is known of a key. The pools of two configurations that list it share it.
struct Key {
    digest: [u8; 32],
    origin: Instant,
    /// Milliseconds after the origin until which it rests. A rest is never shortened, but by an attempt with the key that succeeds and by
    /// an operator.
    rests_until: AtomicU64,
    /// Milliseconds after the origin at which it was last put to rest.
    rested_at: AtomicU64,
    /// Rate limits without a stated wait since the last success.
    unstated: AtomicU32,
}

/// The first and the longest rest of a rate-limited key whose vendor stated no wait; doubles in between (design, "backoff 0.5 to 5 s").
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

impl KeyPool {
    /// The keys with these secrets, known by their places; what `before` knows of those that it had too stays. `None`: there are no keys,
    /// so the target needs none.
    pub fn new(secrets: &[&str], before: Option<&KeyPool>, now: Instant) -> Option<Self> {
        let known = |digest: &[u8; 32]| before?.keys.iter().find(|key| key.digest == *digest).cloned();
        let key = |secret: &&str| {
            let digest = Sha256::digest(secret.as_bytes()).into();
            known(&digest).unwrap_or_else(|| Arc::new(Key::new(digest, now)))
        };
        (!secrets.is_empty()).then(|| Self {
            keys: secrets.iter().map(key).collect(),
            picks: AtomicUsize::new(0),
        })
    }

    /// The place of the key whose turn it is, among those that do not rest; when all do, the moment at which the first wakes up.
    pub fn pick(&self, now: Instant) -> Result<usize, Instant> {
        let awake = |(_, key): &(usize, &Arc<Key>)| key.is_awake(now);
        let count = self.keys.iter().enumerate().filter(awake).count();
        if count == 0 {
            return Err(self.wakes(now));
        }
        let turn = self.picks.fetch_add(1, Ordering::Relaxed) % count;
        // One may have gone to rest since they were counted: then the last that is still awake.
        let awake = self.keys.iter().enumerate().filter(awake).take(turn + 1).last();
        awake.map(|(place, _)| place).ok_or_else(|| self.wakes(now))
    }

    /// The place of a key for an attempt while all rest: they go round, so that each is tried now and then.
    pub fn pick_resting(&self) -> usize {
        self.picks.fetch_add(1, Ordering::Relaxed) % self.keys.len().max(1)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Wakes all of them up.
    pub fn reset(&self) {
        self.keys.iter().for_each(|key| key.wake());
    }

    /// How many of them rest.
    pub fn resting(&self, now: Instant) -> usize {
        self.keys.iter().filter(|key| !key.is_awake(now)).count()
    }

    /// Until when all keys rest; `None`: one is awake.
    pub fn all_rest_until(&self, now: Instant) -> Option<Instant> {
        Some(self.wakes(now)).filter(|until| *until > now)
    }

    /// The key rests until then, or longer if it did already.
    #[cfg(test)]
    fn rest(&self, place: usize, until: Instant, now: Instant) {
        if let Some(key) = self.keys.get(place) {
            key.rest(until, now);
        }
    }

    /// An attempt with the key failed. What is the operator's to mend lets it rest for `rules.rest`, a rate limit for the wait that the
    /// vendor stated, up to `rules.max_retry_after`, or else for a moment; anything else says nothing of a key. Whether the key rests now.
    pub fn fail(&self, place: usize, failure: &Failure, rules: &config::Breaker, now: Instant) -> bool {
        let Some(key) = self.keys.get(place) else {
            return false;
        };
        let wait = match failure.blame() {
            Blame::Rest => rules.rest,
            Blame::Cooldown => {
                let stated = failure.retry_after.map(|stated| stated.min(rules.max_retry_after));
                // A key that need not wait at all would be tried again in the same request.
                stated.filter(|wait| !wait.is_zero()).unwrap_or_else(|| key.backoff())
            }
            Blame::Target | Blame::Nobody | Blame::Gateway => return false,
        };
        key.rest(now + wait, now);
        true
    }

    /// An attempt with the key, which began then, succeeded. If the key was put to rest before that, it was tried to see whether it must
    /// rest any longer, and need not. One that was put to rest later goes on resting.
    pub fn succeed(&self, place: usize, began: Instant) {
        if let Some(key) = self.keys.get(place) {
            key.unstated.store(0, Ordering::Relaxed);
            if key.was_at_rest(began) {
                key.wake();
            }
        }
    }

    /// When the first key wakes up; in the past or now when one is awake.
    fn wakes(&self, now: Instant) -> Instant {
        let moments = self.keys.iter().map(|key| key.wakes());
        moments.min().unwrap_or(now)
    }
}

impl Key {
    fn new(digest: [u8; 32], now: Instant) -> Self {
        Self {
            digest,
            origin: now,
            rests_until: AtomicU64::new(0),
            rested_at: AtomicU64::new(0),
            unstated: AtomicU32::new(0),
        }
    }

    fn wakes(&self) -> Instant {
        self.origin + Duration::from_millis(self.rests_until.load(Ordering::Relaxed))
    }

    fn is_awake(&self, now: Instant) -> bool {
        self.wakes() <= now
    }

    fn rest(&self, until: Instant, now: Instant) {
        self.rested_at.fetch_max(self.milliseconds(now), Ordering::Relaxed);
        self.rests_until.fetch_max(self.milliseconds(until), Ordering::Relaxed);
    }

    fn wake(&self) {
        self.rests_until.store(0, Ordering::Relaxed);
    }

    /// Whether it rested already at a moment.
    fn was_at_rest(&self, then: Instant) -> bool {
        self.wakes() > then && self.rested_at.load(Ordering::Relaxed) <= self.milliseconds(then)
    }

    /// A moment in milliseconds after the origin, rounded up.
    fn milliseconds(&self, moment: Instant) -> u64 {
        let nanos = moment.saturating_duration_since(self.origin).as_nanos();
        nanos.div_ceil(1_000_000).min(LONGEST_MS) as u64
    }

    fn backoff(&self) -> Duration {
        let (first, longest) = BACKOFF;
        let times = self.unstated.fetch_add(1, Ordering::Relaxed);
        (first * 2u32.pow(times.min(8))).min(longest)
    }
}

/// A century after a key was first seen: later than any rest, and a moment that every clock can tell.
const LONGEST_MS: u128 = 100 * 365 * 86_400_000;

impl fmt::Debug for Key {
    /// Eight digits of the digest tell keys apart and nothing about a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.digest;
        write!(f, "Key({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pool(secrets: &[&str]) -> (KeyPool, Instant) {
        let now = Instant::now();
        (KeyPool::new(secrets, None, now).unwrap(), now)
    }

    fn failure(kind: Kind, retry_after: Option<Duration>) -> Failure {
        Failure {
            retry_after,
            ..Failure::on_the_wire(kind, "", "")
        }
    }

    fn fail(pool: &KeyPool, place: usize, kind: Kind, retry_after: Option<Duration>, now: Instant) {
        let failure = failure(kind, retry_after);
        let rests = pool.fail(place, &failure, &config::Breaker::default(), now);
        let is_keys = matches!(failure.blame(), Blame::Rest | Blame::Cooldown) && place < pool.count();
        assert_eq!(rests, is_keys, "{kind:?}");
        assert!(!rests || !pool.keys[place].is_awake(now), "a key that failed rests");
    }

    fn picks(pool: &KeyPool, now: Instant, times: usize) -> Vec<usize> {
        (0..times).map(|_| pool.pick(now).unwrap()).collect()
    }

    #[test]
    fn keys_take_turns() {
        let (pool, now) = pool(&["a", "b", "c"]);
        assert_eq!(picks(&pool, now, 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_target_without_keys_needs_no_pool() {
        assert!(KeyPool::new(&[], None, Instant::now()).is_none());
    }

    #[test]
    fn a_limited_key_leaves_its_turns_to_the_others_until_its_wait_is_over() {
        let (pool, now) = pool(&["a", "b", "c"]);
        fail(&pool, 1, Kind::RateLimited, Some(MINUTE), now);
        let mut places = picks(&pool, now, 4);
        places.sort_unstable();
        assert_eq!(places, [0, 0, 2, 2], "evenly");
        assert!(picks(&pool, now + MINUTE, 3).contains(&1));
    }

    #[test]
    fn what_the_operator_must_mend_rests_for_half_an_hour() {
        for kind in [Kind::Unauthorized, Kind::OutOfQuota] {
            let (pool, now) = pool(&["a"]);
            fail(&pool, 0, kind, Some(MINUTE), now);
            assert_eq!(pool.pick(now), Err(now + 30 * MINUTE));
        }
    }

    #[test]
    fn failures_that_say_nothing_of_a_key_leave_it_alone() {
        let (pool, now) = pool(&["a"]);
        for kind in Kind::ALL
            .into_iter()
            .filter(|kind| matches!(kind.blame(), Blame::Target | Blame::Nobody | Blame::Gateway))
        {
            fail(&pool, 0, kind, Some(MINUTE), now);
        }
        assert_eq!(pool.pick(now), Ok(0));
    }

    #[test]
    fn when_all_rest_the_first_to_wake_up_is_told() {
        let (pool, now) = pool(&["a", "b"]);
        fail(&pool, 0, Kind::Unauthorized, None, now);
        assert_eq!(pool.all_rest_until(now), None);
        fail(&pool, 1, Kind::RateLimited, Some(MINUTE), now);
        assert_eq!(pool.pick(now), Err(now + MINUTE));
        assert_eq!(pool.all_rest_until(now), Some(now + MINUTE));
        assert_eq!(pool.pick(now + MINUTE), Ok(1));
    }

    #[test]
    fn unstated_limits_grow_and_start_over_after_a_success_which_wakes_nobody_up() {
        let (pool, mut now) = pool(&["a"]);
        let mut waits = Vec::new();
        for _ in 0..6 {
            fail(&pool, 0, Kind::RateLimited, None, now);
            let until = pool.pick(now).unwrap_err();
            waits.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000]);
        let began = now;
        now += Duration::from_secs(1);
        fail(&pool, 0, Kind::RateLimited, Some(MINUTE), now);
        pool.succeed(0, began);
        assert_eq!(pool.pick(now), Err(now + MINUTE));
        now += MINUTE;
        fail(&pool, 0, Kind::RateLimited, None, now);
        assert_eq!(pool.pick(now), Err(now + Duration::from_millis(500)));
    }

    #[test]
    fn a_stated_wait_is_capped_and_no_moment_is_too_far() {
        let (pool, now) = pool(&["a", "b"]);
        fail(&pool, 0, Kind::RateLimited, Some(Duration::MAX), now);
        pool.rest(1, now + Duration::from_secs(1 << 36), now);
        assert_eq!(pool.pick(now), Err(now + Duration::from_secs(3600)));
        pool.rest(7, now + MINUTE, now);
    }

    #[test]
    fn a_key_that_is_told_not_to_wait_rests_for_a_moment_all_the_same() {
        let (pool, now) = pool(&["a"]);
        fail(&pool, 0, Kind::RateLimited, Some(Duration::ZERO), now);
        assert_eq!(pool.pick(now), Err(now + Duration::from_millis(500)));
    }

    #[test]
    fn a_success_ends_the_rest_in_which_it_was_tried() {
        let (pool, now) = pool(&["a", "b"]);
        fail(&pool, 0, Kind::Unauthorized, None, now);
        fail(&pool, 1, Kind::Unauthorized, None, now);
        assert_eq!([pool.pick_resting(), pool.pick_resting()], [0, 1], "each is tried");
        pool.succeed(1, now + MINUTE);
        assert_eq!(pool.pick(now + MINUTE), Ok(1));
        assert_eq!(pool.resting(now + MINUTE), 1);
    }

    #[test]
    fn a_reset_wakes_all_keys() {
        let (pool, now) = pool(&["a", "b"]);
        fail(&pool, 0, Kind::Unauthorized, None, now);
        fail(&pool, 1, Kind::RateLimited, Some(MINUTE), now);
        pool.reset();
        assert_eq!(pool.resting(now), 0);
    }

    #[test]
    fn a_rest_is_rounded_up() {
        let (pool, now) = pool(&["a"]);
        pool.rest(0, now + Duration::from_micros(1500), now);
        assert_eq!(pool.pick(now), Err(now + Duration::from_millis(2)));
    }

    #[test]
    fn a_reload_keeps_the_rest_of_a_key_that_it_keeps() {
        let (before, now) = pool(&["a", "b"]);
        fail(&before, 0, Kind::Unauthorized, None, now);
        let after = KeyPool::new(&["c", "a"], Some(&before), now + MINUTE).unwrap();
        assert_eq!(picks(&after, now + MINUTE, 2), [0, 0]);
        // A request that began before the reload still tells what it finds.
        let kept = KeyPool::new(&["b"], Some(&before), now).unwrap();
        fail(&before, 1, Kind::Unauthorized, None, now + MINUTE);
        assert_eq!(kept.pick(now + MINUTE), Err(now + 31 * MINUTE));
    }

    #[test]
    fn no_key_is_ever_shown() {
        let (pool, _) = pool(&["sk-very-secret"]);
        let shown = format!("{pool:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let digits = shown.split_once("Key(").unwrap().1.split_once(')').unwrap().0;
        assert_eq!(digits.len(), 8, "{shown}");
    }

    proptest! {
        /// Whatever happens: no pick rests, one is picked while any is awake, no rest is shortened by an attempt that began before it, and
        /// what is told when all rest is the soonest.
        #[test]
        fn a_rest_is_kept(
            count in 1usize..5,
            steps in prop::collection::vec((0usize..5, 0usize..12, prop::option::of(0u64..5_000), 0u64..3_000), 1..100),
        ) {
            let secrets = ["a", "b", "c", "d", "e"];
            let (mut pool, mut now) = pool(&secrets[..count]);
            let start = now;
            let mut rests = [now; 5];
            for (place, kind, wait, milliseconds) in steps {
                now += Duration::from_millis(milliseconds + 1);
                fail(&pool, place, Kind::ALL[kind], wait.map(Duration::from_millis), now);
                if wait.is_none() {
                    pool.succeed(place, start);
                    pool = KeyPool::new(&secrets[..count], Some(&pool), now).unwrap();
                }
                for (before, key) in rests.iter_mut().zip(&pool.keys) {
                    prop_assert!(key.wakes() >= *before);
                    *before = key.wakes();
                }
                let soonest = rests[..count].iter().copied().min().unwrap();
                match pool.pick(now) {
                    Ok(picked) => prop_assert!(rests[picked] <= now),
                    Err(until) => prop_assert!(until == soonest && soonest > now),
                }
            }
        }

        /// Among those that do not rest, nobody gets more than one turn more than another.
        #[test]
        fn turns_are_even(resting in prop::collection::vec(any::<bool>(), 1..8), times in 0usize..50) {
            let secrets: Vec<String> = (0..resting.len()).map(|number| number.to_string()).collect();
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let (pool, now) = pool(&secrets);
            for (place, _) in resting.iter().enumerate().filter(|(_, rests)| **rests) {
                pool.rest(place, now + MINUTE, now);
            }
            let mut turns = vec![0usize; resting.len()];
            for _ in 0..times {
                if let Ok(place) = pool.pick(now) {
                    turns[place] += 1;
                }
            }
            let awake: Vec<usize> = (0..turns.len()).filter(|place| !resting[*place]).map(|place| turns[place]).collect();
            let spread = awake.iter().max().zip(awake.iter().min()).map_or(0, |(most, least)| most - least);
            prop_assert!(spread <= 1, "{turns:?}");
            prop_assert_eq!(turns.iter().sum::<usize>(), if awake.is_empty() { 0 } else { times });
        }
    }
}
