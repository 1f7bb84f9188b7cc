//! The breaker of one target: a state machine over a clock that is passed in, with dice that are passed in. It holds no lock, reads
//! no clock and knows nothing of vendors.
//!
//! Three things can keep a target from being tried: the breaker is open because too many attempts failed; a cooldown that the
//! vendor asked for; a rest because its credential or quota failed. The longest of them holds. Only a probe's answer shortens one.
//!
//! Each attempt is counted once. One whose content has begun is counted as a success at once, provisionally: if it fails later, the
//! success is taken back and a failure is counted in its place.

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
    /// As the single probe of a half-open breaker or of a long cooldown: its outcome decides.
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
    /// How often the window was emptied.
    era: u32,
    tripped: Option<Pause>,
    cooldown: Option<Pause>,
    /// Until when the vendor's rate limit is why.
    limited_until: Option<Instant>,
    /// Cooldowns without a stated wait since the last success.
    unstated: u32,
    /// The failed share of the attempts when the breaker last opened.
    last_rate: f32,
}

/// Attempts and failures of a tenth of the window.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    /// Which tenth since the origin this counts.
    number: u64,
    attempts: u32,
    failures: u32,
}

/// A time without attempts, but for probes.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// No probe before.
    probe_at: Instant,
    /// How long it is or was until the probe: the next time doubles it.
    lasted: Duration,
    probing: bool,
    /// When it is over, probe or not; `None`: a probe decides.
    ends: Option<Instant>,
}

/// What a pause allows at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Free,
    Probe,
    Shut(Duration),
}

/// A success that was counted when content began, and that a later failure takes back.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// The slice that it was counted in.
    slice: u64,
    era: u32,
    /// It was a probe and closed a breaker that had been open for so long.
    closed: Option<Duration>,
}

/// The first and the longest cooldown that no vendor stated (design, "backoff 0.5 to 5 s").
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// A stated wait that is kept to its end. In a longer one the target is probed after so long, then after twice as long and so on:
/// vendors state hours by mistake, and a limit that was raised ends early.
const KEPT_WHOLE: Duration = Duration::from_secs(300);

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Instant) -> Self {
        Self {
            slices: Default::default(),
            origin: now,
            era: 0,
            tripped: None,
            cooldown: None,
            limited_until: None,
            unstated: 0,
            last_rate: 0.0,
        }
    }

    /// Asks for one attempt. `Probe` must be followed by a [`Breaker::record`] or a [`Breaker::commit`] with the attempt's outcome.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.gates(now) {
            [Gate::Free, Gate::Free] => Admission::Open,
            [Gate::Shut(one), Gate::Shut(other)] => Admission::Wait(one.max(other)),
            [Gate::Shut(wait), _] | [_, Gate::Shut(wait)] => Admission::Wait(wait),
            _ => {
                self.pauses().for_each(|pause| pause.probing = true);
                Admission::Probe
            }
        }
    }

    /// The state, and how long until the target may be tried; zero when it may be now.
    pub fn look(&self, now: Instant) -> (State, Duration) {
        let [tripped, cooldown] = self.gates(now);
        let state = match (tripped, cooldown) {
            // Another request's probe may be under way: for everybody else it is still open.
            (Gate::Shut(_), _) => State::Open,
            (Gate::Probe, _) | (_, Gate::Probe) => State::HalfOpen,
            (Gate::Free, _) => State::Closed,
        };
        (state, tripped.wait().max(cooldown.wait()))
    }

    /// Whether nothing but the vendor's rate limit keeps the target from being tried now.
    pub fn is_limited(&self, now: Instant) -> bool {
        self.tripped.is_none() && self.limited_until.is_some_and(|until| until > now)
    }

    /// The failed share of the attempts in the window, 0 to 1. While a breaker is not closed and nothing is in the window any more, the
    /// share with which it opened.
    pub fn error_rate(&self, now: Instant, rules: &config::Breaker) -> f32 {
        match self.counts(now, rules) {
            (0, _) if self.tripped.is_some() => self.last_rate,
            (0, _) => 0.0,
            (attempts, failures) => failures as f32 / attempts as f32,
        }
    }

    /// Takes the outcome of an attempt. `probe` says that it was admitted as one; `dice`, 0 to 1, spreads the end of the pause.
    pub fn record(&mut self, outcome: Outcome, probe: bool, now: Instant, rules: &config::Breaker, dice: f32) {
        let cooldown_probed = self.end_probe(probe);
        match outcome {
            Outcome::Abandoned => {}
            Outcome::Success => {
                self.succeed(probe, cooldown_probed.is_some(), now, rules);
            }
            Outcome::Failure(stated) => {
                self.count(now, rules, true);
                self.postpone_probe(cooldown_probed, now);
                self.cool_down(stated, None, now, rules);
                self.fail(probe, now, rules, dice);
            }
            Outcome::Cooldown(stated) => {
                // The vendor answered: a probe that is told to slow down has found it alive, and its word replaces the one before.
                if probe {
                    self.close(cooldown_probed.is_some());
                }
                self.count(now, rules, false);
                let wait = stated.unwrap_or_else(|| self.backoff(dice));
                self.cool_down(Some(wait), cooldown_probed, now, rules);
                self.limited_until = self.cooldown.and_then(|cooldown| cooldown.ends);
            }
            Outcome::Rest => {
                self.count(now, rules, true);
                self.postpone_probe(cooldown_probed, now);
                self.trip(self.next_rest(probe, rules), now, rules, dice);
            }
        }
    }

    /// An attempt's content has begun: a success, unless [`Breaker::retract`] takes it back.
    pub fn commit(&mut self, probe: bool, now: Instant, rules: &config::Breaker) -> Counted {
        let cooldown_probed = self.end_probe(probe);
        self.succeed(probe, cooldown_probed.is_some(), now, rules)
    }

    /// Takes a success back whose attempt has failed after all; its failure is to be recorded now. Whether it is that of a probe: where
    /// the attempt had closed the breaker, and most attempts since then have failed too, its success did not deserve that.
    pub fn retract(&mut self, counted: Counted, now: Instant, rules: &config::Breaker) -> bool {
        if counted.era != self.era {
            return false;
        }
        let slice = &mut self.slices[(counted.slice % SLICES as u64) as usize];
        if slice.number == counted.slice {
            slice.attempts = slice.attempts.saturating_sub(1);
        }
        let Some(lasted) = counted.closed.filter(|_| self.tripped.is_none() && rules.enabled) else {
            return false;
        };
        let (attempts, failures) = self.counts(now, rules);
        if !is_reached(rules, attempts + 1, failures + 1) {
            return false;
        }
        self.tripped = Some(Pause {
            probe_at: now,
            lasted,
            probing: true,
            ends: None,
        });
        true
    }

    /// What the breaker and the cooldown allow.
    fn gates(&self, now: Instant) -> [Gate; 2] {
        [self.tripped, self.cooldown].map(|pause| pause.map_or(Gate::Free, |pause| pause.gate(now)))
    }

    fn pauses(&mut self) -> impl Iterator<Item = &mut Pause> {
        self.tripped.iter_mut().chain(&mut self.cooldown)
    }

    /// An attempt that may have been a probe has ended. How long the cooldown had lasted that it probed, if it did.
    fn end_probe(&mut self, probe: bool) -> Option<Duration> {
        if !probe {
            return None;
        }
        let probed = self.cooldown.filter(|cooldown| cooldown.probing);
        self.pauses().for_each(|pause| pause.probing = false);
        probed.map(|cooldown| cooldown.lasted)
    }

    fn succeed(&mut self, probe: bool, ends_cooldown: bool, now: Instant, rules: &config::Breaker) -> Counted {
        self.unstated = 0;
        let closed = if probe { self.close(ends_cooldown) } else { None };
        Counted {
            slice: self.count(now, rules, false),
            era: self.era,
            closed,
        }
    }

    fn fail(&mut self, probe: bool, now: Instant, rules: &config::Breaker, dice: f32) {
        if !rules.enabled {
            return;
        }
        match self.tripped {
            Some(tripped) if probe => {
                let lasts = (tripped.lasted * 2).clamp(rules.open, rules.max_open);
                self.trip(lasts, now, rules, dice);
            }
            // A late failure of an attempt that began before the breaker opened says nothing new.
            Some(_) => {}
            None => {
                let (attempts, failures) = self.counts(now, rules);
                if attempts >= rules.min_attempts && is_reached(rules, attempts, failures) {
                    self.trip(rules.open, now, rules, dice);
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

    fn trip(&mut self, lasts: Duration, now: Instant, rules: &config::Breaker, dice: f32) {
        let probe_at = now + lasts.mul_f32(0.9 + 0.2 * dice.clamp(0.0, 1.0));
        let probe_at = self.tripped.map_or(probe_at, |tripped| probe_at.max(tripped.probe_at));
        self.tripped = Some(Pause {
            probe_at,
            lasted: lasts,
            probing: false,
            ends: None,
        });
        self.last_rate = self.error_rate(now, rules);
    }

    /// Closes the breaker and empties the window. How long it had been open, if it had.
    fn close(&mut self, ends_cooldown: bool) -> Option<Duration> {
        if ends_cooldown {
            (self.cooldown, self.limited_until) = (None, None);
        }
        let tripped = self.tripped.take()?;
        self.slices = Default::default();
        self.era += 1;
        Some(tripped.lasted)
    }

    /// A probe of a cooldown has failed: the next one takes longer.
    fn postpone_probe(&mut self, probed: Option<Duration>, now: Instant) {
        if let (Some(lasted), Some(cooldown)) = (probed, &mut self.cooldown) {
            cooldown.lasted = lasted * 2;
            let probe_at = now + cooldown.lasted;
            cooldown.probe_at = cooldown.ends.map_or(probe_at, |ends| ends.min(probe_at));
        }
    }

    /// The target is left alone for a wait. `probed`: an attempt that probed a cooldown, which had lasted so long, was told to.
    fn cool_down(&mut self, wait: Option<Duration>, probed: Option<Duration>, now: Instant, rules: &config::Breaker) {
        let Some(wait) = wait.filter(|wait| !wait.is_zero()) else {
            return;
        };
        let wait = wait.min(rules.max_retry_after);
        let first = KEPT_WHOLE.max(rules.max_open);
        let lasted = wait.min(probed.map_or(first, |lasted| first.max(lasted * 2)));
        let mut cooldown = Pause {
            probe_at: now + lasted,
            lasted,
            probing: false,
            ends: Some(now + wait),
        };
        if let Some(before) = self.cooldown.filter(|before| before.gate(now) != Gate::Free) {
            cooldown.probe_at = cooldown.probe_at.max(before.probe_at);
            cooldown.ends = cooldown.ends.max(before.ends);
            cooldown.lasted = cooldown.lasted.max(before.lasted);
            cooldown.probing = before.probing;
        }
        self.cooldown = Some(cooldown);
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

    /// Counts an attempt. The number of the slice that it is counted in.
    fn count(&mut self, now: Instant, rules: &config::Breaker, failed: bool) -> u64 {
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
        number
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

impl Pause {
    fn gate(&self, now: Instant) -> Gate {
        if self.ends.is_some_and(|ends| ends <= now) {
            Gate::Free
        } else if self.probe_at > now {
            Gate::Shut(self.probe_at - now)
        } else if self.probing {
            Gate::Shut(Duration::from_millis(1))
        } else {
            Gate::Probe
        }
    }
}

impl Gate {
    fn wait(self) -> Duration {
        match self {
            Gate::Free | Gate::Probe => Duration::ZERO,
            Gate::Shut(wait) => wait,
        }
    }
}

/// Whether so many failures are the share that opens a breaker.
fn is_reached(rules: &config::Breaker, attempts: u32, failures: u32) -> bool {
    failures as f32 >= rules.failure_share * attempts as f32
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
        assert_eq!(story.breaker.cooldown.unwrap().ends, Some(story.now + HOUR));
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_stated_wait_of_minutes_is_kept_whole() {
        for seconds in [1, 60, 299, 300] {
            let mut story = Story::new();
            let wait = Duration::from_secs(seconds);
            story.record(Outcome::Cooldown(Some(wait)));
            story.now += wait - Duration::from_millis(1);
            let left = Admission::Wait(Duration::from_millis(1));
            assert_eq!(story.breaker.admit(story.now), left, "{seconds} s");
            story.now += Duration::from_millis(1);
            assert_eq!(story.breaker.admit(story.now), Admission::Open, "{seconds} s");
        }
    }

    #[test]
    fn a_long_stated_wait_is_probed_ever_more_rarely() {
        let mut story = Story::new();
        story.record(Outcome::Cooldown(Some(HOUR)));
        let ends = story.now + HOUR;
        for seconds in [300, 600, 1200] {
            story.now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert_eq!(story.state(), State::Closed);
            assert!(
                matches!(story.breaker.admit(story.now), Admission::Wait(_)),
                "{seconds} s"
            );
            story.now += Duration::from_millis(1);
            assert_eq!(story.state(), State::HalfOpen);
            story.record(Outcome::Failure(None));
        }
        assert_eq!(story.breaker.admit(story.now), Admission::Wait(ends - story.now));
        assert_eq!(story.breaker.admit(ends), Admission::Open);
    }

    #[test]
    fn what_a_probe_is_told_replaces_a_long_wait() {
        let mut story = Story::new();
        story.record(Outcome::Cooldown(Some(HOUR)));
        story.after(300);
        assert_eq!(story.breaker.admit(story.now), Admission::Probe);
        assert!(
            matches!(story.breaker.admit(story.now), Admission::Wait(_)),
            "one at a time"
        );
        let told = Outcome::Cooldown(Some(HOUR));
        story.breaker.record(told, true, story.now, &rules(), EVEN);
        assert_eq!(
            story.breaker.admit(story.now),
            Admission::Wait(Duration::from_secs(600))
        );
        story.after(600);
        story.record(Outcome::Cooldown(Some(Duration::from_secs(10))));
        assert_eq!(story.breaker.admit(story.now), Admission::Wait(Duration::from_secs(10)));
        story.after(10);
        story.record(Outcome::Cooldown(Some(HOUR)));
        story.after(300);
        story.record(Outcome::Success);
        assert_eq!(story.breaker.look(story.now), (State::Closed, Duration::ZERO));
        assert!(!story.breaker.is_limited(story.now));
    }

    /// A stream begins, and breaks or ends well some seconds later.
    fn stream(story: &mut Story, breaks: bool) {
        let probe = match story.breaker.admit(story.now) {
            Admission::Wait(wait) => panic!("it waits {wait:?}"),
            admission => admission == Admission::Probe,
        };
        let counted = story.breaker.commit(probe, story.now, &rules());
        story.now += Duration::from_millis(100);
        if breaks {
            let probe = story.breaker.retract(counted, story.now, &rules());
            story
                .breaker
                .record(Outcome::Failure(None), probe, story.now, &rules(), EVEN);
        }
    }

    #[test]
    fn an_attempt_that_fails_late_is_one_failure_and_no_success() {
        for (breaking, opens) in [(1, false), (4, false), (5, true), (9, true)] {
            let mut story = Story::new();
            let mut seen = 0;
            for number in 0..100 {
                // Those that break are spread among the others.
                stream(&mut story, (number * 7) % 10 < breaking);
                seen = number + 1;
                if story.state() == State::Open {
                    break;
                }
            }
            let rate = story.breaker.error_rate(story.now, &rules());
            assert_eq!(
                story.state() == State::Open,
                opens,
                "{breaking} of 10: {rate} of {seen}"
            );
            if !opens {
                assert!(
                    (rate - breaking as f32 / 10.0).abs() < 0.001,
                    "{breaking} of 10: {rate}"
                );
            }
        }
    }

    #[test]
    fn a_target_that_breaks_every_stream_is_shown_as_it_is() {
        let mut story = Story::new();
        for _ in 0..5 {
            assert_eq!(story.state(), State::Closed);
            stream(&mut story, true);
        }
        for seconds in [15, 30, 60, 120] {
            assert_eq!(
                story.breaker.look(story.now),
                (State::Open, Duration::from_secs(seconds))
            );
            assert_eq!(story.breaker.error_rate(story.now, &rules()), 1.0);
            story.after(seconds);
            assert_eq!(story.state(), State::HalfOpen);
            assert_eq!(story.breaker.error_rate(story.now, &rules()), 1.0, "after {seconds} s");
            // The probe begins well and breaks: it has failed as any other probe.
            stream(&mut story, true);
        }
    }

    #[test]
    fn a_probe_that_breaks_among_many_that_went_well_opens_nothing() {
        let mut story = Story::new();
        for _ in 0..5 {
            story.record(Outcome::Failure(None));
        }
        story.after(16);
        assert_eq!(story.breaker.admit(story.now), Admission::Probe);
        let counted = story.breaker.commit(true, story.now, &rules());
        for _ in 0..5 {
            stream(&mut story, false);
        }
        assert!(!story.breaker.retract(counted, story.now, &rules()));
        story
            .breaker
            .record(Outcome::Failure(None), false, story.now, &rules(), EVEN);
        assert_eq!(story.state(), State::Closed);
        assert_eq!(story.breaker.counts(story.now, &rules()), (6, 1));
    }

    #[test]
    fn a_failure_later_than_the_window_is_counted_when_it_comes() {
        let mut story = Story::new();
        let counted = story.breaker.commit(false, story.now, &rules());
        story.after(31);
        story.record(Outcome::Success);
        assert!(!story.breaker.retract(counted, story.now, &rules()));
        story
            .breaker
            .record(Outcome::Failure(None), false, story.now, &rules(), EVEN);
        assert_eq!(story.breaker.counts(story.now, &rules()), (2, 1));
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
        /// However streams end and in whatever order: each is one attempt, and those that failed are the failures.
        #[test]
        fn every_attempt_is_counted_once(streams in proptest::collection::vec((any::<bool>(), 0usize..10), 1..60)) {
            let rules = config::Breaker { min_attempts: 1000, ..rules() };
            let now = Instant::now();
            let mut breaker = Breaker::new(now);
            let mut open: Vec<(bool, Counted)> = Vec::new();
            let mut failures = 0;
            for (breaks, other) in &streams {
                open.push((*breaks, breaker.commit(false, now, &rules)));
                if *other < open.len() {
                    let (breaks, counted) = open.swap_remove(*other);
                    if breaks {
                        failures += 1;
                        prop_assert!(!breaker.retract(counted, now, &rules));
                        breaker.record(Outcome::Failure(None), false, now, &rules, EVEN);
                    }
                }
                prop_assert_eq!(breaker.counts(now, &rules).1, failures);
            }
            prop_assert_eq!(breaker.counts(now, &rules).0, streams.len() as u32);
        }

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
