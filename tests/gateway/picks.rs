//! What a policy can say with a pick, on real targets. The guest picks what its settings say and lets its plan go on after
//! a failure.

use std::time::{Duration, Instant};

use super::guests::guest;
use super::running::{ASK, ASK_STREAM, CHAT, Gateway, eventually};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

/// A gateway whose one policy picks this.
fn picking(settings: &str, setup: Setup) -> Gateway {
    let setup = setup.plugin("picker", guest("picker")).route("policies = [\"picker\"]");
    setup
        .toml(&format!("policy.picker.settings = {{ {settings} }}"))
        .start()
}

fn fails() -> Script {
    Script::status(500, &[], &error_body("server_error"))
}

#[test]
fn a_pick_may_ask_for_another_model_and_change_the_body() {
    let vendor = Vendor::well("vendor");
    let patch = r#"{\"temperature\":null,\"max_tokens\":7,\"model\":null,\"stream\":true}"#;
    let settings = format!("picks = [\"vendor\"], model = \"finer\", patch = \"{patch}\"");
    let gateway = picking(&settings, Setup::new([&vendor]));
    let answer = gateway.chat(r#"{"model":"smart","temperature":1.0,"top_p":0.10,"messages":[],"x":1e2}"#);
    assert_eq!(answer.says(), "from vendor");
    let body: serde_json::Value = serde_json::from_slice(&vendor.only().body).unwrap();
    assert_eq!(body["model"], "finer");
    assert_eq!((&body["max_tokens"], body.get("temperature")), (&7.into(), None));
    let text = vendor.only().body();
    assert!(
        text.contains("0.10") && text.contains("1e2") || text.contains("1e+2"),
        "{text}"
    );
}

#[test]
fn a_patch_reaches_a_body_however_deep_it_is_nested() {
    let vendor = Vendor::well("vendor");
    let gateway = picking(
        "picks = [\"vendor\"], patch = '{\"max_tokens\":7}'",
        Setup::new([&vendor]),
    );
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let answer = gateway.chat(&format!(r#"{{"model":"smart","messages":[],"zz":{deep}}}"#));
    assert_eq!(answer.says(), "from vendor");
    let body = vendor.only().body();
    assert!(body.contains(&deep) && body.contains(r#""max_tokens":7"#), "{body}");
}

#[test]
fn a_patch_that_does_not_fit_is_left_out_and_the_client_is_not_blamed() {
    let message = r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","stop_reason":"end_turn",
        "content":[{"type":"text","text":"from Claude"}],"usage":{"input_tokens":5,"output_tokens":2}}"#;
    let vendor = Vendor::start("vendor", [Script::answer(message)]);
    let setup = Setup::new([&vendor]).vendor("vendor", "anthropic");
    let setup = setup
        .target("vendor", "api_key = { env = \"CLAUDE_KEY\" }")
        .env("CLAUDE_KEY", "key");
    // Anthropic's format cannot say it.
    let gateway = picking(r#"picks = ["vendor"], patch = "{\"n\":3}""#, setup);
    let answer = gateway.chat(ASK);
    assert_eq!(answer.says(), "from Claude");
    eventually("it to be logged", || {
        gateway
            .log()
            .contains("patch cannot be laid over the request")
            .then_some(())
    });
}

#[test]
fn a_patch_of_the_prompt_needs_a_grant() {
    let vendor = Vendor::well("vendor");
    let settings = "picks = [\"vendor\"], patch = '{\"messages\":null}'";
    let gateway = picking(settings, Setup::new([&vendor]));
    let answer = gateway.chat(ASK);
    assert_eq!(answer.status, 200);
    // Its probe decision was refused already.
    assert_eq!(answer.header("x-pointsman-policy"), "picker; failed=missing");
    assert!(vendor.only().body().contains("messages"), "the built-in chain decided");
    let problem = gateway.policy("picker")["problem"].to_string();
    assert!(problem.contains("patch-prompt"), "{problem}");

    let vendor = Vendor::well("vendor");
    let granted = Setup::new([&vendor]).toml("policy.picker.grants = [\"patch-prompt\"]");
    let gateway = picking(settings, granted);
    assert_eq!(gateway.chat(ASK).status, 200);
    assert!(!vendor.only().body().contains("messages"));
}

/// A model that would lead out of its place in the vendor's path, to which the target's credential goes, is no decision.
#[test]
fn a_picks_model_stays_in_its_place() {
    for api in ["azure-classic", "gemini"] {
        for model in ["..", ".", "", "a/../../b", "a\tb"] {
            let vendor = Vendor::start("vendor", [fails()]);
            let setup = Setup::new([&vendor])
                .vendor("vendor", api)
                .target("vendor", "api_key = { env = \"VENDOR_KEY\" }")
                .env("VENDOR_KEY", "k");
            let setup = setup.toml("policies.headers = [\"x-model\"]");
            let gateway = picking("picks = [\"vendor\"]", setup);
            let answer = gateway.ask(CHAT, &[("x-model", model)], ASK);
            let named = answer.header("x-pointsman-policy");
            assert!(named.ends_with("; failed=invalid"), "{api} {model:?}: {named}");
            let path = vendor.only().head.line;
            assert!(path.contains("/vendor-model"), "{api} {model:?}: {path}");
        }
    }
}

#[test]
fn a_clients_model_is_a_name() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .after("[[route]]\nmodel = \"*\"\ntargets = [\"vendor\"]\n")
        .start();
    for model in ["", ".", "..", "a/../b", "a\\nb"] {
        let answer = gateway.chat(&ASK.replace("smart", model));
        answer.assert_error(400, "invalid_model");
    }
    let gemini = r#"{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}"#;
    let converse = r#"{"messages":[{"role":"user","content":[{"text":"hello"}]}]}"#;
    for (line, body) in [
        ("POST /v1beta/models/..:generateContent", gemini),
        ("POST /v1beta/models/%2e%2E:generateContent", gemini),
        ("POST /v1beta/models/:generateContent", gemini),
        ("POST /model/../converse", converse),
        ("POST /model/%2e/converse-stream", converse),
        ("POST /model/a%2F..%2Fb/converse", converse),
        ("POST /openai/deployments/../chat/completions", ASK),
        ("POST /openai/deployments/%0a/chat/completions", ASK),
    ] {
        let answer = gateway.ask(line, &[], body);
        assert_eq!(answer.status, 400, "{line}: {}", answer.text());
        assert!(answer.text().contains("model's name"), "{line}: {}", answer.text());
    }
    assert_eq!(vendor.count(), 0);
}

#[test]
fn the_plan_goes_on_after_a_failure_in_the_order_of_the_picks() {
    let (first, second, third) = (
        Vendor::well("first"),
        Vendor::start("second", [fails()]),
        Vendor::well("third"),
    );
    let gateway = picking("picks = [\"second\", \"third\"]", Setup::new([&first, &second, &third]));
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("from third", "2")
    );
    assert_eq!(answer.header("x-pointsman-reason"), "as told");
    assert_eq!(first.count(), 0);
}

#[test]
fn targets_that_were_not_picked_are_not_tried() {
    let (first, second) = (Vendor::start("first", [fails()]), Vendor::well("second"));
    let gateway = picking("picks = [\"first\"]", Setup::new([&first, &second]));
    gateway.chat(ASK).assert_error(503, "server_is_overloaded");
    assert_eq!((first.count(), second.count()), (1, 0));
}

#[test]
fn a_picks_deadline_shortens_the_targets_and_never_lengthens_it() {
    let (first, second) = (Vendor::start("first", [Script::silence()]), Vendor::well("second"));
    let patient = Setup::new([&first, &second]).toml("timeouts.first_content_ms = 20000");
    let gateway = picking("picks = [\"first\", \"second\"], first_content_ms = 200", patient);
    let begin = Instant::now();
    assert_eq!(gateway.chat(ASK_STREAM).header("x-pointsman-target"), "second");
    assert!(begin.elapsed() < Duration::from_secs(10));

    let hasty = Setup::new([&first, &second]).toml("timeouts.first_content_ms = 200");
    let gateway = picking("picks = [\"first\", \"second\"], first_content_ms = 20000", hasty);
    let begin = Instant::now();
    assert_eq!(gateway.chat(ASK_STREAM).header("x-pointsman-target"), "second");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_picks_deadlines_end_a_stream_that_falls_silent_or_drags_on() {
    let drip = (0..200).fold(Script::begin([ROLE, &text("half")]), |script, _| {
        script.pause(50).frames([": ping\n\n"])
    });
    for (settings, script) in [
        ("between_frames_ms = 200", Script::begin([ROLE, &text("half")]).hold()),
        ("whole_ms = 400", drip.hold()),
    ] {
        let vendor = Vendor::start("vendor", [script]);
        let gateway = picking(&format!("picks = [\"vendor\"], {settings}"), Setup::new([&vendor]));
        let rest = gateway.stream(ASK_STREAM).rest();
        assert!(
            rest.contains("half") && rest.contains("answer_cut_off"),
            "{settings}: {rest}"
        );
    }
}

#[test]
fn a_pick_may_wait_and_so_try_the_same_target_again() {
    let vendor = Vendor::start("vendor", [fails(), Script::answer(&whole("second thoughts"))]);
    let gateway = picking("picks = [\"vendor\"], wait_ms = 300", Setup::new([&vendor]));
    let begin = Instant::now();
    gateway.chat(ASK).assert_error(503, "server_is_overloaded");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(vendor.count(), 1, "a plan without it does not try a target twice");
}

#[test]
fn a_pick_may_be_hedged() {
    let gate = Gate::default();
    let slow = Script::Steps(vec![])
        .until(&gate)
        .then(Script::answer(&whole("too late")));
    let (first, second) = (Vendor::start("first", [slow]), Vendor::well("second"));
    let setup = Setup::new([&first, &second]).route("hedge_share = 1.0");
    let gateway = picking("picks = [\"first\", \"second\"], hedge_after_ms = 100", setup);
    assert_eq!(gateway.chat(ASK).says(), "from second");
    gate.open();
}

/// A standby that nobody else asks has no requests of which hedges could be a share: the route's ceiling is theirs.
#[test]
fn a_hedge_is_no_retry_of_its_target() {
    let slow = Script::Well("from first".into()).after(Duration::from_millis(2000));
    let (first, second) = (
        Vendor::start("first", [Script::of(move |_| slow.clone())]),
        Vendor::well("second"),
    );
    let setup = Setup::new([&first, &second])
        .route("hedge_share = 1.0")
        .toml("attempts.retry_share = 0.0\nattempts.retry_floor = 0");
    let gateway = picking("picks = [\"first\", \"second\"], hedge_after_ms = 10", setup);
    for _ in 0..8 {
        assert_eq!(gateway.chat(ASK).says(), "from second");
    }
    assert_eq!(gateway.metric("pointsman_hedges_total", ""), 8.0);
}

/// Beside itself, a target is retried: what its budget denies leaves the route's share to others.
#[test]
fn a_hedge_that_the_budget_denies_uses_up_no_share() {
    let well = Script::Well("from first".into()).after(Duration::from_millis(50));
    let (first, second) = (Vendor::start("first", [well]), Vendor::well("second"));
    let setup = Setup::new([&first, &second])
        .route("hedge_share = 0.01")
        .toml("policies.headers = [\"x-picks\"]")
        .toml("attempts.retry_share = 0.0\nattempts.retry_floor = 0");
    let gateway = picking("picks = [\"first\", \"first\"], hedge_after_ms = 10", setup);
    for _ in 0..5 {
        assert_eq!(gateway.chat(ASK).says(), "from first");
    }
    assert_eq!(first.count(), 5);
    assert_eq!(gateway.metric("pointsman_hedges_denied_total", ""), 5.0);
    gateway.ask(CHAT, &[("x-picks", "first, second")], ASK);
    assert_eq!(gateway.metric("pointsman_hedges_total", ""), 1.0);
}

/// A refusal is no content: whoever was asked beside goes on.
#[test]
fn a_refusal_does_not_end_the_attempt_beside() {
    let refuses = STOP.replace("\"stop\"", "\"content_filter\"");
    let first = Vendor::start(
        "first",
        [Script::begin([ROLE]).pause(200).frames([&refuses, DONE]).end()],
    );
    let second = Script::begin([ROLE])
        .pause(600)
        .frames([&text("from second"), STOP, DONE])
        .end();
    let second = Vendor::start("second", [second]);
    let setup = Setup::new([&first, &second]).route("hedge_share = 1.0");
    let gateway = picking("picks = [\"first\", \"second\"], hedge_after_ms = 10", setup);
    let mut stream = gateway.stream(ASK_STREAM);
    assert_eq!(stream.header("x-pointsman-target"), "second");
    let rest = stream.rest();
    assert!(rest.contains("from second") && rest.contains("[DONE]"), "{rest}");
    assert_eq!((first.count(), second.count()), (1, 1));
}

#[test]
fn a_hedge_that_lost_is_paid_for_as_far_as_its_vendor_had_counted() {
    let counted = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":0}}\n\n";
    let gate = Gate::default();
    let slow = Script::begin([ROLE, counted]).until(&gate);
    let quick = Script::stream([ROLE, &text("quick"), STOP, counted, DONE]);
    let (first, second) = (Vendor::start("first", [slow]), Vendor::start("second", [quick]));
    let setup = Setup::new([&first, &second])
        .route("hedge_share = 1.0")
        .target("first", "input_price = 5\noutput_price = 5")
        .target("second", "input_price = 1\noutput_price = 1");
    let gateway = picking("picks = [\"first\", \"second\"], hedge_after_ms = 300", setup);
    let mut answer = gateway.stream(ASK_STREAM);
    let id = answer.header("x-request-id").to_owned();
    answer.rest();
    drop(answer);
    gate.open();
    assert_eq!(gateway.request_line(&id)["cost_usd"], 0.006);
}

/// The target's prices are those of its own model.
#[test]
fn what_another_model_cost_is_not_known() {
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor]).target("vendor", "input_price = 1\noutput_price = 1");
    let answer = picking("picks = [\"vendor\"], model = \"finer\"", setup).chat(ASK);
    assert_eq!((answer.status, answer.header("x-pointsman-cost-usd")), (200, ""));
}

#[test]
fn a_policy_may_reject_in_its_own_words_and_say_when_to_come_back() {
    let vendor = Vendor::well("vendor");
    let settings = "reject = \"not \\\"today\\\"\", retry_after_ms = 90500";
    let answer = picking(settings, Setup::new([&vendor])).chat(ASK);
    answer.assert_error(418, "rejected_by_policy");
    assert_eq!(answer.json()["error"]["message"], "not \"today\"");
    assert_eq!(
        (answer.header("retry-after"), answer.header("retry-after-ms")),
        ("91", "90500")
    );
    assert_eq!(answer.header("x-should-retry"), "false");
    assert_eq!(vendor.count(), 0);
}

/// A second route to the same target, which no policy decides about.
const OTHER: &str = "[[route]]\nmodel = \"other\"\ntargets = [\"vendor\"]\n";
const ASK_OTHER: &str = r#"{"model":"other","messages":[]}"#;

#[test]
fn a_picks_hurry_between_frames_rests_no_target() {
    let half = || {
        Script::begin([ROLE, &text("half")])
            .pause(50)
            .frames([STOP, DONE])
            .end()
    };
    let vendor = Vendor::start("vendor", [half()]);
    let setup = Setup::new([&vendor]).after(OTHER);
    let gateway = picking("picks = [\"vendor\"], between_frames_ms = 5", setup);
    for _ in 0..10 {
        let rest = gateway.stream(ASK_STREAM).rest();
        assert!(rest.contains("answer_cut_off"), "{rest}");
    }
    let other = r#"{"model":"other","stream":true,"messages":[]}"#;
    let rest = gateway.stream(other).rest();
    assert!(rest.contains("half") && rest.contains("[DONE]"), "{rest}");
}

/// Targets are shared: a policy that is in too much of a hurry must not take them from other routes.
#[test]
fn a_picks_hurry_rests_no_target() {
    let slow = Script::answer(&whole("from vendor")).after(Duration::from_millis(50));
    for (said, code) in [
        ("first_content_ms = 5", "first_content_timeout"),
        ("whole_ms = 5", "first_content_timeout"),
    ] {
        let vendor = Vendor::start("vendor", [slow.clone()]);
        let settings = format!("picks = [\"vendor\"], {said}");
        let setup = Setup::new([&vendor]).route("attempts_detail = true").after(OTHER);
        let gateway = picking(&settings, setup);
        for _ in 0..10 {
            let answer = gateway.chat(ASK);
            assert_eq!(answer.status, 504, "{said}: {}", answer.text());
            let detail = answer.header("x-pointsman-attempts-detail");
            assert!(detail.contains(code), "{said}: {detail}");
        }
        assert_eq!(gateway.chat(ASK_OTHER).says(), "from vendor", "{said}");
    }
}

#[test]
fn the_operators_own_hurry_rests_a_target() {
    let vendor = Vendor::start("vendor", [Script::silence()]);
    let setup = Setup::new([&vendor])
        .toml("timeouts.whole_content_ms = 20")
        .after(OTHER);
    let gateway = picking("picks = [\"vendor\"], first_content_ms = 10000", setup);
    for _ in 0..10 {
        gateway.chat(ASK);
    }
    assert_eq!(gateway.chat(ASK_OTHER).status, 503);
}

/// Clouds say 403 of a model that an account may not use.
#[test]
fn a_picks_forbidden_model_rests_no_target() {
    let vendor = Vendor::start(
        "vendor",
        [Script::of(|request| {
            if request.body().contains("forbidden") {
                Script::status(403, &[], &error_body("access_denied"))
            } else {
                Script::Well("from vendor".into())
            }
        })],
    );
    let setup = Setup::new([&vendor]).after(OTHER);
    let gateway = picking("picks = [\"vendor\"], model = \"forbidden\"", setup);
    assert_ne!(gateway.chat(ASK).status, 200);
    assert_eq!(gateway.chat(ASK_OTHER).says(), "from vendor");
}

/// What a target has always kept, it fails when it does not, whoever says by when.
#[test]
fn a_picks_fair_deadline_opens_the_breaker_of_a_target_that_hangs() {
    let well = Script::Well("well".into());
    let vendor = Vendor::start("vendor", [well.clone(), well.clone(), well, Script::silence()]);
    let gateway = picking(
        "picks = [\"vendor\"], first_content_ms = 400",
        Setup::new([&vendor]).toml("timeouts.whole_content_ms = 20000"),
    );
    for _ in 0..3 {
        assert_eq!(gateway.chat(ASK).says(), "well");
    }
    assert!(gateway.target("vendor")["first_token_p95_ms"].as_u64().unwrap() <= 200);
    for _ in 0..3 {
        assert_eq!(gateway.chat(ASK).status, 504);
    }
    assert_eq!(gateway.target("vendor")["breaker"], "open");
}
