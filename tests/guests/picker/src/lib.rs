//! Picks what its settings say: the first pick with everything that a pick can say, the others plain. What a request says in a header
//! `x-NAME`, with `-` for `_`, goes before the setting NAME, where the gateway shows policies that header.

use pointsman_policy::{Attempt, Decision, Failure, Pick, Request, Settings, Target};

pointsman_policy::policy!(decide);

fn decide(request: &Request, targets: &[Target], attempts: &[Attempt], settings: &Settings) -> Decision {
    let said = Said {
        request,
        targets,
        attempts,
        settings,
    };
    if let Some(last) = attempts.last() {
        return said.after(attempts, last);
    }
    if let Some(message) = said.text("reject") {
        return Decision::reject(418, message).retry_after_ms(said.number("retry_after_ms"));
    }
    said.route("picks")
}

struct Said<'a> {
    request: &'a Request,
    targets: &'a [Target],
    attempts: &'a [Attempt],
    settings: &'a Settings,
}

impl Said<'_> {
    /// What to do after a failure; where nothing is said, the plan goes on.
    fn after(&self, attempts: &[Attempt], last: &Attempt) -> Decision {
        let name = if attempts.iter().any(|attempt| attempt.answer_started) {
            "when_started"
        } else if last.failure == Failure::Refused {
            "when_refused"
        } else {
            "when_failed"
        };
        match self.text(name) {
            Some(_) => self.route(name),
            None => Decision::pass(""),
        }
    }

    fn route(&self, name: &str) -> Decision {
        let text = self.text(name).unwrap_or_default();
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let picks = names.enumerate().map(|(index, name)| match index {
            0 => self.first(name),
            _ => Pick::to(&Target::named(name)),
        });
        Decision::route(picks, self.reason())
    }

    fn first(&self, target: &str) -> Pick {
        Pick {
            model: self.text("model"),
            connect_ms: self.number("connect_ms"),
            first_content_ms: self.number("first_content_ms"),
            between_frames_ms: self.number("between_frames_ms"),
            whole_ms: self.number("whole_ms"),
            hedge_after_ms: self.number("hedge_after_ms"),
            wait_ms: self.number("wait_ms"),
            patch: self.text("patch"),
            ..Pick::to(&Target::named(target))
        }
    }

    /// What the settings want to see: the attempts, the health of the targets, or an attribute of the request.
    fn reason(&self) -> String {
        if self.settings.text("tell").as_deref() == Some("attempts") {
            let attempts = self.attempts.iter();
            let told = attempts.map(|it| format!("{}:{:?}:{}", it.target, it.failure, it.code));
            return told.collect::<Vec<_>>().join(" ");
        }
        if self.settings.text("tell").as_deref() == Some("health") {
            let targets = self.targets.iter();
            let told = targets.map(|it| format!("{}:{:?}:{:.3}", it.name, it.health.breaker, it.health.error_rate));
            return told.collect::<Vec<_>>().join(" ");
        }
        let attribute = self.settings.text("tell").map(|name| {
            let value = self.request.attribute(&name);
            value.unwrap_or("nothing").to_owned()
        });
        attribute.unwrap_or_else(|| "as told".to_owned())
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.text(name)?.parse().ok()
    }

    fn text(&self, name: &str) -> Option<String> {
        let header = ["header.x-", &name.replace('_', "-")].concat();
        let said = self.request.attribute(&header).map(str::to_owned);
        said.or_else(|| self.settings.text(name))
    }
}
