//! The breaker of one target: a state machine over a clock that is passed in, with dice that are passed in. It holds no lock, reads
//! no clock and knows nothing of vendors.
//!
//! Three things can keep a target from being tried: the breaker is open because too many attempts failed; a cooldown that the
//! vendor asked for; a rest because its credential or quota failed. The longest of them holds, and none is ever shortened.

use std::time::Duration;

use tokio::time::Instant;

use crate::config;

/// Slices of the window: failures are forgotten in steps of a tenth of it.
const SLICES: usize = 10;

/// What an attempt says about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered.
    Success,
    /// The target failed; a stated wait is a floor for its cooldown.
    Failure(Option<Duration>),
    /// The target wants to be left alone; without a stated wait, for a moment that grows with each time.
    Cooldown(Option<Duration>),
    /// The operator has to act.
    Rest,
    /// The attempt says nothing about the target: it was cancelled.
    Abandoned,
}

/// Whether a target may be tried now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As usual.
    Open,
    /// As the single probe of a half-open breaker: its outcome decides.
    Probe,
    /// Not before so long.
    Wait(Duration),
}

/// How a breaker looks from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Attempts go through.
    Closed,
    /// One attempt may go through, to see.
    HalfOpen,
    /// None may.
    Open,
}

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    slices: [Slice; SLICES],
    origin: Instant,
    tripped: Option<Tripped>,
    cooldown_until: Option<Instant>,
    /// Until when the vendor's rate limit is why.
    limited_until: Option<Instant>,
    /// Cooldowns without a stated wait since the last success.
    unstated: u32,
}

/// Attempts and failures of a tenth of the window.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    /// Which tenth since the origin this counts.
    number: u64,
    attempts: u32,
    failures: u32,
}

/// An open breaker.
#[derive(Debug, Clone, Copy)]
struct Tripped {
    /// No probe before.
    until: Instant,
    /// How long it was open this time: the next time doubles it.
    lasted: Duration,
    probing: bool,
}

/// The first and the longest cooldown that no vendor stated (design, "backoff 0.5 to 5 s").
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Instant) -> Self {
        Self {
            slices: Default::default(),
            origin: now,
            tripped: None,
            cooldown_until: None,
            limited_until: None,
            unstated: 0,
        }
    }

    /// Asks for one attempt. `Probe` must be followed by a [`Breaker::record`] with the attempt's outcome.
    pub fn admit(&mut self, now: Instant) -> Admission {
        if let Some(until) = self.cooldown_until.filter(|until| *until > now) {
            return Admission::Wait(until - now);
        }
        match &mut self.tripped {
            None => Admission::Open,
            Some(tripped) if tripped.until > now => Admission::Wait(tripped.until - now),
            Some(tripped) if tripped.probing => Admission::Wait(Duration::from_millis(1)),
            Some(tripped) => {
                tripped.probing = true;
                Admission::Probe
            }
        }
    }

    /// The state, and how long until the target may be tried; zero when it may be now.
    pub fn look(&self, now: Instant) -> (State, Duration) {
        let cooldown = self
            .cooldown_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        match self.tripped {
            None => (State::Closed, cooldown),
            Some(tripped) if tripped.until > now => (State::Open, cooldown.max(tripped.until - now)),
            // Another request's probe is under way: for everybody else it is still open.
            Some(tripped) if tripped.probing => (State::Open, cooldown.max(Duration::from_millis(1))),
            Some(_) => (State::HalfOpen, cooldown),
        }
    }

    /// Whether nothing but the vendor's rate limit keeps the target from being tried now.
    pub fn is_limited(&self, now: Instant) -> bool {
        self.tripped.is_none() && self.limited_until.is_some_and(|until| until > now)
    }

    /// The failed share of the attempts in the window, 0 to 1.
    pub fn error_rate(&self, now: Instant, rules: &config::Breaker) -> f32 {
        let (attempts, failures) = self.counts(now, rules);
        if attempts == 0 {
            0.0
        } else {
            failures as f32 / attempts as f32
        }
    }

    /// Takes the outcome of an attempt. `probe` says that it was admitted as one; `dice`, 0 to 1, spreads the end of the pause.
    pub fn record(&mut self, outcome: Outcome, probe: bool, now: Instant, rules: &config::Breaker, dice: f32) {
        if probe && let Some(tripped) = &mut self.tripped {
            tripped.probing = false;
        }
        match outcome {
            Outcome::Abandoned => {}
            Outcome::Success => self.succeed(probe, now, rules),
            Outcome::Failure(stated) => {
                self.count(now, rules, true);
                self.cool_down(stated, now, rules);
                self.fail(probe, now, rules, dice);
            }
            Outcome::Cooldown(stated) => {
                self.count(now, rules, false);
                // The vendor answered: a probe that is told to slow down has found it alive.
                if probe {
                    self.close();
                }
                let wait = stated.unwrap_or_else(|| self.backoff(dice));
                self.cool_down(Some(wait), now, rules);
                self.limited_until = self.cooldown_until;
            }
            Outcome::Rest => self.trip(self.next_rest(probe, rules), now, dice),
        }
    }

    fn succeed(&mut self, probe: bool, now: Instant, rules: &config::Breaker) {
        self.unstated = 0;
        if probe {
            self.close();
        }
        self.count(now, rules, false);
    }

    fn fail(&mut self, probe: bool, now: Instant, rules: &config::Breaker, dice: f32) {
        if !rules.enabled {
            return;
        }
        match self.tripped {
            Some(tripped) if probe => self.trip((tripped.lasted * 2).clamp(rules.open, rules.max_open), now, dice),
            // A late failure of an attempt that began before the breaker opened says nothing new.
            Some(_) => {}
            None => {
                let (attempts, failures) = self.counts(now, rules);
                if attempts >= rules.min_attempts && failures as f32 >= rules.failure_share * attempts as f32 {
                    self.trip(rules.open, now, dice);
                }
            }
        }
    }

    /// A rest is probed meanwhile: rarely, and ever more rarely, until the pauses are as long as the rest itself.
    fn next_rest(&self, probe: bool, rules: &config::Breaker) -> Duration {
        let doubled = self
            .tripped
            .filter(|_| probe)
            .map_or(Duration::ZERO, |tripped| tripped.lasted * 2);
        doubled.max(rules.max_open).min(rules.rest)
    }

    fn trip(&mut self, lasts: Duration, now: Instant, dice: f32) {
        let until = now + lasts.mul_f32(0.9 + 0.2 * dice.clamp(0.0, 1.0));
        let until = self.tripped.map_or(until, |tripped| until.max(tripped.until));
        self.tripped = Some(Tripped {
            until,
            lasted: lasts,
            probing: false,
        });
    }

    fn close(&mut self) {
        self.tripped = None;
        self.slices = Default::default();
    }

    fn cool_down(&mut self, wait: Option<Duration>, now: Instant, rules: &config::Breaker) {
        let Some(wait) = wait.filter(|wait| !wait.is_zero()) else {
            return;
        };
        let until = now + wait.min(rules.max_retry_after);
        self.cooldown_until = Some(self.cooldown_until.map_or(until, |before| before.max(until)));
    }

    fn backoff(&mut self, dice: f32) -> Duration {
        let (first, longest) = BACKOFF;
        let wait = (first * 2u32.saturating_pow(self.unstated.min(8))).min(longest);
        self.unstated += 1;
        wait.mul_f32(0.8 + 0.4 * dice.clamp(0.0, 1.0))
    }

    fn slice_number(&self, now: Instant, rules: &config::Breaker) -> u64 {
        let slice = (rules.window / SLICES as u32).max(Duration::from_millis(1));
        (now.saturating_duration_since(self.origin).as_nanos() / slice.as_nanos()) as u64
    }

    fn count(&mut self, now: Instant, rules: &config::Breaker, failed: bool) {
        let number = self.slice_number(now, rules);
        let slice = &mut self.slices[(number % SLICES as u64) as usize];
        if slice.number != number {
            *slice = Slice {
                number,
                ..Slice::default()
            };
        }
        slice.attempts += 1;
        slice.failures += u32::from(failed);
    }

    fn counts(&self, now: Instant, rules: &config::Breaker) -> (u32, u32) {
        let newest = self.slice_number(now, rules);
        self.slices
            .iter()
            .filter(|slice| slice.number + SLICES as u64 > newest)
            .fold((0, 0), |(attempts, failures), slice| {
                (attempts + slice.attempts, failures + slice.failures)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> config::Breaker {
        config::Breaker::default()
    }

    /// Dice that leave a pause as it is.
    const EVEN: f32 = 0.5;

    struct Story {
        breaker: Breaker,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                breaker: Breaker::new(now),
                now,
            }
        }

        fn record(&mut self, outcome: Outcome) {
            let probe = self.breaker.admit(self.now) == Admission::Probe;
            self.breaker.record(outcome, probe, self.now, &rules(), EVEN);
        }

        fn after(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn state(&self) -> State {
            self.breaker.look(self.now).0
        }
    }

    #[test]
    fn opens_at_half_of_five_and_not_before() {
        let mut story = Story::new();
        for _ in 0..4 {
            story.record(Outcome::Failure(None));
        }
        assert_eq!(story.state(), State::Closed);
        story.record(Outcome::Failure(None));
        assert_eq!(story.state(), State::Open);
        assert_eq!(story.breaker.admit(story.now), Admission::Wait(Duration::from_secs(15)));
    }

    #[test]
    fn failures_older_than_the_window_are_forgotten() {
        let mut story = Story::new();
        for _ in 0..4 {
            story.record(Outcome::Failure(None));
        }
        story.after(31);
        story.record(Outcome::Failure(None));
        assert_eq!(story.state(), State::Closed);
    }

    #[test]
    fn lets_a_single_probe_through_and_closes_when_it_succeeds() {
        let mut story = Story::new();
        for _ in 0..5 {
            story.record(Outcome::Failure(None));
        }
        story.after(16);
        assert_eq!(story.state(), State::HalfOpen);
        assert_eq!(story.breaker.admit(story.now), Admission::Probe);
        assert!(
            matches!(story.breaker.admit(story.now), Admission::Wait(_)),
            "a second probe"
        );
        assert_eq!(story.state(), State::Open, "for everybody else");
        story.breaker.record(Outcome::Success, true, story.now, &rules(), EVEN);
        assert_eq!(story.state(), State::Closed);
        story.record(Outcome::Failure(None));
        assert_eq!(story.state(), State::Closed, "the past is forgotten");
    }

    #[test]
    fn a_failed_probe_doubles_the_pause_up_to_its_limit() {
        let mut story = Story::new();
        for _ in 0..5 {
            story.record(Outcome::Failure(None));
        }
        for seconds in [30, 60, 120, 120] {
            let (_, wait) = story.breaker.look(story.now);
            story.now += wait;
            story.record(Outcome::Failure(None));
            assert_eq!(
                story.breaker.look(story.now),
                (State::Open, Duration::from_secs(seconds))
            );
        }
    }

    #[test]
    fn an_abandoned_probe_gives_its_place_back() {
        let mut story = Story::new();
        for _ in 0..5 {
            story.record(Outcome::Failure(None));
        }
        story.after(16);
        story.record(Outcome::Abandoned);
        assert_eq!(story.breaker.admit(story.now), Admission::Probe);
    }

    #[test]
    fn a_longer_cooldown_is_never_shortened() {
        let mut story = Story::new();
        story.record(Outcome::Cooldown(Some(Duration::from_secs(60))));
        story.breaker.record(
            Outcome::Cooldown(Some(Duration::from_secs(1))),
            false,
            story.now,
            &rules(),
            EVEN,
        );
        story.breaker.record(
            Outcome::Failure(Some(Duration::from_secs(2))),
            false,
            story.now,
            &rules(),
            EVEN,
        );
        assert_eq!(story.breaker.admit(story.now), Admission::Wait(Duration::from_secs(60)));
    }

    #[test]
    fn a_stated_wait_is_capped() {
        let mut story = Story::new();
        story.record(Outcome::Cooldown(Some(Duration::from_secs(1_000_000))));
        assert_eq!(
            story.breaker.admit(story.now),
            Admission::Wait(Duration::from_secs(86400))
        );
    }

    #[test]
    fn unstated_cooldowns_grow_and_start_over_after_a_success() {
        let mut story = Story::new();
        let mut waits = Vec::new();
        for _ in 0..5 {
            story.record(Outcome::Cooldown(None));
            let (_, wait) = story.breaker.look(story.now);
            waits.push(wait.as_millis());
            story.now += wait;
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 5000]);
        story.record(Outcome::Success);
        story.record(Outcome::Cooldown(None));
        assert_eq!(story.breaker.look(story.now).1, Duration::from_millis(500));
    }

    #[test]
    fn a_rest_is_probed_ever_more_rarely_and_ends_with_a_success() {
        let mut story = Story::new();
        for seconds in [120, 240, 480, 960, 1800, 1800] {
            story.record(Outcome::Rest);
            assert_eq!(
                story.breaker.look(story.now),
                (State::Open, Duration::from_secs(seconds))
            );
            story.after(seconds);
        }
        story.record(Outcome::Success);
        assert_eq!(story.state(), State::Closed);
    }

    #[test]
    fn stays_closed_when_disabled() {
        let disabled = config::Breaker {
            enabled: false,
            ..rules()
        };
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..50 {
            breaker.record(Outcome::Failure(None), false, now, &disabled, EVEN);
        }
        assert_eq!(breaker.look(now).0, State::Closed);
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        let wait = proptest::option::of((0u64..100_000).prop_map(Duration::from_millis));
        prop_oneof![
            Just(Outcome::Success),
            wait.clone().prop_map(Outcome::Failure),
            wait.prop_map(Outcome::Cooldown),
            Just(Outcome::Rest),
            Just(Outcome::Abandoned),
        ]
    }

    proptest! {
        /// Whatever happens: what `look` promises is what `admit` does, at most one probe is out, and no wait ever shrinks
        /// except by time passing or a probe's success.
        #[test]
        fn never_admits_what_it_calls_open(story in proptest::collection::vec((any_outcome(), 0u64..40_000, 0f32..1.0), 1..60)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(now);
            for (outcome, pause, dice) in story {
                now += Duration::from_millis(pause);
                let (state, wait) = breaker.look(now);
                match breaker.admit(now) {
                    Admission::Wait(stated) => {
                        prop_assert!(state == State::Open || !wait.is_zero());
                        prop_assert!(stated <= wait);
                    }
                    admission => {
                        prop_assert!(wait.is_zero());
                        prop_assert_eq!(admission == Admission::Probe, state == State::HalfOpen);
                        let probe = admission == Admission::Probe;
                        if probe {
                            prop_assert!(matches!(breaker.admit(now), Admission::Wait(_)));
                        }
                        breaker.record(outcome, probe, now, &rules(), dice);
                    }
                }
            }
        }
    }
}
