//! What a newcomer needs to see.

use pointsman::config::OnError;
use pointsman::live::Live;
use pointsman::server::Listener;
use pointsman::snapshot::Route;

use super::output::say;

/// Where the gateway listens, what it serves, and a line that works as printed.
pub fn print(live: &Live, listener: &Listener) {
    let snapshot = live.snapshot();
    let config = &snapshot.config;
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let address = format!("{scheme}://{}", listener.address());
    say(format_args!(
        "pointsman {} on {address}, operators on http://{}",
        env!("CARGO_PKG_VERSION"),
        config.admin
    ));
    for target in &config.targets {
        say(format_args!(
            "  target {:<16} {} {}",
            target.name, target.vendor.name, target.model
        ));
    }
    for route in &snapshot.routes {
        say(format_args!(
            "  route  {:<16} decided by {}",
            route.rules.model,
            decides(live, route)
        ));
    }
    if let Some(route) = snapshot.routes.iter().find(|route| !route.rules.model.contains('*')) {
        let key = if config.keys.is_empty() {
            ""
        } else {
            " -H 'authorization: Bearer YOUR_GATEWAY_KEY'"
        };
        let body = format!(
            r#"{{"model": "{}", "messages": [{{"role": "user", "content": "Hello"}}]}}"#,
            route.rules.model
        );
        say(format_args!(
            "try: curl -i {address}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'"
        ));
    }
}

/// Who decides for a route. A policy without a version is named, and why it has none.
fn decides(live: &Live, route: &Route) -> String {
    const CHAIN: &str = "the built-in chain";
    let serving = route.policies.iter().filter_map(|policy| policy.version.as_ref());
    let serving: Vec<&str> = serving.map(|version| version.label()).collect();
    let missing = route.policies.iter().filter(|policy| policy.version.is_none());
    let missing: Vec<String> = missing.map(|policy| lack(live, &policy.name)).collect();
    let decides = match (serving.is_empty(), route.rules.on_error) {
        (true, OnError::Reject) if !missing.is_empty() => "nothing: its requests are rejected".to_owned(),
        (true, _) => CHAIN.to_owned(),
        (false, _) => serving.join(", then "),
    };
    if missing.is_empty() {
        return decides;
    }
    format!("{decides} (without {})", missing.join(", "))
}

/// A policy that has no version, and why.
fn lack(live: &Live, name: &str) -> String {
    let status = live.library.status().into_iter().find(|status| status.name == name);
    let problem = status.and_then(|status| status.problem);
    format!(
        "{name}: {}",
        problem.as_deref().unwrap_or("it has no version that serves")
    )
}
