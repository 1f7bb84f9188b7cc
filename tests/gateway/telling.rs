//! What the gateway tells: response headers, one log line a request, metrics, and the names of its models.

use std::time::Duration;

use super::running::{ASK, ASK_STREAM};
use super::script::{DONE, ROLE, STOP, Script, error_body, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

#[test]
fn answers_say_who_answered_after_how_many_attempts_and_at_what_cost() {
    let (first, second) = (Vendor::gone("first"), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    for ask in [ASK, ASK_STREAM] {
        let answer = gateway.chat(ask);
        assert_eq!(
            (
                answer.header("x-pointsman-target"),
                answer.header("x-pointsman-attempts")
            ),
            ("second", "2")
        );
        assert!(answer.header("x-pointsman-overhead-us").parse::<u64>().unwrap() < 1_000_000);
        answer.assert_has_ids();
    }
}

/// What a vendor takes, what a wait takes and what a slow client takes is not the gateway's.
#[test]
fn the_overhead_is_the_gateways_own_time() {
    let limited = Script::rate_limited(&[("retry-after-ms", "500")]);
    let slow = Script::answer(&whole("slow")).after(Duration::from_millis(500));
    let vendor = Vendor::start("vendor", [limited, slow]);
    let gateway = Setup::new([&vendor]).start();
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("slow", "2")
    );
    let overhead: u64 = answer.header("x-pointsman-overhead-us").parse().unwrap();
    assert!(overhead < 400_000, "{overhead}");
}

#[test]
fn errors_say_it_too() {
    let first = Vendor::gone("first");
    let gateway = Setup::new([&first]).start();
    let answer = gateway.chat(ASK);
    assert_eq!(
        (
            answer.header("x-pointsman-target"),
            answer.header("x-pointsman-attempts")
        ),
        ("first", "1")
    );
    let nobody = gateway.chat("{}");
    assert_eq!(
        (
            nobody.header("x-pointsman-target"),
            nobody.header("x-pointsman-attempts")
        ),
        ("", "0")
    );
    for answer in [answer, nobody] {
        assert!(!answer.header("x-pointsman-overhead-us").is_empty());
        answer.assert_has_ids();
    }
}

#[test]
fn every_request_has_an_id_of_its_own_and_the_vendors_is_passed_on() {
    let vendor = Vendor::start("vendor", [Script::stream([ROLE, &text("hi"), STOP, DONE])]);
    let gateway = Setup::new([&vendor]).start();
    let (one, two) = (gateway.stream(ASK_STREAM), gateway.stream(ASK_STREAM));
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    assert_eq!(one.header("x-pointsman-vendor-request-id"), "req-of-the-vendor");
}

#[test]
fn a_vendors_headers_stay_with_the_gateway_unless_they_are_the_clients_business() {
    let headers = [
        ("set-cookie", "session=1"),
        ("server", "nginx"),
        ("x-ratelimit-remaining-requests", "5"),
        ("openai-version", "2020-10-01"),
    ];
    let vendor = Vendor::start("vendor", [Script::status(200, &headers, &whole("hi"))]);
    let answer = Setup::new([&vendor]).start().chat(ASK);
    assert_eq!(answer.header("openai-version"), "2020-10-01");
    for (name, _) in &headers[..3] {
        assert_eq!(answer.header(name), "", "{name}");
    }
}

#[test]
fn one_line_tells_the_story_of_a_request() {
    let first = Vendor::start("first", [Script::status(503, &[], &error_body("server_is_overloaded"))]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second]).start();
    let answer = gateway.chat(ASK);
    let line = gateway.request_line(answer.header("x-request-id"));
    for (field, value) in [
        ("model", "smart"),
        ("route", "smart"),
        ("outcome", "answered"),
        ("target", "second"),
        ("client", ""),
        ("error", ""),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!((&line["status"], &line["streaming"]), (&200.into(), &false.into()));
    assert_eq!((&line["input_tokens"], &line["output_tokens"]), (&3.into(), &2.into()));
    let attempts = line["attempts"].as_str().unwrap();
    assert!(
        attempts.starts_with("first: overloaded 503 server_is_overloaded "),
        "{attempts}"
    );
    assert!(attempts.contains("; second: ok 200 "), "{attempts}");
    assert_eq!(
        gateway.log().matches(answer.header("x-request-id")).count(),
        1,
        "one line a request"
    );
}

#[test]
fn a_vendors_words_cannot_forge_log_lines() {
    let code = r#"x\n{\"message\":\"request\",\"id\":\"forged\"}\u001b[31m"#;
    let body = format!(r#"{{"error":{{"message":"{code}","code":"{code}"}}}}"#);
    let first = Vendor::start(
        "first",
        [Script::status(500, &[], &body), Script::status(400, &[], &body)],
    );
    for format in ["json", "text"] {
        let gateway = Setup::new([&first]).log_format(format).start();
        for _ in 0..2 {
            gateway.chat(ASK);
        }
        let log = gateway.log();
        assert!(!log.contains('\u{1b}'), "{log:?}");
        assert!(
            !log.lines()
                .any(|line| line.starts_with("{\"message\":\"request\",\"id\":\"forged\"")),
            "{log}"
        );
    }
}

#[test]
fn requests_need_not_be_logged() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("log.requests = false").start();
    let id = gateway.chat(ASK).header("x-request-id").to_owned();
    assert!(!gateway.log().contains(&id));
    assert_eq!(gateway.metric("pointsman_requests_total", "answered"), 1.0);
}

#[test]
fn metrics_count_requests_attempts_and_tokens() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second]).start();
    gateway.chat(ASK);
    gateway.chat("{}");
    assert_eq!(gateway.metric("pointsman_requests_total", "answered"), 1.0);
    assert_eq!(gateway.metric("pointsman_requests_total", "refused"), 1.0);
    assert_eq!(
        gateway.metric("pointsman_attempts_total", "target=\"first\",outcome=\"server-error\""),
        1.0
    );
    assert_eq!(
        gateway.metric("pointsman_attempts_total", "target=\"second\",outcome=\"ok\""),
        1.0
    );
    assert_eq!(gateway.metric("gen_ai_client_token_usage_sum", "input"), 3.0);
    assert_eq!(gateway.metric("gen_ai_client_token_usage_sum", "output"), 2.0);
    assert_eq!(gateway.metric("pointsman_requests_in_progress", ""), 0.0);
    let metrics = gateway.admin("GET /metrics");
    assert!(metrics.text().ends_with("# EOF\n"), "{}", metrics.text());
    assert_eq!(metrics.text().matches("# EOF").count(), 1);
}

/// The test vendors' prices, in dollars for a million tokens.
const PRICES: &str = "input_price = 1\noutput_price = 10";

#[test]
fn a_whole_answer_says_what_it_cost() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).target("vendor", PRICES).start();
    let answer = gateway.chat(ASK);
    // 3 tokens at 1 and 2 at 10.
    assert_eq!(answer.header("x-pointsman-cost-usd"), "0.000023");
    assert_eq!(
        gateway.request_line(answer.header("x-request-id"))["cost_usd"],
        0.000_023
    );
    let labels = "route=\"smart\",target=\"vendor\",client=\"\"";
    assert_eq!(gateway.metric("pointsman_cost_usd_total", labels), 0.000_023);
}

#[test]
fn a_cost_that_is_not_known_is_not_told() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let answer = gateway.chat(ASK);
    assert_eq!(answer.header("x-pointsman-cost-usd"), "");
    let line = gateway.request_line(answer.header("x-request-id"));
    assert!(line.get("cost_usd").is_none(), "{line}");
    assert!(!gateway.admin("GET /metrics").text().contains("cost_usd_total{"));
}

/// A stream's tokens are counted at its end, when the headers are long gone; those of an attempt before it are paid for too.
#[test]
fn what_an_attempt_cost_is_counted_though_it_failed() {
    let counted = |input: u32, output: u32| {
        format!("data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}}}}\n\n")
    };
    let first = Vendor::start("first", [Script::stream([ROLE, &counted(1000, 0)])]);
    let second = Vendor::start(
        "second",
        [Script::stream([ROLE, &text("hi"), STOP, &counted(1000, 100), DONE])],
    );
    let setup = Setup::new([&first, &second]).target("first", PRICES);
    let gateway = setup.target("second", PRICES).start();
    let mut answer = gateway.stream(ASK_STREAM);
    assert_eq!(
        (
            answer.header("x-pointsman-target"),
            answer.header("x-pointsman-cost-usd")
        ),
        ("second", "")
    );
    let id = answer.header("x-request-id").to_owned();
    answer.rest();
    drop(answer);
    assert_eq!(gateway.request_line(&id)["cost_usd"], 0.003);
    let of = |target: &str| gateway.metric("pointsman_cost_usd_total", &format!("target=\"{target}\""));
    assert_eq!((of("first"), of("second")), (0.001, 0.002));
}

#[test]
fn the_models_are_the_names_of_the_routes() {
    let vendor = Vendor::well("vendor");
    let more = "[[route]]\nmodel = \"org/other\"\ntargets = [\"vendor\"]\n[[route]]\nmodel = \"gpt-*\"\ntargets = [\"vendor\"]";
    let gateway = Setup::new([&vendor]).after(more).start();
    let list = gateway.ask("GET /v1/models", &[], "").json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["smart", "org/other"], "a pattern is no name");
    for (path, id) in [
        ("smart", "smart"),
        ("org/other", "org/other"),
        ("org%2Fother", "org/other"),
        ("gpt-17", "gpt-17"),
    ] {
        let model = gateway.ask(&format!("GET /v1/models/{path}"), &[], "").json();
        assert_eq!((&model["id"], &model["object"]), (&id.into(), &"model".into()));
        assert!(model["created"].is_u64() && model["owned_by"].is_string());
    }
}

#[test]
fn a_route_may_be_a_pattern() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .after("[[route]]\nmodel = \"gpt-*\"\ntargets = [\"vendor\"]")
        .start();
    assert_eq!(gateway.chat(&ASK.replace("smart", "gpt-17")).says(), "from vendor");
    assert_eq!(vendor.only().body(), ASK.replace("smart", "vendor-model"));
}
