//! What only the configuration as a whole can know: that its parts go together, and that all of them are of use.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Uri;

use super::names::Names;
use super::section::Section;
use super::target::is_loopback;
use super::{Config, Target};

/// Clients and operators need a port each.
pub(super) fn ports(top: &Section<'_>, config: &Config) {
    if let Some(fault) = fault_of_ports(config) {
        let line = top.line_of(if top.has("admin") { "admin" } else { "listen" });
        top.wrong(line, "admin", &fault, "write another port");
    }
}

/// Why operators cannot have the address that the configuration gives them, if clients have theirs.
pub(super) fn fault_of_ports(config: &Config) -> Option<String> {
    let (listen, admin) = (config.listen, config.admin);
    let is_same_host = listen.ip() == admin.ip() || listen.ip().is_unspecified() || admin.ip().is_unspecified();
    // Port 0 is a free one, another for each.
    let is_taken = is_same_host && listen.port() == admin.port() && listen.port() != 0;
    is_taken.then(|| format!("is {admin}, which listen takes already"))
}

/// Where the network can reach the listener for operators, they need a token: it switches vendors off and policies back.
pub(super) fn operators(top: &Section<'_>, config: &Config) {
    if let Some(fault) = fault_of_operators(config).filter(|_| !top.has("admin_token")) {
        let instead = "write admin_token = { env = \"NAME\" }, or admin = \"127.0.0.1:8081\"";
        top.wrong(top.line_of("admin"), "admin", &fault, instead);
    }
}

/// Why operators need a token.
pub(super) fn fault_of_operators(config: &Config) -> Option<String> {
    let admin = config.admin;
    let is_public = !admin.ip().to_canonical().is_loopback();
    is_public.then(|| format!("is {admin}, which other machines reach, and there is no admin_token"))
}

/// Where the network can reach the gateway, clients should have keys.
pub(super) fn clients(top: &Section<'_>, config: &Config) {
    if !config.listen.ip().is_loopback() && !top.has("key") {
        let found = format!(
            "whoever reaches {} can spend your money, for there is no [[key]]",
            config.listen
        );
        let instead = "write [[key]] tables, or listen on 127.0.0.1";
        top.document.suspicious(top.line_of("listen"), found, instead);
    }
}

/// A target should be somewhere else, and some route should use it.
pub(super) fn targets(top: &Section<'_>, config: &Config, names: &Names<'_, Arc<Target>>) {
    let used = config.routes.iter().flat_map(|route| &route.targets);
    let used: BTreeSet<_> = used.map(|target| target.name.as_str()).collect();
    for target in &config.targets {
        let (name, line) = (&target.name, names.line(&target.name).unwrap_or(top.line));
        if !used.contains(name.as_str()) {
            let found = format!("no [[route]] has the target `{name}`");
            top.document
                .suspicious(line, found, "name it in the targets of one, or remove it");
        }
        if leads_to(&target.base_url, config.listen) {
            let found = format!(
                "the target `{name}` is at {}, which is this gateway itself",
                target.base_url
            );
            top.document.suspicious(line, found, "write another listen or base_url");
        }
    }
}

/// A gateway that told itself of its requests would have one more to tell of each time.
pub(super) fn collector(top: &Section<'_>, config: &Config) {
    let Some(trace) = &config.trace else { return };
    if leads_to(&trace.endpoint, config.listen) {
        let found = format!("traces go to {}, which is this gateway itself", trace.endpoint);
        let instead = "write the address of the collector";
        top.document.suspicious(top.line_of("trace"), found, instead);
    }
}

/// Whether who calls this address gets to who listens there.
fn leads_to(base_url: &Uri, listen: SocketAddr) -> bool {
    let usual_port = if base_url.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let host = base_url.host().unwrap_or_default();
    let is_local = is_loopback(host) && (listen.ip().is_loopback() || listen.ip().is_unspecified());
    base_url.port_u16().unwrap_or(usual_port) == listen.port() && (is_local || host == listen.ip().to_string())
}
