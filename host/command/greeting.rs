//! What a newcomer needs to see.

use pointsman::live::Live;
use pointsman::server::Listener;

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
        let policies: Vec<&str> = route
            .policies
            .iter()
            .map(|policy| policy.version.as_ref().map_or("none", |version| version.label()))
            .collect();
        let decides = if policies.is_empty() {
            "the built-in chain".to_owned()
        } else {
            policies.join(", then ")
        };
        say(format_args!("  route  {:<16} decided by {decides}", route.rules.model));
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
