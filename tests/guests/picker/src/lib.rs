//! Picks what its settings say: the first pick with everything that a pick can say, the others plain.

use switchyard_policy::{Attempt, Decision, Pick, Request, Settings, Target};

switchyard_policy::policy!(decide);

fn decide(_: &Request, _: &[Target], attempts: &[Attempt], settings: &Settings) -> Decision {
    let milliseconds = |name: &str| settings.text(name)?.parse().ok();
    if !attempts.is_empty() {
        // The plan goes on.
        return Decision::pass("");
    }
    if let Some(message) = settings.text("reject") {
        return Decision::reject(418, message).retry_after_ms(milliseconds("retry_after_ms"));
    }
    let first = |target: &str| Pick {
        model: settings.text("model"),
        connect_ms: milliseconds("connect_ms"),
        first_content_ms: milliseconds("first_content_ms"),
        between_frames_ms: milliseconds("between_frames_ms"),
        whole_ms: milliseconds("whole_ms"),
        hedge_after_ms: milliseconds("hedge_after_ms"),
        wait_ms: milliseconds("wait_ms"),
        patch: settings.text("patch"),
        ..Pick::to(&Target::named(target))
    };
    let names = settings.list("picks");
    let picks = names.iter().enumerate().map(|(index, name)| match index {
        0 => first(name),
        _ => Pick::to(&Target::named(name)),
    });
    Decision::route(picks, "as told")
}
