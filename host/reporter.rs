//! Reports how an attempt went to everything that keeps count at its target: the breaker, the key and the concurrency limit. One attempt
//! has one outcome: what was reported as a success when content began becomes a failure if the answer breaks off.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::concurrency::{Outcome, Permit};
use crate::failure::{Failure, Kind};
use crate::health::Ticket;
use crate::local_limit;
use crate::signer::{Fault, Key};
use crate::snapshot::Target;

/// See the module. Dropped without a failure, the attempt went well or was cancelled.
pub struct Reporter {
    /// Where the attempt goes.
    pub target: Arc<Target>,
    /// The right to make it.
    pub ticket: Ticket,
    /// Its place among the requests in progress there.
    pub permit: Permit,
    /// The key that it goes out with.
    pub key: Key,
    /// When it began.
    pub started: Instant,
}

impl Reporter {
    /// Content has begun. How long that took.
    pub fn commit(&mut self, streaming: bool) -> Duration {
        let now = Instant::now();
        let after = now - self.started;
        self.ticket.commit(after, streaming, now);
        self.target.signer.succeed(self.key, self.started);
        self.permit.note(after, Outcome::Answered, now);
        if streaming {
            self.target.metrics.observe_first_chunk(after);
        }
        after
    }

    /// The attempt failed before there was content. Notes in the failure whether another key may do better.
    pub fn fail(self, failure: &mut Failure) {
        self.permit.note(self.started.elapsed(), load(failure), Instant::now());
        if failure.kind == Kind::LocalLimit {
            local_limit::report(&failure.detail, "an attempt failed without being sent");
            return;
        }
        self.blame(failure);
    }

    /// The attempt failed after its content had begun.
    pub fn fail_late(self, failure: &mut Failure) {
        self.blame(failure);
    }

    fn blame(self, failure: &mut Failure) {
        // What an operator has reset since is not told of what was before.
        if failure.picks_doing || !self.ticket.is_current() {
            return;
        }
        self.target.health.note_failure(failure);
        match self.target.signer.fail(self.key, failure) {
            Fault::Targets => self.ticket.fail(failure),
            Fault::Keys => failure.another_key = true,
            Fault::AllKeys(wait) => self.ticket.cool_down(wait),
        }
    }
}

/// What a failure says about the load of a target.
fn load(failure: &Failure) -> Outcome {
    match failure.kind {
        _ if failure.picks_doing => Outcome::Other,
        Kind::RateLimited | Kind::Overloaded | Kind::Timeout => Outcome::Overloaded,
        _ => Outcome::Other,
    }
}
