//! What the gateway knows of each target right now. The host owns it: a reload leaves it alone unless it changes what the target is (its
//! address, model or credential; see [`crate::identity`]).
//!
//! Each target has one small lock, held for at most a microsecond when an attempt begins, ends or is thought about; never across
//! an await or a guest's code.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::breaker::{Admission, Breaker, Counted, Outcome, State};
use crate::config;
use crate::failure::{Blame, Failure, Kind};
use crate::quantiles::Quantiles;

/// The health of one target.
#[derive(Debug)]
pub struct Health {
    state: Mutex<Vitals>,
    /// Shared with the health of what the target was before, whose attempts may still be under way.
    in_flight: Arc<AtomicU32>,
}

#[derive(Debug)]
struct Vitals {
    rules: config::Breaker,
    breaker: Breaker,
    /// Of streams.
    first_token: Quantiles,
    /// Of answers that come whole, whose first token comes with their last: what is known where nobody asks for streams.
    whole: Quantiles,
    headroom: f32,
    /// Until when the vendor's statement about its rate limit is true.
    headroom_until: Instant,
    /// When the breaker opened last.
    opened: Option<Instant>,
    last_failure: Option<LastFailure>,
    /// How often it was reset. Attempts that began before the last reset change nothing any more.
    resets: u32,
}

/// The last failure of a target, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    /// When it was.
    pub at: SystemTime,
    /// Its class.
    pub kind: Kind,
    /// The vendor's code or ours.
    pub code: String,
    /// What was seen, without secrets.
    pub words: String,
}

/// A target's health at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The breaker.
    pub state: State,
    /// How long until the target may be tried; zero when it may be now.
    pub cooldown: Duration,
    /// It is the vendor's rate limit that keeps it from being tried.
    pub limited: bool,
    /// Failed share of recent attempts, 0 to 1.
    pub error_rate: f32,
    /// Attempts under way.
    pub in_flight: u32,
    /// Milliseconds; 0 when unknown.
    pub first_token_p50_ms: u32,
    /// Milliseconds; 0 when unknown.
    pub first_token_p95_ms: u32,
    /// Share of the vendor's rate limit that is left.
    pub headroom: f32,
}

/// The right to make one attempt. Dropped without an outcome, the attempt was cancelled, which is nobody's failure.
#[derive(Debug)]
pub struct Ticket {
    health: Arc<Health>,
    probe: bool,
    /// Connections that were opened before this are not to be trusted.
    connections_since: Option<Instant>,
    /// The breaker knows how it went.
    recorded: bool,
    /// The success that was counted when content began.
    counted: Option<Counted>,
    /// How often the health had been reset when the attempt began.
    resets: u32,
}

impl Vitals {
    fn new(rules: config::Breaker, now: Instant) -> Self {
        Self {
            rules,
            breaker: Breaker::new(now),
            first_token: Quantiles::default(),
            whole: Quantiles::default(),
            headroom: 1.0,
            headroom_until: now,
            opened: None,
            last_failure: None,
            resets: 0,
        }
    }
}

impl Health {
    /// The health of a target of which nothing is known.
    pub fn new(rules: &config::Breaker) -> Self {
        Self {
            state: Mutex::new(Vitals::new(*rules, Instant::now())),
            in_flight: Arc::default(),
        }
    }

    /// A fresh start for a target that has become another one. Attempts that are under way at its address still count as such.
    pub fn renewed(&self, rules: &config::Breaker) -> Self {
        Self {
            in_flight: self.in_flight.clone(),
            ..Self::new(rules)
        }
    }

    /// From now on these rules; what is known stays.
    pub fn set_rules(&self, rules: &config::Breaker) {
        self.vitals().rules = *rules;
    }

    /// Forgets everything: the breaker is closed, no wait holds. For an operator who has repaired what was wrong.
    pub fn reset(&self) {
        let mut vitals = self.vitals();
        let resets = vitals.resets.wrapping_add(1);
        *vitals = Vitals {
            resets,
            ..Vitals::new(vitals.rules, Instant::now())
        };
    }

    /// Everything at one moment.
    pub fn read(&self, now: Instant) -> Reading {
        let vitals = self.vitals();
        let (state, cooldown) = vitals.breaker.look(now);
        let first_token = if vitals.first_token.p50() == 0 {
            &vitals.whole
        } else {
            &vitals.first_token
        };
        Reading {
            state,
            cooldown,
            limited: vitals.breaker.is_limited(now),
            error_rate: vitals.breaker.error_rate(now, &vitals.rules),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            first_token_p50_ms: first_token.p50(),
            first_token_p95_ms: first_token.p95(),
            headroom: if vitals.headroom_until > now {
                vitals.headroom
            } else {
                1.0
            },
        }
    }

    /// Whether it is to be left alone now.
    pub fn rests(&self, now: Instant) -> bool {
        !self.vitals().breaker.look(now).1.is_zero()
    }

    /// Within what time 19 of 20 streams begin, or of answers that come whole; `None` when that is not known.
    pub fn usual(&self, streaming: bool) -> Option<Duration> {
        let vitals = self.vitals();
        let known = if streaming { &vitals.first_token } else { &vitals.whole };
        Some(known.p95())
            .filter(|ms| *ms > 0)
            .map(|ms| Duration::from_millis(ms.into()))
    }

    /// Asks for one attempt; otherwise says how long to wait.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Ticket, Duration> {
        let mut vitals = self.vitals();
        let probe = match vitals.breaker.admit(now) {
            Admission::Wait(wait) => return Err(wait),
            admission => admission == Admission::Probe,
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Ticket {
            health: self.clone(),
            probe,
            connections_since: if probe { Some(now) } else { vitals.opened },
            recorded: false,
            counted: None,
            resets: vitals.resets,
        })
    }

    /// Keeps a failure for operators. What the client or the gateway did wrong says nothing about the target.
    pub fn note_failure(&self, failure: &Failure) {
        if matches!(failure.blame(), Blame::Nobody | Blame::Gateway) {
            return;
        }
        self.vitals().last_failure = Some(LastFailure {
            at: SystemTime::now(),
            kind: failure.kind,
            code: failure.code.clone(),
            words: failure.detail.clone(),
        });
    }

    /// The last failure, if there was one.
    pub fn last_failure(&self) -> Option<LastFailure> {
        self.vitals().last_failure.clone()
    }

    /// Notes what the vendor says of its rate limit.
    pub fn note_headroom(&self, (share, holds): (f32, Duration), now: Instant) {
        let mut vitals = self.vitals();
        vitals.headroom = share;
        vitals.headroom_until = now + holds.min(Duration::from_secs(3600));
    }

    fn vitals(&self) -> MutexGuard<'_, Vitals> {
        // What is kept here is counters: a panic elsewhere cannot leave them wrong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Content came after so long: the target answers. That a stream may flow on for minutes keeps nobody waiting for the news; if it
    /// breaks off, [`Ticket::fail`] turns the success into a failure.
    pub fn commit(&mut self, after: Duration, streaming: bool, now: Instant) {
        self.recorded = true;
        let mut vitals = self.health.vitals();
        if vitals.resets != self.resets {
            return;
        }
        let rules = vitals.rules;
        self.counted = Some(vitals.breaker.commit(std::mem::take(&mut self.probe), now, &rules));
        let quantiles = if streaming {
            &mut vitals.first_token
        } else {
            &mut vitals.whole
        };
        quantiles.add(after.as_millis().min(u32::MAX.into()) as u32);
    }

    /// The attempt failed.
    pub fn fail(mut self, failure: &Failure) {
        if failure.picks_doing {
            return;
        }
        self.health.note_failure(failure);
        let outcome = match failure.blame() {
            Blame::Gateway => Outcome::Abandoned,
            Blame::Nobody => Outcome::Success,
            Blame::Target => Outcome::Failure(
                failure
                    .retry_after
                    .filter(|_| matches!(failure.status, Some(503 | 529))),
            ),
            Blame::Cooldown => Outcome::Cooldown(failure.retry_after),
            Blame::Rest => Outcome::Rest,
        };
        self.record(outcome, Instant::now());
    }

    /// Whether the target would still be asked: its breaker may have opened since.
    pub fn still_holds(&self, now: Instant) -> bool {
        self.probe || !self.health.rests(now)
    }

    /// Connections that were opened before this are not to be used: a probe needs a new one, and others need one that was opened since
    /// the breaker was open last, for the vendor's name may have moved away from where it failed.
    pub fn connections_since(&self) -> Option<Instant> {
        self.connections_since
    }

    /// Whether what the attempt finds still matters: nobody has reset the target since it began.
    pub fn is_current(&self) -> bool {
        self.health.vitals().resets == self.resets
    }

    /// The attempt failed, and another would before so long.
    pub fn cool_down(mut self, wait: Duration) {
        self.record(Outcome::Cooldown(Some(wait)), Instant::now());
    }

    fn record(&mut self, outcome: Outcome, now: Instant) {
        self.recorded = true;
        let mut vitals = self.health.vitals();
        if vitals.resets != self.resets {
            return;
        }
        let rules = vitals.rules;
        let probe = match self.counted.take() {
            Some(counted) => vitals.breaker.retract(counted, now, &rules),
            None => std::mem::take(&mut self.probe),
        };
        vitals.breaker.record(outcome, probe, now, &rules, fastrand::f32());
        let failed = matches!(outcome, Outcome::Failure(_));
        if failed && vitals.breaker.look(now).0 != State::Closed {
            vitals.opened = Some(now);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.health.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.recorded {
            self.record(Outcome::Abandoned, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    fn rules() -> config::Breaker {
        config::Breaker::default()
    }

    fn health() -> Arc<Health> {
        Arc::new(Health::new(&rules()))
    }

    #[test]
    fn a_cancelled_attempt_is_nobodys_failure() {
        let health = health();
        for _ in 0..20 {
            drop(health.admit(Instant::now()).unwrap());
        }
        let reading = health.read(Instant::now());
        assert_eq!(
            (reading.state, reading.error_rate, reading.in_flight),
            (State::Closed, 0.0, 0)
        );
    }

    #[test]
    fn a_reload_leaves_health_alone() {
        let health = health();
        let ticket = health.admit(Instant::now()).unwrap();
        let limited = Failure {
            retry_after: Some(Duration::from_secs(60)),
            ..failure(Kind::RateLimited, 429)
        };
        ticket.fail(&limited);
        let changed = config::Breaker {
            open: Duration::from_secs(1),
            ..rules()
        };
        health.set_rules(&changed);
        let reading = health.read(Instant::now());
        assert!(reading.cooldown > Duration::from_secs(50), "{reading:?}");
    }

    #[test]
    fn retry_after_counts_on_429_503_and_529_only() {
        for (kind, status, waits) in [
            (Kind::RateLimited, 429, true),
            (Kind::Overloaded, 503, true),
            (Kind::Overloaded, 529, true),
            (Kind::ServerError, 500, false),
        ] {
            let health = health();
            let stated = Failure {
                retry_after: Some(Duration::from_secs(60)),
                ..failure(kind, status)
            };
            health.admit(Instant::now()).unwrap().fail(&stated);
            assert_eq!(health.admit(Instant::now()).is_err(), waits, "status {status}");
        }
    }

    #[test]
    fn a_stream_that_flows_is_a_success_and_breaks_the_probe_loose() {
        let quick = config::Breaker {
            open: Duration::ZERO,
            max_open: Duration::ZERO,
            ..rules()
        };
        let health = Arc::new(Health::new(&quick));
        for _ in 0..5 {
            health
                .admit(Instant::now())
                .unwrap()
                .fail(&failure(Kind::ServerError, 500));
        }
        assert_eq!(health.read(Instant::now()).state, State::HalfOpen);
        let mut probe = health.admit(Instant::now()).unwrap();
        probe.commit(Duration::from_millis(7), true, Instant::now());
        let reading = health.read(Instant::now());
        assert_eq!(
            (reading.state, reading.in_flight, reading.first_token_p50_ms),
            (State::Closed, 1, 7)
        );
        probe.fail(&failure(Kind::CutOff, 200));
        let reading = health.read(Instant::now());
        assert_eq!(reading.error_rate, 1.0, "a stream that breaks later has failed");
        assert_ne!(reading.state, State::Closed, "and so has the probe");
    }

    /// The rate in the window is what happened: no attempt is in it twice.
    #[test]
    fn streams_that_break_later_are_the_share_that_is_shown() {
        for breaking in [1, 5, 9] {
            let patient = config::Breaker {
                min_attempts: 1000,
                ..rules()
            };
            let health = Arc::new(Health::new(&patient));
            for number in 0..100 {
                let mut ticket = health.admit(Instant::now()).unwrap();
                ticket.commit(Duration::from_millis(7), true, Instant::now());
                if number % 10 < breaking {
                    ticket.fail(&failure(Kind::CutOff, 200));
                }
            }
            let reading = health.read(Instant::now());
            assert_eq!(reading.error_rate, breaking as f32 / 10.0);
        }
    }

    #[test]
    fn a_reset_ends_every_wait_and_what_began_before_it_changes_nothing() {
        let health = health();
        let now = Instant::now();
        let [mut begun, refused] = [(); 2].map(|()| health.admit(now).unwrap());
        begun.commit(Duration::from_millis(7), true, now);
        let ticket = health.admit(now).unwrap();
        ticket.fail(&failure(Kind::Unauthorized, 401));
        assert!(health.rests(now) && refused.is_current());
        health.reset();
        assert!(!refused.is_current());
        refused.fail(&failure(Kind::Unauthorized, 401));
        let reading = health.read(now);
        assert_eq!((reading.state, reading.error_rate), (State::Closed, 0.0));
        assert_eq!(reading.in_flight, 1, "the stream flows on");
        begun.fail(&failure(Kind::CutOff, 200));
        let reading = health.read(now);
        assert_eq!((reading.error_rate, reading.in_flight), (0.0, 0));
    }

    #[test]
    fn a_fresh_start_still_counts_what_is_under_way() {
        let before = health();
        let ticket = before.admit(Instant::now()).unwrap();
        before
            .admit(Instant::now())
            .unwrap()
            .fail(&failure(Kind::Unauthorized, 401));
        let after = before.renewed(&rules());
        let now = Instant::now();
        assert!(before.rests(now) && !after.rests(now));
        assert_eq!(after.read(now).in_flight, 1);
        ticket.fail(&failure(Kind::ServerError, 500));
        assert_eq!((after.read(now).in_flight, after.read(now).error_rate), (0, 0.0));
    }

    #[test]
    fn the_last_failure_is_kept_and_is_the_targets_own() {
        let health = health();
        let fail = |failure: &Failure| health.admit(Instant::now()).unwrap().fail(failure);
        fail(&Failure::on_the_wire(
            Kind::Connect,
            "refused",
            "connection refused by 127.0.0.1:9",
        ));
        let short_deadline = Failure {
            picks_doing: true,
            ..failure(Kind::Timeout, 200)
        };
        for others in [
            failure(Kind::BadRequest, 400),
            failure(Kind::LocalLimit, 200),
            short_deadline,
        ] {
            fail(&others);
        }
        let last = health.last_failure().unwrap();
        assert_eq!((last.kind, last.code.as_str()), (Kind::Connect, "refused"));
        assert_eq!(last.words, "connection refused by 127.0.0.1:9");
    }

    #[test]
    fn what_the_gateway_lacks_opens_no_breaker() {
        let health = health();
        for _ in 0..20 {
            let ticket = health.admit(Instant::now()).unwrap();
            ticket.fail(&Failure::on_the_wire(
                Kind::LocalLimit,
                "local_limit",
                "Too many open files",
            ));
        }
        let reading = health.read(Instant::now());
        assert_eq!((reading.state, reading.error_rate), (State::Closed, 0.0));
    }

    #[test]
    fn connections_from_before_a_breaker_opened_are_not_trusted() {
        let quick = config::Breaker {
            open: Duration::ZERO,
            max_open: Duration::ZERO,
            ..rules()
        };
        let health = Arc::new(Health::new(&quick));
        assert_eq!(health.admit(Instant::now()).unwrap().connections_since(), None);
        for _ in 0..5 {
            let ticket = health.admit(Instant::now()).unwrap();
            ticket.fail(&failure(Kind::ServerError, 500));
        }
        let now = Instant::now();
        let mut probe = health.admit(now).unwrap();
        assert_eq!(probe.connections_since(), Some(now), "a probe has a new one");
        probe.commit(Duration::from_millis(7), true, now);
        let opened = health.admit(now).unwrap().connections_since();
        assert!(opened.is_some_and(|opened| opened <= now), "{opened:?}");
    }

    #[test]
    fn headroom_is_forgotten_when_the_limit_resets() {
        let health = health();
        let now = Instant::now();
        health.note_headroom((0.1, Duration::from_secs(5)), now);
        assert_eq!(health.read(now).headroom, 0.1);
        assert_eq!(health.read(now + Duration::from_secs(6)).headroom, 1.0);
    }

    fn failure(kind: Kind, status: u16) -> Failure {
        Failure {
            status: Some(status),
            ..Failure::on_the_wire(kind, "", "")
        }
    }
}
