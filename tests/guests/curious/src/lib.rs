//! Reads the prompt, and says what it read.

use pointsman_policy::{Action, Attempt, Decision, Request, Settings, Target, prompt};

pointsman_policy::policy!(decide);

fn decide(_: &Request, _: &[Target], _: &[Attempt], _: &Settings) -> Decision {
    let roles: Vec<String> = prompt::messages().into_iter().map(|(role, _)| role).collect();
    Decision {
        action: Action::Pass,
        reason: [&roles.join(","), ": ", &prompt::last_user_text()].concat(),
    }
}
