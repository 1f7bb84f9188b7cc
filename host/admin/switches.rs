//! `/api/switches`: what operators take out of service by hand, and what else policies read. A slip must not look like success during
//! an outage: the values of targets and vendors are checked, and a name that is neither is refused unless the operator insists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::{StatusCode, request};
use hyper::body::Incoming;
use serde_json::json;

use super::body;
use super::reply::Reply;
use crate::config::{self, Config, suggest};
use crate::live::Live;
use crate::snapshot::Target;
use crate::switches::{SwitchError, Switches};

/// All switches that are set.
pub fn list(live: &Live) -> Reply {
    Reply::ok(&live.switches.all())
}

/// Sets a switch to the value in the body.
pub async fn set(live: &Live, name: &str, head: &request::Parts, body: Incoming) -> Reply {
    let written = match body::text(body).await {
        Ok(written) => written,
        Err(reply) => return reply,
    };
    let config = live.snapshot().config.clone();
    let affects = affected(&config, name);
    if affects.is_empty() && !insists(head) && live.switches.value(name).is_none() {
        return unknown(&config, name);
    }
    let value = match checked(unquoted(&written), !affects.is_empty()) {
        Ok(value) => value,
        Err(error) => return Reply::problem(StatusCode::BAD_REQUEST, &error),
    };
    let known = |name: &str| !affected(&config, name).is_empty();
    let out = switched_off(live, &affects);
    match live.switches.set(name, &value, known) {
        Ok(()) => {
            reset_returned(live, &out);
            let affected = affects.join(", ");
            tracing::info!(switch = name, value, affects = affected, "a switch was set");
            done(live, name, Some(&value), &affects)
        }
        Err(error) => problem(&error),
    }
}

/// Forgets a switch: what it took out is back in.
pub fn delete(live: &Live, name: &str) -> Reply {
    let affects = affected(&live.snapshot().config, name);
    let out = switched_off(live, &affects);
    match live.switches.delete(name) {
        Ok(true) => {
            reset_returned(live, &out);
            tracing::info!(switch = name, affects = affects.join(", "), "a switch was deleted");
            done(live, name, None, &affects)
        }
        Ok(false) => {
            let all = live.switches.all();
            let set: Vec<&str> = all.keys().map(String::as_str).collect();
            let near = suggest(name, &set, "those that are set");
            Reply::problem(StatusCode::NOT_FOUND, &format!("no switch `{name}` is set; {near}"))
        }
        Err(error) => problem(&error),
    }
}

/// The switches of a target that are set: its own and its vendor's.
pub fn of(switches: &Switches, target: &config::Target) -> BTreeMap<String, String> {
    let names = [target.name.as_str(), target.vendor.name];
    let set = names
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), switches.value(name)?)));
    set.collect()
}

/// Whether a switch takes this target out.
pub fn is_off(switches: &Switches, target: &config::Target) -> bool {
    switches.is_off(&target.name) || switches.is_off(target.vendor.name)
}

/// Those of the targets that are switched off now.
fn switched_off(live: &Live, names: &[String]) -> Vec<Arc<Target>> {
    let snapshot = live.snapshot();
    let targets = names.iter().filter_map(|name| snapshot.target(name));
    let off = targets.filter(|target| is_off(&live.switches, &target.rules));
    off.cloned().collect()
}

/// Targets that were off and are back in start fresh: what was wrong with them is what the operator has repaired.
fn reset_returned(live: &Live, were_off: &[Arc<Target>]) {
    let returned = were_off.iter().filter(|target| !is_off(&live.switches, &target.rules));
    returned.for_each(|target| target.reset());
}

/// The targets that a switch of this name is about: the one of that name, or all of that vendor.
fn affected(config: &Config, name: &str) -> Vec<String> {
    let is_about = |target: &&Arc<config::Target>| target.name == name || target.vendor.name == name;
    let targets = config.targets.iter().filter(is_about);
    targets.map(|target| target.name.clone()).collect()
}

/// Whether the operator wants a switch of a name that the configuration does not know.
fn insists(head: &request::Parts) -> bool {
    let mut pairs = head.uri.query().unwrap_or_default().split('&');
    pairs.any(|pair| pair.split('=').next() == Some("anyway"))
}

/// Shells and JSON leave quotes around a value.
fn unquoted(written: &str) -> &str {
    let inside = ['"', '\''].into_iter().find_map(|quote| {
        let inside = written.strip_prefix(quote)?.strip_suffix(quote)?;
        Some(inside.trim())
    });
    inside.unwrap_or(written)
}

/// The value as it is kept. That of a target or vendor is `on` or `off`, in any case of letters.
fn checked(value: &str, is_of_target: bool) -> Result<String, String> {
    if value.is_empty() {
        return Err("the value is missing; send it as the body, such as off".to_owned());
    }
    if !is_of_target {
        return Ok(value.to_owned());
    }
    let lower = value.to_ascii_lowercase();
    if ["on", "off"].contains(&lower.as_str()) {
        return Ok(lower);
    }
    let shown: String = value.chars().filter(|c| !c.is_control()).take(60).collect();
    let near = suggest(&lower, &["off", "on"], "values");
    Err(format!(
        "`{shown}` is not a value of a target's or vendor's switch; {near}"
    ))
}

fn unknown(config: &Config, name: &str) -> Reply {
    let targets = config.targets.iter();
    let names = targets.flat_map(|target| [target.name.as_str(), target.vendor.name]);
    let names: BTreeSet<&str> = names.collect();
    let names: Vec<&str> = names.into_iter().collect();
    let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    let near = suggest(name, &names, "targets and their vendors");
    let how = "add ?anyway to set a switch that only a policy reads";
    Reply::problem(
        StatusCode::NOT_FOUND,
        &format!("`{shown}` is no target and no vendor of one, so nothing was switched; {near}; {how}"),
    )
}

/// What a change did: which targets it is about, and which routes have no target left that is not switched off.
fn done(live: &Live, name: &str, value: Option<&str>, affects: &[String]) -> Reply {
    let snapshot = live.snapshot();
    let is_empty = |route: &&config::Route| route.targets.iter().all(|target| is_off(&live.switches, target));
    let empty = snapshot.config.routes.iter().filter(is_empty);
    let empty: Vec<&str> = empty.map(|route| route.model.as_str()).collect();
    if !empty.is_empty() {
        tracing::warn!(
            routes = empty.join(", "),
            "every target of these routes is switched off: their requests fail"
        );
    }
    Reply::ok(&json!({
        "switch": name,
        "value": value,
        "affects": affects,
        "routes_without_target": empty,
    }))
}

fn problem(error: &SwitchError) -> Reply {
    let status = match error {
        SwitchError::Kept { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        SwitchError::TooMany => StatusCode::CONFLICT,
        SwitchError::Name | SwitchError::Value => StatusCode::BAD_REQUEST,
    };
    Reply::problem(status, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_switch_is_on_or_off() {
        for (written, value) in [
            ("off", "off"),
            ("OFF", "off"),
            ("\"Off\"", "off"),
            ("'on'", "on"),
            ("\" on \"", "on"),
        ] {
            assert_eq!(checked(unquoted(written), true).as_deref(), Ok(value), "{written}");
        }
        for wrong in ["of", "0", "false", "", "\"off", "off on"] {
            assert!(checked(unquoted(wrong), true).is_err(), "{wrong}");
        }
        let error = checked("of", true).unwrap_err();
        assert!(error.ends_with("did you mean `off`?"), "{error}");
    }

    #[test]
    fn a_policys_switch_may_be_anything() {
        assert_eq!(checked(unquoted("10%"), false).as_deref(), Ok("10%"));
        assert!(checked("", false).is_err());
    }
}
