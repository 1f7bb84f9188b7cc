//! `residency`: only targets in the region of the client.
//!
//! Requests and targets name their region in an attribute. A target in another region is never picked, and neither is
//! one whose region is not known. The order of the targets stays as it is, so that this policy can stand before one
//! that ranks: its picks are the targets of the next.
//!
//! ```toml
//! [policy.residency]
//! settings = { from = "header.x-region", default = "eu", allow = "eu = eu, ch; us = us, eu" }
//!
//! [[route]]
//! model = "smart"
//! targets = ["azure-eu", "azure-us", "llama-ch"]
//! policies = ["residency", "cheapest"]
//! on_error = "reject"
//! ```
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `from` | `client.region` | the attribute of the request that names its region |
//! | `default` | | the region of requests that have no such attribute; without it they are rejected |
//! | `attribute` | `region` | the attribute of the target that names its region |
//! | `allow` | | where the requests of a region may go: `REGION = REGION, …; …` |
//! | `status` | 451 | HTTP status of a rejection for want of a region, 400 to 499 |
//!
//! Requests of a region that `allow` does not list may go to targets in that region only. A header (`header.NAME`) says
//! what the client wants it to say; an attribute of the client's gateway key (`client.NAME`) says what the operator
//! wrote.
//!
//! The status is 451 (unavailable for legal reasons) rather than 403, which clients take for a wrong key.
//!
//! Where there are targets in the region, but all of them have failed in this request or are switched off
//! (`switch.TARGET`, `switch.VENDOR` = `off`), the request is rejected with 503, or 429 when all attempts met a rate
//! limit: to pass could let it leave the region. For the same reason the route should say `on_error = "reject"`.

use pointsman_policy::{Attempt, Decision, Request, Settings, Target};

pointsman_policy::policy!(decide);

const STATUS: u16 = 451;

/// See the crate's documentation.
pub fn decide(request: &Request, targets: &[Target], attempts: &[Attempt], settings: &Settings) -> Decision {
    if attempts.last().is_some_and(Attempt::is_final) {
        return Decision::pass("no other target could do better");
    }
    let reject = |message: String| Decision::reject(settings.number("status", 400..=499, STATUS), message);
    let from = settings.text("from").unwrap_or_else(|| "client.region".into());
    let Some(region) = request
        .attribute(&from)
        .map(str::to_owned)
        .or_else(|| settings.text("default"))
    else {
        return reject(["The region of this request is not known: it has no ", &from, "."].concat());
    };
    let attribute = settings.text("attribute").unwrap_or_else(|| "region".into());
    let allowed = allowed(&region, &settings.text("allow").unwrap_or_default());
    let inside = |target: &&Target| {
        target
            .attribute(&attribute)
            .is_some_and(|it| allowed.iter().any(|ok| ok == it))
    };

    let resident: Vec<&Target> = targets.iter().filter(inside).collect();
    if resident.is_empty() {
        return reject(
            [
                &request.model,
                " has no target in the region of this request, ",
                &region,
                ".",
            ]
            .concat(),
        );
    }
    let left = resident
        .into_iter()
        .filter(|target| !target.has_failed(attempts) && !request.has_switched_off(target));
    let left: Vec<&Target> = left.collect();
    if left.is_empty() {
        let message = [
            "Every target of ",
            &request.model,
            " in ",
            &region,
            " has failed or is switched off.",
        ];
        return Decision::exhausted(attempts, message.concat());
    }
    Decision::route(left, ["resident in ", &region].concat())
}

/// The regions that requests of this region may go to. `allow` is as in the settings.
fn allowed(region: &str, allow: &str) -> Vec<String> {
    let rule = allow
        .split(';')
        .filter_map(|rule| rule.split_once('='))
        .find(|(from, _)| from.trim() == region);
    let to = rule.map_or(region, |(_, to)| to);
    to.split(',').map(|region| region.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_policy::{Action, Failure};

    fn targets() -> [Target; 5] {
        let within = |name, region: &str| Target {
            vendor: "azure".into(),
            attributes: vec![("region".into(), region.into())],
            ..Target::named(name)
        };
        [
            within("us-1", "us"),
            within("eu-1", "eu"),
            Target::named("nowhere"),
            within("ch-1", "ch"),
            within("eu-2", "eu"),
        ]
    }

    fn request(attributes: &[(&str, &str)]) -> Request {
        let attributes = attributes
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Request {
            model: "smart".into(),
            attributes,
            ..Request::default()
        }
    }

    #[test]
    fn picks_the_targets_of_the_region_in_their_order() {
        let decision = decide(
            &request(&[("client.region", "eu")]),
            &targets(),
            &[],
            &Settings::from([]),
        );
        assert_eq!(decision.targets(), ["eu-1", "eu-2"]);
        assert_eq!(decision.reason, "resident in eu");
    }

    #[test]
    fn a_region_may_be_allowed_others() {
        let settings = Settings::from([("allow", "us = us; eu = ch, eu"), ("from", "header.x-region")]);
        let picked = |region| {
            let decision = decide(&request(&[("header.x-region", region)]), &targets(), &[], &settings);
            decision.targets().join(" ")
        };
        assert_eq!(picked("eu"), "eu-1 ch-1 eu-2");
        assert_eq!(picked("us"), "us-1");
        assert_eq!(picked("ch"), "ch-1", "a region that is not listed may go to itself");
    }

    #[test]
    fn rejects_what_has_no_place_to_go() {
        let decision = decide(
            &request(&[("client.region", "jp")]),
            &targets(),
            &[],
            &Settings::from([]),
        );
        assert_eq!(decision.status(), Some(451));
        assert_eq!(
            decision.reason,
            "smart has no target in the region of this request, jp."
        );

        let decision = decide(&request(&[]), &targets(), &[], &Settings::from([("status", "403")]));
        assert_eq!(decision.status(), Some(403));
        assert_eq!(
            decision.reason,
            "The region of this request is not known: it has no client.region."
        );
    }

    #[test]
    fn a_default_stands_in_for_a_region_that_is_not_known() {
        let settings = Settings::from([("default", "us")]);
        assert_eq!(decide(&request(&[]), &targets(), &[], &settings).targets(), ["us-1"]);
    }

    #[test]
    fn never_passes_a_request_out_of_its_region() {
        let failed = ["eu-1", "eu-2"].map(|name| Attempt {
            retry_after_ms: Some(700),
            ..Attempt::failed(name, Failure::RateLimited)
        });
        let decide = |request, attempts| decide(&request, &targets(), attempts, &Settings::from([]));
        assert_eq!(
            decide(request(&[("client.region", "eu")]), &failed[..1]).targets(),
            ["eu-2"]
        );

        let exhausted = decide(request(&[("client.region", "eu")]), &failed);
        assert_eq!(exhausted.status(), Some(429));
        assert!(matches!(exhausted.action, Action::Reject(rejection) if rejection.retry_after_ms == Some(700)));

        let off = decide(request(&[("client.region", "eu"), ("switch.azure", "off")]), &[]);
        assert_eq!(off.status(), Some(503));
    }
}
