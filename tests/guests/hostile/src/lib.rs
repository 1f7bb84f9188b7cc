//! Does whatever it is told to do, all of it wrong: by the setting `do` always, by the request's attribute `do` once.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use pointsman_policy::{Action, Attempt, Decision, Level, Pick, Rejection, Request, Settings, Target, log};

pointsman_policy::policy!(decide);

/// Decisions of this instance, which shows whether it is reused.
static DECISIONS: AtomicU32 = AtomicU32::new(0);

fn decide(request: &Request, targets: &[Target], _: &[Attempt], settings: &Settings) -> Decision {
    let asked = request
        .attributes
        .iter()
        .find(|(name, _)| name == "do")
        .map(|(_, what)| what.clone());
    let answer = |action, reason: &str| Decision {
        action,
        reason: reason.into(),
    };
    let route = |picks| answer(Action::Route(picks), "");
    let reject = |status, message: &str| {
        let rejection = Rejection {
            status,
            message: message.into(),
            retry_after_ms: None,
        };
        answer(Action::Reject(rejection), "")
    };
    match asked.or_else(|| settings.text("do")).unwrap_or_default().as_str() {
        "" => route(targets.iter().map(|target| pick(&target.name)).collect()),
        "count" => answer(
            Action::Pass,
            &(DECISIONS.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
        ),
        "read-setting" => answer(Action::Pass, &settings.text("greeting").unwrap_or_default()),
        "loop" => loop {
            black_box(());
        },
        // A few milliseconds of work, as an interpreter has at its start.
        "work" => answer(Action::Pass, &work(8_000_000).to_string()),
        "log-and-trap" => {
            log(Level::Error, "console is not defined");
            std::process::abort()
        }
        "allocate" => allocate(usize::MAX),
        // So much that it is seen, so little that it is allowed.
        "grow" => allocate(8),
        "recurse" => answer(Action::Pass, &recurse(1).to_string()),
        "trap" => std::process::abort(),
        "panic" => panic!("told to\n\u{1b}[31mpanic"),
        "unknown-target" => route(vec![pick("nobody")]),
        "many-picks" => route(vec![pick("gpt"); 10_000]),
        "log-lines" => (0..1000)
            .for_each(|_| log(Level::Info, "line"))
            .then(|| answer(Action::Pass, "")),
        "log-megabyte" => log(Level::Info, &"x".repeat(1 << 20)).then(|| answer(Action::Pass, "")),
        "log-forged" => log(Level::Info, "one\ntwo \u{1b}[2J").then(|| answer(Action::Pass, "")),
        "reject-200" => reject(200, "fine"),
        "reject-429" => reject(429, "slow\r\ndown"),
        "bad-patch" => route(vec![Pick {
            patch: Some("[1, 2]".into()),
            ..pick("gpt")
        }]),
        "patch-messages" => route(vec![Pick {
            patch: Some(r#"{"messages": []}"#.into()),
            ..pick("gpt")
        }]),
        "long-answer" => answer(Action::Pass, &"y".repeat(8 << 20)),
        other => answer(Action::Pass, other),
    }
}

/// Lets one expression follow another in a match arm.
trait Then {
    fn then<T>(self, next: impl FnOnce() -> T) -> T;
}

impl Then for () {
    fn then<T>(self, next: impl FnOnce() -> T) -> T {
        next()
    }
}

fn pick(target: &str) -> Pick {
    Pick {
        target: target.into(),
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

fn work(rounds: u32) -> u32 {
    (0..rounds).fold(1, |sum, round| black_box(sum ^ round.wrapping_mul(sum | 1)))
}

/// Takes a mebibyte after another and gives none back.
fn allocate(mebibytes: usize) -> Decision {
    for _ in 0..mebibytes {
        black_box(Vec::<u8>::with_capacity(1 << 20).leak());
    }
    Decision {
        action: Action::Pass,
        reason: "grown".into(),
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth + 1)) + depth)
}
