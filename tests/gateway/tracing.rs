//! Traces, as a collector gets them: a span for each request and each of its attempts, below the client's own span; and that telling
//! them never costs a request anything.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::guests::guest;
use super::heard::Format;
use super::running::{ASK, ASK_STREAM, CHAT, Gateway, eventually};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text, whole};
use super::setup::Setup;
use super::vendor::{Received, Vendor};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// One span, as the collector got it.
#[derive(Debug, Clone)]
struct Span(Value);

impl Span {
    fn field(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// An attribute as text; empty where it is not there.
    fn told(&self, name: &str) -> String {
        let attributes = self.0["attributes"].as_array().unwrap();
        let named: Vec<_> = attributes.iter().filter(|attribute| attribute["key"] == name).collect();
        assert!(named.len() <= 1, "{name} twice in {:?}", self.0);
        let value = named.first().and_then(|attribute| attribute["value"].as_object());
        let value = value.and_then(|value| value.values().next());
        value.map_or(String::new(), |value| {
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        })
    }

    #[track_caller]
    fn assert_tells(&self, expected: &[(&str, &str)]) {
        for (name, value) in expected {
            assert_eq!(self.told(name), *value, "{name} in {:#}", self.0);
        }
    }

    fn milliseconds(&self) -> u64 {
        let nanoseconds = |name| self.field(name).parse::<u64>().unwrap();
        (nanoseconds("endTimeUnixNano") - nanoseconds("startTimeUnixNano")) / 1_000_000
    }

    fn is_failed(&self) -> bool {
        self.0["status"]["code"] == 2
    }
}

/// All spans of what a collector was sent.
fn spans(received: &[Received]) -> Vec<Span> {
    let bodies = received
        .iter()
        .map(|request| serde_json::from_slice::<Value>(&request.body).unwrap());
    let spans = bodies.flat_map(|body| {
        body["resourceSpans"][0]["scopeSpans"][0]["spans"]
            .as_array()
            .unwrap()
            .clone()
    });
    spans.map(Span).collect()
}

/// A collector that takes everything.
fn collector() -> Vendor {
    Vendor::start("collector", [Script::answer("{}")])
}

/// Traces go to this collector.
fn told(setup: Setup, collector: &Vendor) -> Setup {
    setup.toml(&format!("trace.endpoint = \"http://{}/v1/traces\"", collector.address))
}

/// The spans of the requests so far: that of the request behind its attempts, for each.
fn wait_for(collector: &Vendor, count: usize) -> Vec<Span> {
    let spans = eventually("spans", || {
        Some(spans(&collector.received())).filter(|spans| spans.len() >= count)
    });
    assert_eq!(spans.len(), count, "{spans:#?}");
    spans
}

/// Nothing more comes: all that is left is told at the end.
fn told_until_the_end(mut gateway: Gateway, collector: &Vendor) -> Vec<Span> {
    gateway.terminate();
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    spans(&collector.received())
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

#[test]
fn a_fallback_is_a_request_with_two_attempts_below_it() {
    let collector = collector();
    let first = Vendor::start("first", [Script::status(503, &[], &error_body("server_is_overloaded"))]);
    let second = Vendor::well("second");
    let setup = told(Setup::new([&first, &second]), &collector);
    let gateway = setup.target("second", "input_price = 1\noutput_price = 10").start();
    let answer = gateway.chat(ASK);
    let spans = wait_for(&collector, 3);
    let [failed, answered, request] = spans.as_slice() else {
        panic!("{spans:#?}")
    };

    let delivery = collector.only();
    assert_eq!(delivery.head.line, "POST /v1/traces HTTP/1.1");
    assert_eq!(delivery.head.header("content-type"), Some("application/json"));
    assert_eq!(
        delivery.head.header("host"),
        Some(collector.address.to_string().as_str())
    );

    let trace = request.field("traceId");
    assert_eq!((trace.len(), request.field("parentSpanId")), (32, ""));
    assert_eq!((request.field("name"), &request.0["kind"]), ("chat smart", &2.into()));
    assert!(!request.is_failed());
    request.assert_tells(&[
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "smart"),
        ("gen_ai.provider.name", "openai-compatible"),
        ("gen_ai.usage.input_tokens", "3"),
        ("gen_ai.usage.output_tokens", "2"),
        ("http.request.method", "POST"),
        ("url.path", "/v1/chat/completions"),
        ("http.response.status_code", "200"),
        ("error.type", ""),
        ("pointsman.request_id", answer.header("x-request-id")),
        ("pointsman.route", "smart"),
        ("pointsman.outcome", "answered"),
        ("pointsman.target", "second"),
        ("pointsman.attempts", "2"),
        ("pointsman.overhead_us", answer.header("x-pointsman-overhead-us")),
        ("pointsman.cost_usd", "0.000023"),
    ]);
    for attempt in [failed, answered] {
        assert_eq!(attempt.field("traceId"), trace);
        assert_eq!(attempt.field("parentSpanId"), request.field("spanId"));
        assert_eq!(attempt.0["kind"], 3);
        assert_eq!(attempt.told("server.address"), "127.0.0.1");
        assert!(attempt.field("startTimeUnixNano") >= request.field("startTimeUnixNano"));
        assert!(attempt.field("endTimeUnixNano") <= request.field("endTimeUnixNano"));
    }
    assert_eq!(failed.field("name"), "chat first-model");
    assert!(failed.is_failed());
    failed.assert_tells(&[
        ("gen_ai.provider.name", "openai-compatible"),
        ("gen_ai.request.model", "first-model"),
        ("http.response.status_code", "503"),
        ("server.port", &first.address.port().to_string()),
        ("error.type", "overloaded"),
        ("pointsman.target", "first"),
        ("pointsman.outcome", "overloaded"),
        ("pointsman.code", "server_is_overloaded"),
        ("pointsman.attempt", "1"),
        ("pointsman.answers", ""),
    ]);
    assert!(!answered.is_failed());
    answered.assert_tells(&[
        ("gen_ai.request.model", "second-model"),
        ("gen_ai.usage.input_tokens", "3"),
        ("http.response.status_code", "200"),
        ("error.type", ""),
        ("pointsman.outcome", "ok"),
        ("pointsman.attempt", "2"),
        ("pointsman.answers", "true"),
        ("pointsman.cost_usd", "0.000023"),
    ]);
    let ids: HashSet<_> = spans.iter().map(|span| span.field("spanId")).collect();
    assert_eq!(ids.len(), 3);
    assert!(failed.field("endTimeUnixNano") <= answered.field("startTimeUnixNano"));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let end: u64 = request.field("endTimeUnixNano").parse().unwrap();
    assert!(
        (1..60_000_000_000).contains(&(now - end)),
        "{end} is not just before {now}"
    );
    let line = gateway.request_line(answer.header("x-request-id"));
    assert_eq!(line["trace_id"], trace, "the log says where to look");
}

#[test]
fn a_clients_trace_goes_on() {
    let (collector, vendor) = (collector(), Vendor::well("vendor"));
    let setup = told(Setup::new([&vendor]), &collector).toml("trace.sample = 0");
    let gateway = setup.start();
    let (sampled, not) = (parent("01"), parent("00"));
    let state = ("tracestate", "other=1");
    gateway.ask(CHAT, &[("traceparent", &sampled), state], ASK);
    gateway.ask(CHAT, &[("traceparent", &not), state], ASK);
    gateway.chat(ASK);
    assert_eq!(vendor.count(), 3);
    for request in vendor.received() {
        let told = (request.head.header("traceparent"), request.head.header("tracestate"));
        assert_eq!(told, (None, None), "vendors are third parties");
    }
    assert_eq!(gateway.metric("pointsman_trace_dropped", ""), 0.0);
    let spans = told_until_the_end(gateway, &collector);
    let [attempt, request] = spans.as_slice() else {
        panic!("one of three is sampled: {spans:#?}")
    };
    assert_eq!(request.field("traceId"), TRACE);
    assert_eq!(request.field("parentSpanId"), SPAN);
    assert_eq!(request.field("traceState"), "other=1");
    assert_eq!(attempt.field("traceId"), TRACE);
    assert_eq!(attempt.field("parentSpanId"), request.field("spanId"));
}

#[test]
fn a_parent_that_is_none_is_no_parent() {
    let (collector, vendor) = (collector(), Vendor::well("vendor"));
    let gateway = told(Setup::new([&vendor]), &collector).start();
    for nonsense in [&format!("00-{TRACE}-{SPAN}"), "", "00-0-0-01"] {
        let answer = gateway.ask(CHAT, &[("traceparent", nonsense)], ASK);
        assert_eq!(answer.says(), "from vendor");
    }
    let spans = wait_for(&collector, 6);
    assert!(spans.iter().all(|span| span.field("traceId") != TRACE));
}

#[test]
fn vendors_are_told_where_the_operator_wants_it() {
    let (collector, vendor) = (collector(), Vendor::well("vendor"));
    let gateway = told(Setup::new([&vendor]), &collector)
        .toml("trace.propagate = true\ntrace.sample = 0")
        .start();
    gateway.ask(CHAT, &[("traceparent", &parent("01")), ("tracestate", "other=1")], ASK);
    gateway.ask(CHAT, &[("traceparent", &parent("00"))], ASK);
    let spans = told_until_the_end(gateway, &collector);
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let received = vendor.received();
    let expected = format!("00-{TRACE}-{}-01", spans[0].field("spanId"));
    let header = |index: usize, name| received[index].head.header(name);
    assert_eq!(header(0, "traceparent"), Some(expected.as_str()));
    assert_eq!(header(0, "tracestate"), Some("other=1"));
    let unrecorded = header(1, "traceparent").unwrap();
    assert!(unrecorded.starts_with(&format!("00-{TRACE}-")) && unrecorded.ends_with("-00"));
    assert!(!unrecorded.contains(SPAN), "its parent is the attempt, not the client");
}

#[test]
fn a_stream_lasts_until_its_end() {
    let (collector, gate) = (collector(), Gate::default());
    let script = Script::begin([ROLE, &text("hi")]).until(&gate).pause(200);
    let script = script.frames([STOP, DONE]).end();
    let vendor = Vendor::start("vendor", [script]);
    let gateway = told(Setup::new([&vendor]), &collector).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("hi");
    gate.open();
    stream.rest();
    drop(stream);
    let spans = wait_for(&collector, 2);
    for span in &spans {
        assert!(span.milliseconds() >= 200, "{span:?}");
        assert_eq!(span.told("gen_ai.request.stream"), "true");
    }
    let first: f64 = spans[0].told("gen_ai.response.time_to_first_chunk").parse().unwrap();
    assert!(first < spans[0].milliseconds() as f64 / 1000.0 - 0.1, "{first}");
}

#[test]
fn a_client_that_goes_away_is_nobodys_failure() {
    let collector = collector();
    let vendor = Vendor::start("vendor", [Script::begin([ROLE, &text("hi")]).hold()]);
    let gateway = told(Setup::new([&vendor]), &collector).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("hi");
    drop(stream);
    let spans = wait_for(&collector, 2);
    assert!(
        spans
            .iter()
            .all(|span| !span.is_failed() && span.told("error.type").is_empty())
    );
    assert_eq!(spans[0].told("pointsman.outcome"), "abandoned");
    assert_eq!(spans[1].told("pointsman.outcome"), "client-gone");
}

#[test]
fn an_answer_that_another_target_went_on_with_shows_both() {
    let (collector, gate) = (collector(), Gate::default());
    let broken = Script::begin([ROLE, &text("Once upon ")]).until(&gate).reset();
    let first = Vendor::start("first", [broken]);
    let second = Vendor::start("second", [Script::stream([ROLE, &text("a time"), STOP, DONE])]);
    let setup = told(Setup::new([&first, &second]), &collector)
        .plugin("picker", guest("picker"))
        .route("policies = [\"picker\"]\ncontinuation = true")
        .toml("policy.picker.settings = { picks = \"first\", when_started = \"second\" }");
    let gateway = setup.start();
    let mut stream = gateway.stream(ASK_STREAM);
    let begun = stream.read_until("Once upon ");
    gate.open();
    let heard = Format::Chat.hear(&(begun + &stream.rest()));
    assert!(heard.is_all("Once upon a time"), "{heard:?}");
    drop(stream);
    let spans = wait_for(&collector, 3);
    spans[0].assert_tells(&[
        ("pointsman.outcome", "cut-off"),
        ("error.type", "cut-off"),
        ("pointsman.continues", ""),
    ]);
    spans[1].assert_tells(&[
        ("pointsman.outcome", "ok"),
        ("pointsman.continues", "true"),
        ("pointsman.answers", "true"),
    ]);
    assert!(spans[0].is_failed() && !spans[1].is_failed() && !spans[2].is_failed());
    assert!(spans[2].told("pointsman.policy").starts_with("picker@"));
    spans[2].assert_tells(&[
        ("pointsman.outcome", "answered"),
        ("pointsman.continued", "true"),
        ("pointsman.reason", "as told"),
        ("pointsman.target", "second"),
    ]);
}

#[test]
fn an_answer_that_broke_off_is_a_failure() {
    let (collector, gate) = (collector(), Gate::default());
    let vendor = Vendor::start("vendor", [Script::begin([ROLE, &text("hi")]).until(&gate).reset()]);
    let gateway = told(Setup::new([&vendor]), &collector).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("hi");
    gate.open();
    stream.rest();
    drop(stream);
    for span in wait_for(&collector, 2) {
        assert!(span.is_failed());
        assert_eq!(span.told("error.type"), "cut-off");
    }
}

#[test]
fn a_hedge_and_the_attempt_that_lost_are_both_there() {
    let collector = collector();
    let (first, second) = (Vendor::start("first", [Script::silence()]), Vendor::well("second"));
    let setup = told(Setup::new([&first, &second]), &collector)
        .plugin("picker", guest("picker"))
        .route("policies = [\"picker\"]\nhedge_share = 1.0")
        .toml("policy.picker.settings = { picks = [\"first\", \"second\"], hedge_after_ms = 100, model = \"finer\" }");
    let gateway = setup.start();
    assert_eq!(gateway.chat(ASK).says(), "from second");
    let spans = wait_for(&collector, 3);
    spans[0].assert_tells(&[
        ("pointsman.outcome", "abandoned"),
        ("pointsman.lost", "true"),
        ("pointsman.hedge", ""),
        ("gen_ai.request.model", "finer"),
    ]);
    spans[1].assert_tells(&[
        ("pointsman.outcome", "ok"),
        ("pointsman.lost", ""),
        ("pointsman.hedge", "true"),
        ("gen_ai.request.model", "second-model"),
    ]);
    let (start, end) = (spans[1].field("startTimeUnixNano"), spans[0].field("endTimeUnixNano"));
    assert!(start < end, "they ran beside each other");
    assert!(spans[0].milliseconds() >= 100);
}

#[test]
fn what_is_refused_is_told_too() {
    let (collector, vendor) = (collector(), Vendor::gone("vendor"));
    let gateway = told(Setup::new([&vendor]), &collector).start();
    assert_eq!(gateway.chat(ASK).status, 503);
    gateway.chat(&ASK.replace("smart", "unheard-of"));
    gateway.ask("POST /nowhere?key=hush", &[], "{}");
    let spans = wait_for(&collector, 4);
    assert_eq!((spans[1].field("name"), spans[1].is_failed()), ("chat smart", true));
    spans[1].assert_tells(&[
        ("error.type", "connect"),
        ("http.response.status_code", "503"),
        ("pointsman.outcome", "refused"),
    ]);
    assert_eq!((spans[2].field("name"), spans[2].is_failed()), ("chat", false));
    spans[2].assert_tells(&[("error.type", "404"), ("gen_ai.request.model", "unheard-of")]);
    assert_eq!((spans[3].field("name"), spans[3].is_failed()), ("POST", false));
    spans[3].assert_tells(&[("error.type", "404"), ("url.path", "/nowhere")]);
}

/// Whatever a vendor says of keys and prompts, a collector is not told.
#[test]
fn neither_prompts_nor_keys_are_told() {
    const KEYS: [&str; 3] = [
        "sk-vendor-0123456789",
        "team-key-0123456789",
        "collector-key-0123456789",
    ];
    let collector = collector();
    let body = format!(
        r#"{{"error":{{"message":"{0} cannot pay for `the secret plan`","code":"no_{0}","type":"{0}"}}}}"#,
        KEYS[0]
    );
    let first = Vendor::start("first", [Script::status(401, &[], &body)]);
    let second = Vendor::start("second", [Script::answer(&whole("the secret answer"))]);
    let api_key = "api_key = { env = \"VENDOR_KEY\" }";
    let setup = told(Setup::new([&first, &second]), &collector)
        .target("first", api_key)
        .target("second", api_key)
        .toml("trace.headers = { authorization = { env = \"COLLECTOR_KEY\" }, x-tenant = \"a\" }")
        .after("[[key]]\nname = \"team\"\nsecret = { env = \"TEAM\" }\n");
    let gateway = setup
        .env("VENDOR_KEY", KEYS[0])
        .env("TEAM", KEYS[1])
        .env("COLLECTOR_KEY", KEYS[2])
        .start();
    let authorization = format!("Bearer {}", KEYS[1]);
    let ask = ASK.replace("hello", "the secret plan");
    gateway.ask(CHAT, &[("authorization", &authorization)], &ask);
    let line = format!("POST /v1/chat/completions?key={}", KEYS[1]);
    gateway.ask(&line, &[], &ask);
    gateway.ask(CHAT, &[("authorization", "Bearer not-a-key-0123456789")], &ask);
    let told = wait_for(&collector, 6);
    for request in collector.received() {
        assert_eq!(request.head.header("authorization"), Some(KEYS[2]));
        assert_eq!(request.head.header("x-tenant"), Some("a"));
        let body = request.body();
        for secret in KEYS.into_iter().chain(["not-a-key", "the secret", "cannot pay"]) {
            assert!(!body.contains(secret), "{secret} in {body}");
        }
    }
    let request = told
        .iter()
        .find(|span| span.told("pointsman.client") == "team")
        .unwrap();
    assert_eq!(request.told("pointsman.attempts"), "2");
    let failed = told
        .iter()
        .find(|span| span.told("error.type") == "unauthorized")
        .unwrap();
    assert_eq!(failed.told("pointsman.code"), "no_[key]");
    assert!(!gateway.log().contains(KEYS[2]));
}

#[test]
fn a_collector_that_is_away_costs_no_request_anything() {
    let (collector, vendor) = (Vendor::gone("collector"), Vendor::well("vendor"));
    let gateway = told(Setup::new([&vendor]), &collector).start();
    for _ in 0..10 {
        assert_eq!(gateway.chat(ASK).says(), "from vendor");
    }
    eventually("the drops to be counted", || {
        (gateway.metric("pointsman_trace_dropped_total", "") == 10.0).then_some(())
    });
    let warnings = gateway.log().matches("traces cannot be delivered").count();
    assert_eq!(warnings, 1, "it is said once");
}

#[test]
fn a_collector_that_hangs_costs_no_request_anything() {
    let collector = Vendor::start("collector", [Script::silence()]);
    let vendor = Vendor::well("vendor");
    let mut gateway = told(Setup::new([&vendor]), &collector)
        .toml("trace.max_queued = 2")
        .start();
    gateway.chat(ASK);
    collector.wait_for(1);
    let begin = Instant::now();
    for _ in 0..10 {
        assert_eq!(gateway.chat(ASK).says(), "from vendor");
    }
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert_eq!(
        gateway.metric("pointsman_trace_dropped_total", ""),
        8.0,
        "two of ten wait"
    );
    let begin = Instant::now();
    gateway.terminate();
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[test]
fn what_a_collector_refuses_is_dropped_and_what_it_rejects_is_said() {
    let (refused, taken) = (Script::status(500, &[], ""), Script::answer("{}"));
    let rejected = Script::answer(r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"no room"}}"#);
    let collector = Vendor::start("collector", [refused, rejected, taken]);
    let vendor = Vendor::well("vendor");
    let gateway = told(Setup::new([&vendor]), &collector).start();
    for (count, said) in [(1, "traces cannot be delivered"), (2, "the collector rejected spans")] {
        gateway.chat(ASK);
        collector.wait_for(count);
        eventually(said, || gateway.log().contains(said).then_some(()));
    }
    assert!(gateway.log().contains("traces are delivered again"));
    assert_eq!(gateway.metric("pointsman_trace_dropped_total", ""), 1.0);
    assert_eq!(
        collector.connections(),
        2,
        "one connection is enough, but a server error ends it"
    );
}

#[test]
fn a_changed_configuration_changes_who_is_told() {
    let (one, two, vendor) = (collector(), collector(), Vendor::well("vendor"));
    let setup = Setup::new([&vendor]);
    let mut gateway = setup.clone().start();
    gateway.chat(ASK);
    for collector in [&one, &two] {
        let reloads = gateway.metric("pointsman_config_reloads_total", "live");
        gateway.configure(told(setup.clone(), collector));
        eventually("the change to be live", || {
            (gateway.metric("pointsman_config_reloads_total", "live") > reloads).then_some(())
        });
        gateway.chat(ASK);
    }
    let reloads = gateway.metric("pointsman_config_reloads_total", "live");
    gateway.configure(setup);
    eventually("the change to be live", || {
        (gateway.metric("pointsman_config_reloads_total", "live") > reloads).then_some(())
    });
    gateway.chat(ASK);
    wait_for(&one, 2);
    wait_for(&two, 2);
    assert_eq!(told_until_the_end(gateway, &two).len(), 2);
}

#[test]
fn many_requests_are_told_in_few_deliveries() {
    let (collector, vendor) = (collector(), Vendor::well("vendor"));
    let gateway = told(Setup::new([&vendor]), &collector).start();
    for _ in 0..50 {
        gateway.chat(ASK);
    }
    let spans = told_until_the_end(gateway, &collector);
    assert_eq!(spans.len(), 100);
    let traces: HashSet<_> = spans.iter().map(|span| span.field("traceId").to_owned()).collect();
    assert_eq!(traces.len(), 50);
    assert!(collector.count() <= 5, "{} deliveries", collector.count());
}

/// The names of OpenTelemetry's conventions for what a vendor counts, and for who the vendor is.
#[test]
fn tokens_and_vendors_have_the_names_of_the_conventions() {
    let collector = collector();
    let usage = r#""usage":{"prompt_tokens":30,"completion_tokens":20,"total_tokens":50,
        "prompt_tokens_details":{"cached_tokens":7,"cache_write_tokens":5},"completion_tokens_details":{"reasoning_tokens":11}}}"#;
    let whole = whole("hi");
    let counted = format!("{}{usage}", whole.split("\"usage\"").next().unwrap());
    let vendor = Vendor::start("vendor", [Script::answer(&counted)]);
    let setup = told(Setup::new([&vendor]), &collector)
        .vendor("vendor", "mistral")
        .target("vendor", "api_key = { env = \"MISTRAL\" }")
        .env("MISTRAL", "key-of-mistral");
    let gateway = setup.start();
    assert_eq!(gateway.chat(ASK).says(), "hi");
    for span in wait_for(&collector, 2) {
        span.assert_tells(&[
            ("gen_ai.provider.name", "mistral_ai"),
            ("gen_ai.usage.input_tokens", "30"),
            ("gen_ai.usage.output_tokens", "20"),
            ("gen_ai.usage.cache_read.input_tokens", "7"),
            ("gen_ai.usage.cache_creation.input_tokens", "5"),
            ("gen_ai.usage.reasoning.output_tokens", "11"),
        ]);
    }
}
