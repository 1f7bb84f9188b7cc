//! `canary`: a share of the clients tries another target first.
//!
//! The same clients always: whoever is in the share stays in it, also when the percentage rises. When the canary fails,
//! its clients fall back to the other targets. The rest try the canary only when all others have failed. A target is
//! passed over while its breaker is open or it cools down, after it failed in this request, and while the operator has
//! switched it or its vendor off (`switch.TARGET`, `switch.VENDOR`).
//!
//! ```toml
//! [policy.canary]
//! settings = { target = "gpt-next", percent = 2.5 }
//! ```
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `target` | | name of the canary, or a list of names; without it the policy passes |
//! | `percent` | 5 | share of the clients that try the canary first, 0 to 100, in steps of 0.01 |
//! | `sticky` | `client` | what stays together: `client`, `conversation` or `request` |
//!
//! A request without a client goes by its conversation, and one of an unknown conversation by itself. With few clients
//! a share of them is nearly always none or all: then set `sticky` to `conversation`.

use pointsman_policy::{Attempt, Decision, Level, Request, Settings, Target, hash, log, rank, usable};

pointsman_policy::policy!(decide);

/// 5 %. Shares are counted in hundredths of a percent.
const HUNDREDTHS: u32 = 500;

/// See the crate's documentation.
pub fn decide(request: &Request, targets: &[Target], attempts: &[Attempt], settings: &Settings) -> Decision {
    let canaries = settings.list("target");
    if canaries.is_empty() {
        log(Level::Error, "setting target is missing: it names the canary");
        return Decision::pass("no canary is named");
    }
    let mut usable = match usable(request, targets, attempts) {
        Ok(usable) => usable,
        Err(decision) => return decision,
    };
    let chosen = is_chosen(request, &canaries, settings);
    // False sorts before true: canaries first for the chosen, last for the others.
    rank(&mut usable, |target| canaries.contains(&target.name) != chosen);
    Decision::route(
        usable,
        if chosen {
            "in the canary's share"
        } else {
            "not in the canary's share"
        },
    )
}

/// Whether this request is in the share of the canaries.
fn is_chosen(request: &Request, canaries: &[String], settings: &Settings) -> bool {
    let share = settings
        .read("percent", "not a number from 0 to 100", hundredths)
        .unwrap_or(HUNDREDTHS);
    // With the canaries' names in the key the next canary finds other clients.
    let key = [sticky_key(request, settings), canaries.join(",").into_bytes()].concat();
    hash(key) % 10_000 < u64::from(share)
}

/// A percentage in hundredths. Read by hand, because reading any float takes a guest 30 KiB of code and tables.
fn hundredths(percent: &str) -> Option<u32> {
    let (whole, fraction) = percent.split_once('.').unwrap_or((percent, ""));
    let fraction = match fraction.len() {
        0 => 0,
        1 => fraction.parse::<u32>().ok()? * 10,
        _ => fraction.get(..2)?.parse().ok()?,
    };
    let hundredths = whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(fraction)?;
    (hundredths <= 10_000).then_some(hundredths)
}

/// What requests that stay together have in common.
fn sticky_key(request: &Request, settings: &Settings) -> Vec<u8> {
    let known = |text: &str| {
        ["client", "conversation", "request"]
            .into_iter()
            .position(|known| known == text)
    };
    let finest = settings
        .read("sticky", "neither client nor conversation nor request", known)
        .unwrap_or(0);
    if finest == 0 && !request.client.is_empty() {
        request.client.clone().into_bytes()
    } else if finest <= 1 && request.conversation != 0 {
        request.conversation.to_le_bytes().to_vec()
    } else {
        request.seed.to_le_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_policy::{Action, Failure};

    fn targets() -> [Target; 3] {
        ["gpt", "next", "claude"].map(Target::named)
    }

    fn client(number: u32) -> Request {
        Request {
            client: format!("team-{number}"),
            seed: number.wrapping_mul(7),
            conversation: number,
            ..Request::default()
        }
    }

    /// The share of 10,000 requests that try the canary first, in percent.
    fn share(settings: Settings, request: impl Fn(u32) -> Request) -> f64 {
        let first = |number| decide(&request(number), &targets(), &[], &settings).targets()[0] == "next";
        f64::from((0..10_000).filter(|number| first(*number)).count() as u32) / 100.0
    }

    #[test]
    fn a_share_of_the_clients_tries_the_canary_first() {
        assert!((4.2..5.8).contains(&share(Settings::from([("target", "next")]), client)));
        assert!((18.5..21.5).contains(&share(Settings::from([("target", "next"), ("percent", "20")]), client)));
        assert_eq!(
            share(Settings::from([("target", "next"), ("percent", "0")]), client),
            0.0
        );
        assert_eq!(
            share(Settings::from([("target", "next"), ("percent", "100")]), client),
            100.0
        );
        let bad = share(Settings::from([("target", "next"), ("percent", "many")]), client);
        assert!((4.2..5.8).contains(&bad), "the default holds");
    }

    #[test]
    fn reads_a_percentage() {
        for (text, share) in [
            ("0", 0),
            ("7", 700),
            ("2.5", 250),
            ("0.25", 25),
            ("0.259", 25),
            ("3.", 300),
            ("100.0", 10_000),
        ] {
            assert_eq!(hundredths(text), Some(share), "{text}");
        }
        for text in ["", "-1", "100.01", "101", "5%", "many", "1.x", "4294967295", ".5"] {
            assert_eq!(hundredths(text), None, "{text}");
        }
    }

    #[test]
    fn whoever_is_in_the_share_stays_in_it() {
        let chosen = |number, percent| {
            is_chosen(
                &client(number),
                &["next".into()],
                &Settings::from([("percent", percent)]),
            )
        };
        assert!(
            (0..1_000)
                .filter(|number| chosen(*number, "5"))
                .all(|number| chosen(number, "10"))
        );
    }

    #[test]
    fn the_others_try_the_canary_last() {
        let picked = |percent| {
            let settings = Settings::from([("target", "next"), ("percent", percent)]);
            decide(&client(1), &targets(), &[], &settings).targets().join(" ")
        };
        assert_eq!(picked("0"), "gpt claude next");
        assert_eq!(picked("100"), "next gpt claude");
    }

    #[test]
    fn falls_back_when_the_canary_fails() {
        let settings = Settings::from([("target", "next"), ("percent", "100")]);
        let attempts = [Attempt::failed("next", Failure::ServerError)];
        assert_eq!(
            decide(&client(1), &targets(), &attempts, &settings).targets(),
            ["gpt", "claude"]
        );
    }

    #[test]
    fn what_stays_together_is_the_client_the_conversation_or_nothing() {
        let alike = |number| Request {
            seed: number,
            conversation: 1 + number / 10,
            ..client(1)
        };
        let by = |sticky| {
            share(
                Settings::from([("target", "next"), ("percent", "50"), ("sticky", sticky)]),
                alike,
            )
        };
        assert!([0.0, 100.0].contains(&by("client")));
        assert!((45.0..55.0).contains(&by("conversation")));
        assert!((48.0..52.0).contains(&by("request")));

        let keyless = |number| Request {
            client: String::new(),
            conversation: 0,
            ..client(number)
        };
        let by_seed = share(Settings::from([("target", "next"), ("percent", "50")]), keyless);
        assert!((48.0..52.0).contains(&by_seed));
    }

    #[test]
    fn passes_without_a_canary() {
        assert_eq!(
            decide(&client(1), &targets(), &[], &Settings::from([])).action,
            Action::Pass
        );
    }
}
