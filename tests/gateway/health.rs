//! What is known of a target: each attempt counts once, and what an operator repairs is asked at once.

use super::guests::guest;
use super::running::{ASK, ASK_STREAM, Gateway, eventually};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text};
use super::setup::Setup;
use super::vendor::{Received, Vendor};

/// A stream that waits for its gate behind its first content, and then ends well or breaks.
fn half(gate: &Gate, breaks: bool) -> Script {
    let begun = Script::begin([ROLE, &text("half")]).until(gate);
    if breaks {
        begun.reset()
    } else {
        begun.frames([STOP, DONE]).end()
    }
}

/// Asks for a stream, and lets it go on once its first content is there.
fn hear(gateway: &Gateway, gate: &Gate) {
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("half");
    gate.open();
    stream.rest();
}

/// Whether the stream of this number breaks, where so many of ten do; spread evenly.
fn breaks(number: usize, of_ten: usize) -> bool {
    (number * 7) % 10 < of_ten
}

/// A vendor of which so many of ten streams break after their content has begun, and the gates of its streams.
fn breaking(streams: usize, of_ten: usize) -> (Vendor, Vec<Gate>) {
    let gates: Vec<Gate> = (0..streams).map(|_| Gate::default()).collect();
    let scripts = gates.iter().enumerate();
    let scripts: Vec<Script> = scripts
        .map(|(number, gate)| half(gate, breaks(number, of_ten)))
        .collect();
    (Vendor::start("first", scripts), gates)
}

/// The share that is shown to operators and the one that is told to policies are what happened.
#[test]
fn streams_that_break_are_the_share_that_operators_and_policies_see() {
    const STREAMS: usize = 20;
    for of_ten in [1, 5, 9] {
        let (vendor, gates) = breaking(STREAMS + 1, of_ten);
        let setup = Setup::new([&vendor])
            .plugin("picker", guest("picker"))
            .route("policies = [\"picker\"]")
            .toml("breaker = { min_attempts = 1000, window_ms = 600000 }")
            .toml("policy.picker.settings = { picks = \"first\", tell = \"health\" }");
        let gateway = setup.start();
        for gate in &gates[..STREAMS] {
            hear(&gateway, gate);
        }
        let expected = of_ten as f64 / 10.0;
        let shown = gateway.target("first")["error_rate"].as_f64().unwrap();
        assert!((shown - expected).abs() < 0.001, "{of_ten} of 10: {shown} is shown");
        let mut stream = gateway.stream(ASK_STREAM);
        assert_eq!(
            stream.header("x-pointsman-reason"),
            format!("first:Breaker::Closed:{expected:.3}")
        );
        stream.read_until("half");
        gates[STREAMS].open();
        stream.rest();
        let count = |outcome: &str| {
            let labels = format!("target=\"first\",outcome=\"{outcome}\"");
            gateway.metric("pointsman_attempts_total", &labels) as usize
        };
        let broken = (0..=STREAMS).filter(|number| breaks(*number, of_ten)).count();
        assert_eq!(
            (count("cut-off"), count("ok")),
            (broken, STREAMS + 1 - broken),
            "{of_ten} of 10"
        );
    }
}

/// At the share that opens it and above, a breaker opens; below, it does not.
#[test]
fn the_breaker_opens_at_its_share_of_streams_that_break() {
    const STREAMS: usize = 20;
    for (of_ten, share, opens) in [
        (1, 0.5, false),
        (5, 0.5, true),
        (9, 0.5, true),
        (9, 0.9, true),
        (5, 0.6, false),
    ] {
        let (vendor, gates) = breaking(STREAMS, of_ten);
        let second = Vendor::well("second");
        let rules = format!("breaker = {{ min_attempts = 10, failure_share = {share}, window_ms = 600000 }}");
        let gateway = Setup::new([&vendor, &second]).toml(&rules).start();
        for gate in &gates {
            if gateway.target("first")["breaker"] == "open" {
                break;
            }
            hear(&gateway, gate);
        }
        let is_open = gateway.target("first")["breaker"] == "open";
        assert_eq!(is_open, opens, "{of_ten} of 10, share {share}");
    }
}

/// While it is probed too, a target that always fails is shown as one that always fails.
#[test]
fn a_target_that_breaks_every_stream_is_shown_so_in_every_state() {
    let vendor = Vendor::start("first", [Script::begin([ROLE, &text("half")]).pause(20).reset()]);
    let second = Vendor::well("second");
    let setup = Setup::new([&vendor, &second]);
    let gateway = setup
        .toml("breaker = { min_attempts = 2, window_ms = 50, open_ms = 300, max_open_ms = 300 }")
        .start();
    eventually("the breaker to open", || {
        gateway.stream(ASK_STREAM).rest();
        (gateway.target("first")["breaker"] == "open").then_some(())
    });
    for _ in 0..3 {
        let half_open = eventually("the breaker to be half open", || {
            Some(gateway.target("first")).filter(|shown| shown["breaker"] == "half-open")
        });
        assert_eq!(half_open["error_rate"], 1.0);
        gateway.stream(ASK_STREAM).rest();
        eventually("the probe to fail", || {
            (gateway.target("first")["breaker"] == "open").then_some(())
        });
        assert_eq!(gateway.target("first")["error_rate"], 1.0);
    }
}

fn key(request: &Received) -> String {
    request.head.header("authorization").unwrap_or_default().to_owned()
}

/// Takes only one key, and only for one model.
fn particular(key_wanted: &'static str, model: &'static str) -> Script {
    Script::of(move |request| {
        if key(request) != format!("Bearer {key_wanted}") {
            return Script::status(401, &[], &error_body("invalid_api_key"));
        }
        if !request.body().contains(&format!("\"{model}\"")) {
            return Script::status(402, &[], &error_body("insufficient_quota"));
        }
        Script::Well("from first".into())
    })
}

fn reloads(gateway: &Gateway) -> f64 {
    gateway.metric("pointsman_config_reloads", "live")
}

fn reload(gateway: &mut Gateway, setup: Setup) {
    let before = reloads(gateway);
    gateway.configure(setup);
    eventually("the reload", || (reloads(gateway) > before).then_some(()));
}

fn with_key(setup: Setup, file: &str) -> Setup {
    setup.target("first", &format!("api_key = {{ file = \"{file}\" }}"))
}

/// A target that was refused, and the gateway that has left it alone since.
fn refused(vendor: &Vendor, second: &Vendor) -> (Setup, Gateway) {
    let setup = Setup::new([vendor, second])
        .file("old-key", "sk-old-11111")
        .file("new-key", "sk-new-22222");
    let gateway = with_key(setup.clone(), "old-key").start();
    for _ in 0..2 {
        assert_eq!(gateway.chat(ASK).says(), "from second");
    }
    assert_eq!(vendor.count(), 1, "it rests");
    (setup, gateway)
}

#[test]
fn a_new_key_is_tried_at_the_next_request() {
    let vendor = Vendor::start("first", [particular("sk-new-22222", "first-model")]);
    let second = Vendor::well("second");
    let (setup, mut gateway) = refused(&vendor, &second);
    // What is not about what the target is ends no rest.
    reload(
        &mut gateway,
        with_key(
            setup.clone().target("first", "attributes = { changed = true }"),
            "old-key",
        ),
    );
    assert_eq!(gateway.chat(ASK).says(), "from second");
    reload(&mut gateway, with_key(setup, "new-key"));
    assert_eq!(gateway.chat(ASK).says(), "from first");
    assert_eq!(gateway.target("first")["error_rate"], 0.0);
    let log = gateway.log();
    assert!(
        log.contains("the health of a target starts fresh") && log.contains("\"changed\":\"credential\""),
        "{log}"
    );
    assert!(!log.contains("sk-new") && !log.contains("sk-old"));
}

#[test]
fn a_new_model_is_tried_at_the_next_request() {
    let vendor = Vendor::start("first", [particular("sk-old-11111", "repaired")]);
    let second = Vendor::well("second");
    let (setup, mut gateway) = refused(&vendor, &second);
    reload(&mut gateway, with_key(setup, "old-key").model("first", "repaired"));
    assert_eq!(gateway.chat(ASK).says(), "from first");
}

#[test]
fn a_new_address_is_tried_at_the_next_request() {
    let gone = Vendor::gone("first");
    let (repaired, second) = (Vendor::well("repaired"), Vendor::well("second"));
    let setup =
        Setup::new([&gone, &second]).toml("breaker = { min_attempts = 2, open_ms = 600000, max_open_ms = 600000 }");
    let mut gateway = setup.clone().start();
    eventually("the breaker to open", || {
        assert_eq!(gateway.chat(ASK).says(), "from second");
        (gateway.target("first")["breaker"] == "open").then_some(())
    });
    reload(
        &mut gateway,
        setup.base_url("first", &format!("http://{}/v1", repaired.address)),
    );
    assert_eq!(gateway.target("first")["breaker"], "closed");
    assert_eq!(gateway.chat(ASK).says(), "from repaired");
}

/// The stream of before ends after the reload: it is neither counted twice nor never.
#[test]
fn what_is_under_way_during_a_repair_is_counted_until_it_ends() {
    let gate = Gate::default();
    let vendor = Vendor::start("first", [half(&gate, true), Script::Well("from first".into())]);
    let setup = Setup::new([&vendor])
        .file("old-key", "sk-old-11111")
        .file("new-key", "sk-new-22222");
    let mut gateway = with_key(setup.clone(), "old-key").start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("half");
    reload(&mut gateway, with_key(setup, "new-key"));
    assert_eq!(gateway.target("first")["in_flight"], 1);
    gate.open();
    stream.rest();
    eventually("the stream to end", || {
        (gateway.target("first")["in_flight"] == 0).then_some(())
    });
    // It was the old key's.
    assert_eq!(gateway.target("first")["error_rate"], 0.0);
    assert_eq!(gateway.chat(ASK).says(), "from first");
}

/// By hand, and by switching it off and on: what an operator has repaired at the vendor's is asked at once.
#[test]
fn an_operator_ends_every_rest() {
    let limited = || Script::rate_limited(&[("retry-after", "3000")]);
    let refuses = || Script::status(401, &[], &error_body("invalid_api_key"));
    for broken in [limited(), refuses()] {
        for by_hand in [true, false] {
            let vendor = Vendor::start("first", [broken.clone()]);
            let second = Vendor::well("second");
            let setup = Setup::new([&vendor, &second]).file("old-key", "sk-old-11111");
            let gateway = with_key(setup, "old-key").start();
            for _ in 0..2 {
                assert_eq!(gateway.chat(ASK).says(), "from second");
            }
            assert_eq!(vendor.count(), 1, "it rests");
            vendor.follow(Script::Well("from first".into()));
            if by_hand {
                let answer = gateway.admin("POST /api/targets/first/reset");
                assert_eq!((answer.status, &answer.json()["breaker"]), (200, &"closed".into()));
            } else {
                assert_eq!(gateway.admin_with("PUT /api/switches/first", "off").status, 200);
                assert_eq!(gateway.chat(ASK).says(), "from second");
                assert_eq!(gateway.admin("DELETE /api/switches/first").status, 200);
            }
            let shown = gateway.target("first");
            assert_eq!((&shown["cooldown_ms"], &shown["keys_resting"]), (&0.into(), &0.into()));
            assert_eq!(gateway.chat(ASK).says(), "from first");
        }
    }
}

#[test]
fn a_reset_is_of_a_target_that_there_is() {
    let vendor = Vendor::well("first");
    let gateway = Setup::new([&vendor]).start();
    let answer = gateway.admin("POST /api/targets/frist/reset");
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("did you mean `first`?"), "{}", answer.text());
    assert_eq!(gateway.admin("GET /api/targets/first/reset").status, 405);
}
