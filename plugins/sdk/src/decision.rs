//! How a policy says what it wants.

use crate::{Action, Attempt, Decision, Failure, Pick, Rejection, Target};

impl Decision {
    /// Try these, in this order: picks, or targets where a pick has nothing to add.
    pub fn route<P: Into<Pick>>(picks: impl IntoIterator<Item = P>, reason: impl Into<String>) -> Self {
        let picks = picks.into_iter().map(Into::into).collect();
        Self {
            action: Action::Route(picks),
            reason: reason.into(),
        }
    }

    /// No opinion: go on as without this policy.
    pub fn pass(reason: impl Into<String>) -> Self {
        Self {
            action: Action::Pass,
            reason: reason.into(),
        }
    }

    /// Call nobody; answer the client with this HTTP status, 400 to 599, and message, which is the reason too.
    pub fn reject(status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        let reason = message.clone();
        Self {
            action: Action::Reject(Rejection {
                status,
                message,
                retry_after_ms: None,
            }),
            reason,
        }
    }

    /// Reject because there is no target left to try: 429 where every attempt met a rate limit, 503 otherwise. The
    /// client may come again when the first of them is ready.
    pub fn exhausted(attempts: &[Attempt], message: impl Into<String>) -> Self {
        let limited = !attempts.is_empty() && attempts.iter().all(|attempt| attempt.failure == Failure::RateLimited);
        let soonest = attempts.iter().filter_map(|attempt| attempt.retry_after_ms).min();
        Self::reject(if limited { 429 } else { 503 }, message).retry_after_ms(soonest)
    }

    /// When the client may come again. Only a rejection can say so; of other decisions nothing changes.
    pub fn retry_after_ms(mut self, milliseconds: Option<u32>) -> Self {
        if let Action::Reject(rejection) = &mut self.action {
            rejection.retry_after_ms = milliseconds;
        }
        self
    }

    /// The picks, in order; none unless the decision is to route.
    pub fn picks(&self) -> &[Pick] {
        match &self.action {
            Action::Route(picks) => picks,
            Action::Reject(_) | Action::Pass => &[],
        }
    }

    /// The names of the targets that were picked, in order: what tests look at.
    pub fn targets(&self) -> Vec<&str> {
        self.picks().iter().map(|pick| pick.target.as_str()).collect()
    }

    /// The HTTP status of a rejection: what tests look at.
    pub fn status(&self) -> Option<u16> {
        match &self.action {
            Action::Reject(rejection) => Some(rejection.status),
            Action::Route(_) | Action::Pass => None,
        }
    }
}

impl Pick {
    /// One attempt on this target, within the target's own deadlines.
    pub fn to(target: &Target) -> Self {
        Self {
            target: target.name.clone(),
            model: None,
            connect_ms: None,
            first_content_ms: None,
            between_frames_ms: None,
            whole_ms: None,
            hedge_after_ms: None,
            wait_ms: None,
            patch: None,
        }
    }

    /// Ask for this model instead of the target's own.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Give the target up if it has not accepted a connection by then.
    pub fn connect_ms(mut self, milliseconds: u32) -> Self {
        self.connect_ms = Some(milliseconds);
        self
    }

    /// Give the target up if no content has come by then.
    pub fn first_content_ms(mut self, milliseconds: u32) -> Self {
        self.first_content_ms = Some(milliseconds);
        self
    }

    /// Give the answer up if nothing has come for so long.
    pub fn between_frames_ms(mut self, milliseconds: u32) -> Self {
        self.between_frames_ms = Some(milliseconds);
        self
    }

    /// Give the answer up if it is not complete by then.
    pub fn whole_ms(mut self, milliseconds: u32) -> Self {
        self.whole_ms = Some(milliseconds);
        self
    }

    /// Start the next pick beside this one if no content has come by then; the first content wins.
    pub fn hedge_after_ms(mut self, milliseconds: u32) -> Self {
        self.hedge_after_ms = Some(milliseconds);
        self
    }

    /// Wait before the attempt.
    pub fn wait_ms(mut self, milliseconds: u32) -> Self {
        self.wait_ms = Some(milliseconds);
        self
    }

    /// Lay this JSON Merge Patch (RFC 7396) over the client's request body.
    pub fn patch(mut self, json: impl Into<String>) -> Self {
        self.patch = Some(json.into());
        self
    }
}

impl From<&Target> for Pick {
    fn from(target: &Target) -> Self {
        Self::to(target)
    }
}
