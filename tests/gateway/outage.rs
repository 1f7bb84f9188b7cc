//! Outages: what the built-in chain does with failures, cooldowns and breakers, and what clients are told when nobody is left.

use std::time::{Duration, SystemTime};

use super::running::{ASK, ASK_STREAM, CHAT, eventually};
use super::script::{Gate, ROLE, Script, error_body, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

#[test]
fn when_all_are_down_the_client_is_told_to_come_back_but_not_to_retry() {
    let vendors = [
        Vendor::gone("a"),
        Vendor::start("b", [Script::status(500, &[], "boom")]),
    ];
    let answer = Setup::new(&vendors).start().chat(ASK);
    answer.assert_error(503, "server_is_overloaded");
    assert_eq!(answer.header("x-should-retry"), "false");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(answer.header("x-pointsman-attempts"), "2");
}

#[test]
fn when_all_are_rate_limited_the_client_is_told_the_shortest_wait() {
    let limited = |name, seconds| Vendor::start(name, [Script::rate_limited(&[("retry-after", seconds)])]);
    let vendors = [limited("a", "300"), limited("b", "20"), limited("c", "100")];
    let gateway = Setup::new(&vendors).start();
    let answer = gateway.chat(ASK);
    answer.assert_error(429, "rate_limit_exceeded");
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    assert_eq!(answer.header("x-should-retry"), "false");
    assert!(
        (15..=20).contains(&answer.header("retry-after").parse().unwrap()),
        "{:?}",
        answer.head
    );
    // While they cool down, nobody asks them.
    let answer = gateway.chat(ASK);
    answer.assert_error(429, "rate_limit_exceeded");
    assert!(
        (10..=20).contains(&answer.header("retry-after").parse().unwrap()),
        "{:?}",
        answer.head
    );
    assert_eq!(vendors.each_ref().map(Vendor::count), [1, 1, 1]);
}

#[test]
fn every_spelling_of_retry_after_puts_a_target_into_cooldown() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
    let spellings: [&[(&str, &str)]; 6] = [
        &[("retry-after-ms", "60000")],
        &[("x-ms-retry-after-ms", "60000")],
        &[("retry-after", "60")],
        &[("retry-after", &date)],
        &[("retry-after", "1"), ("retry-after-ms", "60000.5")],
        &[
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "1m0s"),
        ],
    ];
    let names = ["ms", "azure", "seconds", "date", "both", "reset"];
    let limited = |(name, headers): (_, &[_])| Vendor::start(name, [Script::rate_limited(headers)]);
    let mut vendors: Vec<_> = names.into_iter().zip(spellings).map(limited).collect();
    vendors.push(Vendor::well("last"));
    let gateway = Setup::new(&vendors).toml("attempts.max = 10").start();
    assert_eq!(gateway.chat(ASK).header("x-pointsman-target"), "last");
    for name in names {
        let cooldown = gateway.target(name)["cooldown_ms"].as_u64().unwrap();
        assert!((45_000..=60_001).contains(&cooldown), "{name}: {cooldown} ms");
    }
    assert_eq!(gateway.chat(ASK).header("x-pointsman-attempts"), "1");
    assert_eq!(
        vendors.iter().map(Vendor::count).collect::<Vec<_>>(),
        [1, 1, 1, 1, 1, 1, 2]
    );
}

/// A vendor whose clock is an hour off means what it says by its own clock.
#[test]
fn a_date_is_read_by_the_vendors_own_clock() {
    for hours_ahead in [-1, 1] {
        let now = time::OffsetDateTime::now_utc() + time::Duration::hours(hours_ahead);
        let date = |at: time::OffsetDateTime| httpdate::fmt_http_date(at.into());
        let (now, later) = (date(now), date(now + Duration::from_secs(60)));
        let limited = Script::rate_limited(&[("date", &now), ("retry-after", &later)]);
        let (first, second) = (Vendor::start("first", [limited]), Vendor::well("second"));
        let gateway = Setup::new([&first, &second]).start();
        assert_eq!(gateway.chat(ASK).says(), "from second");
        let cooldown = gateway.target("first")["cooldown_ms"].as_u64().unwrap();
        assert!(
            (30_000..=60_000).contains(&cooldown),
            "{hours_ahead} h ahead: {cooldown} ms"
        );
    }
}

/// No answer rests a target for longer than the operator allows, and a long rest is probed: the first time after five minutes.
#[test]
fn a_date_in_the_year_9999_rests_a_target_for_minutes() {
    let limited = Script::rate_limited(&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")]);
    let (first, second) = (Vendor::start("first", [limited]), Vendor::well("second"));
    let setup = Setup::new([&first, &second]);
    for (rules, longest) in [("", 300_000), ("breaker.max_retry_after_ms = 20000", 20_000)] {
        let gateway = setup.clone().toml(rules).start();
        assert_eq!(gateway.chat(ASK).says(), "from second");
        let cooldown = gateway.target("first")["cooldown_ms"].as_u64().unwrap();
        assert!((longest / 4..=longest).contains(&cooldown), "{rules}: {cooldown} ms");
    }
}

/// Google states its waits in the body alone, and Anthropic when its limits are full again.
#[test]
fn a_wait_that_no_common_header_states_is_kept_too() {
    let at = time::OffsetDateTime::now_utc() + Duration::from_secs(60);
    let reset = at.format(&time::format_description::well_known::Rfc3339).unwrap();
    let google = r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"59.5s"}]}}"#;
    let headers = [
        ("anthropic-ratelimit-output-tokens-remaining", "0"),
        ("anthropic-ratelimit-output-tokens-reset", &*reset),
    ];
    for (vendor, script) in [
        ("gemini", Script::status(429, &[], google)),
        ("anthropic", Script::rate_limited(&headers)),
    ] {
        let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
        let setup = Setup::new([&first, &second]).vendor("first", vendor);
        let setup = setup.target("first", "api_key = { env = \"VENDOR_KEY\" }");
        let gateway = setup.env("VENDOR_KEY", "k").start();
        assert_eq!(gateway.chat(ASK).says(), "from second");
        let cooldown = gateway.target("first")["cooldown_ms"].as_u64().unwrap();
        assert!((45_000..=60_001).contains(&cooldown), "{vendor}: {cooldown} ms");
    }
}

#[test]
fn a_rate_limit_without_a_stated_wait_is_a_short_cooldown() {
    let (first, second) = (
        Vendor::start("first", [Script::rate_limited(&[])]),
        Vendor::well("second"),
    );
    let gateway = Setup::new([&first, &second]).start();
    assert_eq!(gateway.chat(ASK).says(), "from second");
    assert!(gateway.target("first")["cooldown_ms"].as_u64().unwrap() <= 1000);
}

#[test]
fn a_503_may_state_a_wait_and_a_500_may_not() {
    let headers = [("retry-after", "60")];
    let busy = Vendor::start(
        "busy",
        [Script::status(503, &headers, &error_body("server_is_overloaded"))],
    );
    let broken = Vendor::start("broken", [Script::status(500, &headers, &error_body("server_error"))]);
    let gateway = Setup::new([&busy, &broken]).start();
    gateway.chat(ASK).assert_error(503, "server_is_overloaded");
    assert!(gateway.target("busy")["cooldown_ms"].as_u64().unwrap() > 45_000);
    assert_eq!(gateway.target("broken")["cooldown_ms"], 0);
}

#[test]
fn a_short_stated_wait_is_sat_through_when_there_is_no_other_target() {
    let limited = Script::rate_limited(&[("retry-after-ms", "200")]);
    let vendor = Vendor::start("only", [limited, Script::answer(&whole("after all"))]);
    let answer = Setup::new([&vendor]).start().chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("after all", "2")
    );
}

#[test]
fn a_reload_of_the_configuration_does_not_wipe_cooldowns() {
    let (first, second) = (
        Vendor::start("first", [Script::rate_limited(&[("retry-after", "60")])]),
        Vendor::well("second"),
    );
    let setup = Setup::new([&first, &second]);
    let mut gateway = setup.clone().start();
    assert_eq!(gateway.chat(ASK).says(), "from second");
    gateway.configure(
        setup
            .target("first", "attributes = { changed = true }")
            .toml("attempts.max = 2"),
    );
    eventually("the reload", || {
        (gateway.metric("pointsman_config_reloads", "live") > 0.0).then_some(())
    });
    assert!(gateway.target("first")["cooldown_ms"].as_u64().unwrap() > 40_000);
    assert_eq!(gateway.chat(ASK).header("x-pointsman-attempts"), "1");
}

#[test]
fn the_clients_mistake_comes_back_as_it_is_and_goes_to_nobody_else() {
    for (status, body) in [
        (
            400,
            r#"{ "error": {"message":"bad temperature","type":"invalid_request_error","param":"temperature","code":null}, "n": 1.0 }"#,
        ),
        (422, r#"{"detail":[{"loc":["body"],"msg":"no"}]}"#),
        (
            400,
            r#"{"error":{"message":"filtered","type":null,"param":"prompt","code":"content_filter"}}"#,
        ),
        (
            413,
            r#"{"error":{"message":"too many images","type":"invalid_request_error","param":null,"code":null}}"#,
        ),
    ] {
        let (first, second) = (
            Vendor::start("first", [Script::status(status, &[], body)]),
            Vendor::well("second"),
        );
        let gateway = Setup::new([&first, &second]).start();
        for ask in [ASK, ASK_STREAM] {
            let answer = gateway.chat(ask);
            assert_eq!((answer.status, answer.text()), (status, body));
            assert_eq!(
                (
                    answer.header("x-pointsman-target"),
                    answer.header("x-pointsman-attempts")
                ),
                ("first", "1")
            );
            answer.assert_has_ids();
        }
        assert_eq!(second.count(), 0);
        assert_eq!(gateway.target("first")["error_rate"], 0.0);
    }
}

#[test]
fn a_credential_that_is_refused_is_not_the_clients_fault() {
    let refused = Script::status(401, &[], &error_body("invalid_api_key"));
    let (first, second) = (Vendor::start("first", [refused]), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    assert_eq!(gateway.chat(ASK).says(), "from second");
    // It rests: only the operator can help.
    let told = gateway.target("first");
    assert_eq!(told["breaker"], "open");
    assert!(told["cooldown_ms"].as_u64().unwrap() > 60_000, "{told}");
    assert_eq!(gateway.chat(ASK).header("x-pointsman-attempts"), "1");

    let gateway = Setup::new([&first]).start();
    gateway.chat(ASK).assert_error(502, "vendor_credentials");
}

#[test]
fn an_account_without_money_is_out_for_long() {
    for (status, code) in [
        (429, "insufficient_quota"),
        (402, "payment_required"),
        (403, "forbidden"),
    ] {
        let (first, second) = (
            Vendor::start("first", [Script::status(status, &[], &error_body(code))]),
            Vendor::well("second"),
        );
        let gateway = Setup::new([&first, &second]).start();
        assert_eq!(gateway.chat(ASK).says(), "from second", "{status}");
        assert!(
            gateway.target("first")["cooldown_ms"].as_u64().unwrap() > 60_000,
            "{status}"
        );
    }
}

#[test]
fn a_model_that_the_vendor_does_not_have_is_the_operators_mistake() {
    let missing = Script::status(404, &[], &error_body("model_not_found"));
    let (first, second) = (Vendor::start("first", [missing]), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    assert_eq!(gateway.chat(ASK).says(), "from second");
    assert_eq!(gateway.target("first")["breaker"], "closed");
}

#[test]
fn what_is_too_long_goes_only_to_a_larger_window() {
    let too_long = Script::status(400, &[], &error_body("context_length_exceeded"));
    let small = Vendor::start("small", [too_long.clone()]);
    let (smaller, larger) = (Vendor::well("smaller"), Vendor::well("larger"));
    let setup = Setup::new([&small, &smaller, &larger]).target("small", "context_window = 8000");
    let setup = setup
        .target("smaller", "context_window = 4000")
        .target("larger", "context_window = 128000");
    let gateway = setup.start();
    assert_eq!(gateway.chat(ASK).says(), "from larger");
    assert_eq!(smaller.count(), 0);
    assert_eq!(gateway.target("small")["error_rate"], 0.0);
}

#[test]
fn what_is_too_long_for_all_comes_back_as_the_vendor_said_it() {
    let words = r#"{"error":{"message":"This model's maximum context length is 8000 tokens.","type":"invalid_request_error","param":"messages","code":400}}"#;
    let small = Vendor::start("small", [Script::status(400, &[], words)]);
    let unknown = Vendor::well("unknown");
    let gateway = Setup::new([&small, &unknown])
        .target("small", "context_window = 8000")
        .start();
    let answer = gateway.chat(ASK);
    assert_eq!((answer.status, answer.text()), (400, words));
    assert_eq!(unknown.count(), 0);
}

#[test]
fn a_target_that_keeps_failing_is_left_alone_and_probed_by_one_request() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second])
        .toml("breaker.open_ms = 1500\nbreaker.max_open_ms = 60000")
        .start();
    for _ in 0..5 {
        assert_eq!(gateway.target("first")["breaker"], "closed");
        assert_eq!(gateway.chat(ASK).header("x-pointsman-attempts"), "2");
    }
    assert_eq!(gateway.target("first")["breaker"], "open");
    assert_eq!(gateway.chat(ASK).header("x-pointsman-attempts"), "1");
    assert_eq!(first.count(), 5);

    // Half-open, it gets a single request; the others go elsewhere while that one is under way.
    eventually("the breaker to be half open", || {
        (gateway.target("first")["breaker"] == "half-open").then_some(())
    });
    let gate = Gate::default();
    first.follow(
        Script::Steps(vec![])
            .until(&gate)
            .then(Script::answer(&whole("well again"))),
    );
    let mut probe = gateway.connect();
    probe.request(CHAT, &[], ASK.as_bytes());
    first.wait_for(6);
    for _ in 0..3 {
        assert_eq!(gateway.chat(ASK).says(), "from second");
    }
    assert_eq!(first.count(), 6);
    gate.open();
    assert_eq!(probe.answer().says(), "well again");
    assert_eq!(gateway.target("first")["breaker"], "closed");
    assert_eq!(gateway.chat(ASK).says(), "well again");
}

#[test]
fn a_probe_that_fails_opens_the_breaker_for_twice_as_long() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    let second = Vendor::well("second");
    let setup = Setup::new([&first, &second])
        .toml("breaker.open_ms = 700\nbreaker.min_attempts = 1\nbreaker.max_open_ms = 60000");
    let gateway = setup.start();
    gateway.chat(ASK);
    assert!(gateway.target("first")["cooldown_ms"].as_u64().unwrap() <= 770);
    eventually("the breaker to be half open", || {
        (gateway.target("first")["breaker"] == "half-open").then_some(())
    });
    assert_eq!(gateway.chat(ASK).header("x-pointsman-attempts"), "2");
    let told = gateway.target("first");
    assert_eq!(told["breaker"], "open");
    assert!((800..=1540).contains(&told["cooldown_ms"].as_u64().unwrap()), "{told}");
}

#[test]
fn a_breaker_that_is_switched_off_never_opens() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    let gateway = Setup::new([&first]).toml("breaker.enabled = false").start();
    for _ in 0..10 {
        gateway.chat(ASK);
    }
    assert_eq!(first.count(), 10);
}

#[test]
fn targets_tell_how_they_are() {
    let headers =
        "x-ratelimit-limit-requests: 100\r\nx-ratelimit-remaining-requests: 25\r\nx-ratelimit-reset-requests: 1m0s\r\n";
    let body = whole("fine");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let slow = Script::Steps(vec![]).send(&answer).after(Duration::from_millis(30));
    let vendor = Vendor::start("vendor", [slow, Script::begin([ROLE, &text("hi")]).hold()]);
    let gateway = Setup::new([&vendor]).start();
    gateway.chat(ASK);
    let told = gateway.target("vendor");
    assert_eq!(
        (&told["vendor"], &told["model"]),
        (&"openai-compatible".into(), &"vendor-model".into())
    );
    assert_eq!(
        (&told["breaker"], &told["error_rate"], &told["in_flight"]),
        (&"closed".into(), &0.0.into(), &0.into())
    );
    assert!(told["first_token_p50_ms"].as_u64().unwrap() >= 25, "{told}");
    assert_eq!(told["headroom"], 0.25);

    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("hi");
    assert_eq!(gateway.target("vendor")["in_flight"], 1);
}
