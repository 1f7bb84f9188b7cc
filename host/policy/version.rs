//! One loaded version of a policy: asks it, and counts what comes of it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};

use super::answer::{self, Nonsense};
use super::contract::{Attempt, Decision, PromptPolicy, Request, Target};
use super::engine::TICK;
use super::guest::Guest;
use super::log::Log;
use super::probe;
use super::program::{Hash, Measured, Program, one_line};
use super::refusal::Refusal;
use super::statistics::{Statistics, Trouble};
use crate::config::{Isolation, PolicyRules};

/// All that one decision is made from.
pub struct Input<'a> {
    /// The client's request.
    pub request: Request<'a>,
    /// The targets that the policy may pick.
    pub targets: &'a [Target<'a>],
    /// The attempts that failed so far, oldest first; empty when the request has just come.
    pub attempts: &'a [Attempt<'a>],
    /// The prompt's text. It is handed on only to a policy that was granted it, and read only if the policy asks.
    pub prompt: Option<Arc<dyn Prompt>>,
}

/// The text of a prompt, decoded only when a policy asks for it.
pub trait Prompt: Send + Sync {
    /// Text of the last user message.
    fn last_user_text(&self) -> String;
    /// Text of every message, oldest first, as (role, text).
    fn messages(&self) -> Vec<(String, String)>;
}

/// Why there is no decision. It costs this decision and nothing else.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// All instances of this policy are at work; nobody queues.
    #[error("all {limit} instances are busy")]
    Busy {
        /// `max_instances` of the policy.
        limit: usize,
    },
    /// The system has no memory left for an instance, which is not the policy's fault.
    #[error("the gateway has no memory left for an instance")]
    NoMemory,
    /// The policy did not answer within its deadline: it was interrupted, or its answer came too late.
    #[error("no decision within {} ms", .deadline.as_millis())]
    Timeout {
        /// `deadline_ms` of the policy.
        deadline: Duration,
    },
    /// The policy trapped or used up a limit; the text says how, without control characters.
    #[error("trapped: {0}")]
    Trap(String),
    /// The policy answered something that the contract forbids.
    #[error("nonsense: {0}")]
    Nonsense(Nonsense),
}

impl PolicyError {
    /// A short name for metrics: `busy`, `timeout`, `trap` or `nonsense`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } | Self::NoMemory => "busy",
            Self::Timeout { .. } => "timeout",
            Self::Trap(_) => "trap",
            Self::Nonsense(_) => "nonsense",
        }
    }
}

/// Said of a guest that trapped after it was refused memory.
pub(super) const OUT_OF_MEMORY: &str = "it had asked for more than its";

/// Called once, when a version has failed too often, with what it fails by.
pub(super) type Alarm = Box<dyn Fn(Hash, Trouble) + Send + Sync>;

/// One loaded version of a policy.
pub struct Version {
    name: String,
    label: String,
    program: Arc<Program>,
    /// The rules as they are configured, and as they fit the guest: see [`probe::fit`].
    configured: Arc<PolicyRules>,
    rules: Arc<PolicyRules>,
    instances: Instances,
    pub(super) statistics: Arc<Statistics>,
    alarm: Alarm,
    alarmed: AtomicBool,
}

/// Permits for `max_instances` decisions at once, and what waits between two of them.
enum Instances {
    /// Decisions at work.
    Fresh(AtomicUsize),
    /// One slot for each instance that may be alive; locked while it decides, and never waited for.
    Reused(Box<[Mutex<Option<Idle>>]>),
}

/// A guest between two decisions.
struct Idle {
    store: Store<Guest>,
    policy: PromptPolicy,
    decisions: u32,
    /// Bytes of its memory after its first decision.
    memory_bytes: usize,
}

/// A permit for one fresh instance.
struct Permit<'a>(&'a AtomicUsize);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Version {
    pub(super) fn new(name: &str, program: Arc<Program>, configured: Arc<PolicyRules>, alarm: Alarm) -> Self {
        let rules = probe::fit(&configured, program.measured.get());
        let instances = match rules.isolation {
            Isolation::Fresh => Instances::Fresh(AtomicUsize::new(0)),
            Isolation::Reuse => Instances::Reused((0..rules.max_instances).map(|_| Mutex::new(None)).collect()),
        };
        Self {
            name: name.into(),
            label: format!("{name}@{}", program.hash.short()),
            program,
            configured,
            rules,
            instances,
            statistics: Arc::default(),
            alarm,
            alarmed: AtomicBool::new(false),
        }
    }

    /// The same program under other rules; its statistics go on.
    pub(super) fn under(&self, rules: Arc<PolicyRules>, alarm: Alarm) -> Self {
        let statistics = Arc::clone(&self.statistics);
        Self {
            statistics,
            ..Self::new(&self.name, Arc::clone(&self.program), rules, alarm)
        }
    }

    /// Name of the policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hash of the plugin file.
    pub fn hash(&self) -> Hash {
        self.program.hash
    }

    /// `NAME@HASH`, such as `plan-b@1a2b3c4d`: for response headers, logs and metrics.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The rules as they are configured.
    pub(super) fn configured(&self) -> &PolicyRules {
        &self.configured
    }

    /// What its probe measured.
    pub(super) fn measured(&self) -> Option<&Measured> {
        self.program.measured.get()
    }

    /// The rules that this version runs under.
    pub fn rules(&self) -> &PolicyRules {
        &self.rules
    }

    /// Checks that everything it imports is granted.
    pub(super) fn check_grants(&self, rules: &PolicyRules) -> Result<(), Refusal> {
        self.program.check_grants(&self.name, rules)
    }

    /// Asks the policy. Runs on the calling thread, for the policy's deadline and one millisecond; longer only by the time of a run
    /// of instructions without a loop, a call, or a long fill or copy.
    pub fn decide(&self, input: &Input<'_>) -> Result<Decision, PolicyError> {
        let start = Instant::now();
        let (answer, log) = self.ask_at(start, input);
        let took = start.elapsed();
        let trouble = self.statistics.count(took, answer.as_ref().err());
        if let Some(trouble) = trouble
            && !self.alarmed.swap(true, Ordering::Relaxed)
        {
            (self.alarm)(self.hash(), trouble);
        }
        self.statistics.log(&log);
        log.emit(&self.label, input.request.id);
        answer
    }

    /// Asks the policy without counting or logging, for a probe.
    pub(super) fn ask(&self, input: &Input<'_>) -> (Result<Decision, PolicyError>, Log) {
        self.ask_at(Instant::now(), input)
    }

    fn ask_at(&self, start: Instant, input: &Input<'_>) -> (Result<Decision, PolicyError>, Log) {
        match &self.instances {
            Instances::Fresh(at_work) => match self.permit(at_work) {
                Ok(_permit) => self.ask_fresh(start, input),
                Err(busy) => (Err(busy), Log::default()),
            },
            Instances::Reused(slots) => match slots.iter().find_map(|slot| slot.try_lock().ok()) {
                Some(slot) => self.ask_reused(slot, start, input),
                None => (Err(self.busy()), Log::default()),
            },
        }
    }

    fn permit<'a>(&self, at_work: &'a AtomicUsize) -> Result<Permit<'a>, PolicyError> {
        let others = at_work.fetch_add(1, Ordering::Acquire);
        let permit = Permit(at_work);
        if others < self.rules.max_instances {
            Ok(permit)
        } else {
            Err(self.busy())
        }
    }

    fn busy(&self) -> PolicyError {
        PolicyError::Busy {
            limit: self.rules.max_instances,
        }
    }

    fn ask_fresh(&self, start: Instant, input: &Input<'_>) -> (Result<Decision, PolicyError>, Log) {
        let (mut store, policy) = self.program.instantiate(&self.rules, input);
        let answer = policy.and_then(|policy| call(&policy, &mut store, input));
        let answer = self.in_time(start, self.judge(answer, store.data()));
        (answer, Guest::end(&mut store))
    }

    fn ask_reused(
        &self,
        mut slot: MutexGuard<'_, Option<Idle>>,
        start: Instant,
        input: &Input<'_>,
    ) -> (Result<Decision, PolicyError>, Log) {
        // Taken out of its slot, so that it is gone if it fails.
        let mut guest = match slot.take() {
            Some(mut guest) => {
                Guest::begin(&mut guest.store, input);
                guest
            }
            None => {
                let (mut store, policy) = self.program.instantiate(&self.rules, input);
                match policy {
                    Ok(policy) => Idle {
                        store,
                        policy,
                        decisions: 0,
                        memory_bytes: 0,
                    },
                    Err(error) => return (self.judge(Err(error), store.data()), Guest::end(&mut store)),
                }
            }
        };
        let answer = call(&guest.policy, &mut guest.store, input);
        let answer = self.judge(answer, guest.store.data());
        // One that is only late has come to its end, and may serve again.
        let is_whole = answer.is_ok();
        let answer = self.in_time(start, answer);
        let log = Guest::end(&mut guest.store);
        if is_whole && guest.stays(self.rules.recycle_after) {
            *slot = Some(guest);
        }
        (answer, log)
    }

    fn judge(&self, answer: wasmtime::Result<Decision>, guest: &Guest) -> Result<Decision, PolicyError> {
        match answer {
            Ok(decision) => answer::judge(decision, &self.name, &self.rules).map_err(PolicyError::Nonsense),
            Err(error) => Err(self.failure(&error, guest)),
        }
    }

    /// The clock interrupts a guest only where it loops or calls; a long step without either ends late, and counts the same.
    fn in_time(&self, start: Instant, answer: Result<Decision, PolicyError>) -> Result<Decision, PolicyError> {
        let deadline = self.rules.deadline;
        match answer {
            Ok(_) if start.elapsed() > deadline + TICK => Err(PolicyError::Timeout { deadline }),
            answer => answer,
        }
    }

    #[cold]
    fn failure(&self, error: &wasmtime::Error, guest: &Guest) -> PolicyError {
        if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
            return PolicyError::Timeout {
                deadline: self.rules.deadline,
            };
        }
        if error.is::<PoolConcurrencyLimitError>() {
            return self.busy();
        }
        if guest.limits.starved || error.chain().any(|cause| cause.downcast_ref() == Some(&Errno::NOMEM)) {
            return PolicyError::NoMemory;
        }
        let mut text = one_line(error);
        if guest.limits.refused {
            text.push_str(&format!(
                "; {OUT_OF_MEMORY} {} MiB of memory",
                self.rules.memory_bytes >> 20
            ));
        }
        PolicyError::Trap(text)
    }
}

impl Idle {
    /// Counts a decision; false when the guest has had enough of them or its memory has doubled since the first.
    fn stays(&mut self, recycle_after: u32) -> bool {
        let memory_bytes = self.store.data().limits.used_bytes;
        if self.decisions == 0 {
            self.memory_bytes = memory_bytes;
        }
        self.decisions += 1;
        self.decisions < recycle_after && memory_bytes <= self.memory_bytes * 2
    }
}

fn call(policy: &PromptPolicy, store: &mut Store<Guest>, input: &Input<'_>) -> wasmtime::Result<Decision> {
    policy.call_decide(store, input.request.clone(), input.targets, input.attempts)
}
