//! Random vendors and random policies against one gateway: what holds whatever they do.

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::guests::guest;
use super::heard::Format;
use super::running::{CHAT, Gateway, eventually};
use super::script::{DONE, ROLE, STOP, Script, error_body, text};
use super::setup::Setup;
use super::vendor::{Received, Vendor};

const NAMES: [&str; 3] = ["a", "b", "c"];
const MAX_ATTEMPTS: usize = 3;
const HEDGE_SHARE: f64 = 0.3;
/// Longer than a request of this test takes from one look at a breaker to the end, unless the machine is very busy.
const OPEN_MS: u64 = 400;

/// What a vendor may do with a request; it does well often enough for the next one to be asked.
const DEEDS: [&str; 15] = [
    "ok", "ok", "ok", "slow", "slow", "hang", "500", "429", "429-soon", "503", "400", "reset", "role", "half",
    "refused",
];

/// What a policy may say, by header.
const HEADERS: [&str; 9] = [
    "x-picks",
    "x-when-failed",
    "x-when-started",
    "x-when-refused",
    "x-hedge-after-ms",
    "x-first-content-ms",
    "x-wait-ms",
    "x-whole-ms",
    "x-reject",
];

/// One request, and what it meets.
#[derive(Debug, Clone)]
struct Story {
    streaming: bool,
    /// What each vendor does.
    deeds: [&'static str; 3],
    headers: Vec<(&'static str, String)>,
}

fn story() -> impl Strategy<Value = Story> {
    let deed = || prop::sample::select(&DEEDS[..]);
    let picks = || {
        prop::collection::vec(prop::sample::select(&["a", "b", "c", "nobody"][..]), 1..5).prop_map(|it| it.join(","))
    };
    let ms = || prop::option::of((0u32..60).prop_map(|ms| ms.to_string()));
    let said = (
        prop::option::weighted(0.8, picks()),
        prop::option::of(picks()),
        prop::option::of(picks()),
        prop::option::of(picks()),
        (ms(), ms(), ms(), ms()),
        prop::option::weighted(0.03, Just("no".to_owned())),
    );
    (any::<bool>(), [deed(), deed(), deed()], said).prop_map(|(streaming, deeds, said)| {
        let (hedge, first, wait, whole) = said.4;
        let values = [said.0, said.1, said.2, said.3, hedge, first, wait, whole, said.5];
        let headers = HEADERS.into_iter().zip(values);
        Story {
            streaming,
            deeds,
            headers: headers.filter_map(|(name, value)| Some((name, value?))).collect(),
        }
    })
}

/// What a vendor does, as the user's words tell it.
fn act(place: usize, request: &Received) -> Script {
    let body = request.body();
    let deeds = body.split("do ").nth(1).expect("an order");
    let deed = deeds.split(' ').nth(place).expect("an order for each");
    let streaming = body.contains("\"stream\":true");
    let says = || Script::Steps(Script::Well("all of it".into()).steps(streaming));
    match deed {
        "ok" => says(),
        "slow" => says().after(Duration::from_millis(40)),
        "hang" => Script::silence(),
        "429" => Script::rate_limited(&[("retry-after-ms", "60")]),
        "429-soon" => Script::rate_limited(&[("retry-after-ms", "30")]),
        "reset" => Script::Steps(vec![]).reset(),
        "role" => Script::begin([ROLE]).reset(),
        "half" => Script::begin([ROLE, &text("all ")]).pause(5).reset(),
        "refused" => Script::stream([ROLE, &STOP.replace("\"stop\"", "\"content_filter\""), DONE]),
        status => Script::status(status.parse().unwrap(), &[], &error_body("server_error_of_some_kind")),
    }
}

fn gateway(vendors: &[Vendor], has_breakers: bool) -> Gateway {
    let shown: Vec<String> = HEADERS.iter().map(|name| format!("\"{name}\"")).collect();
    let setup = Setup::new(vendors)
        .plugin("picker", guest("picker"))
        .route("policies = [\"picker\"]\ncontinuation = true")
        .route(&format!("hedge_share = {HEDGE_SHARE}\nmax_attempts = {MAX_ATTEMPTS}"));
    setup
        .toml(&format!("policies.headers = [{}]", shown.join(", ")))
        .toml(&format!("breaker.enabled = {has_breakers}"))
        .toml(&format!(
            "breaker.open_ms = {OPEN_MS}\nbreaker.max_open_ms = {OPEN_MS}\nbreaker.rest_ms = {OPEN_MS}"
        ))
        .toml("timeouts = { first_content_ms = 80, whole_content_ms = 80, between_frames_ms = 80, request_ms = 1000 }")
        .toml("policy.picker.settings = { }")
        .start()
}

/// How long each target must be left alone.
fn cooldowns(gateway: &Gateway) -> Vec<Duration> {
    let told = |name| gateway.target(name);
    let millis = NAMES.map(|name| told(name)["cooldown_ms"].as_u64().unwrap());
    millis.map(Duration::from_millis).to_vec()
}

fn live_through(gateway: &Gateway, vendors: &[Vendor], story: &Story) -> Result<usize, TestCaseError> {
    let name = format!("story-{:08x}.", fastrand::u32(..));
    let looked = Instant::now();
    let rests = cooldowns(gateway);
    let body = Format::Chat.body(
        "smart",
        story.streaming,
        &format!("do {} {name}", story.deeds.join(" ")),
    );
    let headers: Vec<_> = story
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut client = gateway.connect();
    client.request(CHAT, &headers, body.as_bytes());
    let answer = client.answer();
    let took = looked.elapsed();

    // Calls that an earlier story cancelled may come to light only now.
    let is_ours = |request: &Received| request.body().contains(&name);
    let calls_to = |vendor: &Vendor| vendor.received().iter().filter(|request| is_ours(request)).count();
    let calls: Vec<usize> = vendors.iter().map(calls_to).collect();
    // A connection that was idle and is closed without a word may have been stale: what it was sent is sent once more. A reset may
    // take the words back that came before it.
    let may_repeat = |place: &usize| matches!(story.deeds[*place], "reset" | "role" | "half");
    let repeated: usize = (0..3).filter(may_repeat).map(|place| calls[place] / 2).sum();
    let called = calls;
    let calls = called.iter().sum::<usize>() - repeated;
    prop_assert!(calls <= MAX_ATTEMPTS, "{} calls", calls);
    let told: usize = answer.header("x-pointsman-attempts").parse().unwrap();
    prop_assert!(told <= MAX_ATTEMPTS, "{} attempts", told);
    for (place, rest) in rests.iter().enumerate() {
        // What is told is rounded up.
        let may_be_called = *rest <= took + Duration::from_millis(1);
        prop_assert!(
            called[place] == 0 || may_be_called,
            "{} was to rest for {:?}",
            NAMES[place],
            rest
        );
    }
    let text = answer.text();
    if answer.status != 200 {
        Format::Chat.assert_error(text);
    } else if story.streaming {
        let heard = Format::Chat.hear(text);
        let is_whole = heard.finishes.len() == 1 && heard.error.is_none() && heard.ends == 1;
        let is_known = ["all of it", "all all of it", "all all all of it", ""].contains(&heard.says.as_str());
        prop_assert!(heard.is_cut_off() || is_whole && is_known, "{:?}", heard);
    } else {
        prop_assert!(text.contains("all of it"), "{}", text);
    }
    Ok(calls)
}

#[test]
fn whatever_vendors_and_policies_do_the_limits_hold() {
    let mut hedges = 0.0;
    for has_breakers in [false, true] {
        let vendors: Vec<Vendor> = NAMES
            .into_iter()
            .enumerate()
            .map(|(place, name)| Vendor::start(name, [Script::of(move |request| act(place, request))]))
            .collect();
        let gateway = gateway(&vendors, has_breakers);
        let config = Config {
            cases: 250,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::default()
        };
        let most = Cell::new(0);
        let result = TestRunner::new(config).run(&story(), |story| {
            most.set(live_through(&gateway, &vendors, &story)?.max(most.get()));
            Ok(())
        });
        assert!(result.is_ok(), "{}", result.unwrap_err());
        assert_eq!(most.get(), MAX_ATTEMPTS, "some stories need all attempts");
        assert_all_has_ended(&gateway);
        hedges += gateway.metric("pointsman_hedges_total", "");
    }
    assert!(hedges > 0.0, "some stories need a hedge");
}

fn assert_all_has_ended(gateway: &Gateway) {
    let hedges = gateway.metric("pointsman_hedges_total", "");
    let requests = gateway.metric("pointsman_requests_total", "");
    assert!(hedges <= requests * HEDGE_SHARE + 1.0, "{hedges} of {requests}");
    for name in NAMES {
        eventually("every attempt to end", || {
            (gateway.target(name)["in_flight"] == 0).then_some(())
        });
    }
    assert_eq!(gateway.metric("pointsman_requests_in_progress", ""), 0.0);
}
