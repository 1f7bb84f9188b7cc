//! What is used where nothing is written, and that what is written is used.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::HeaderName;

use super::super::{
    Attempts, Breaker, Config, Grant, Isolation, LogFormat, OnError, Operators, Runtime, Secret, SimError, Target,
    TlsFiles, Trace,
};
use super::{REST, config, env, parse};
use crate::catalog::{self, Prices};
use crate::vendor::VENDORS;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn the_gateway() {
    let config = config("");
    assert_eq!(
        config.file.as_deref(),
        Some(std::path::absolute("pointsman.toml").unwrap().as_path())
    );
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.to_string(), "127.0.0.1:8081");
    assert_eq!(config.operators, Operators::default());
    assert_eq!(config.state, Path::new("/gateway/.pointsman"));
    assert_eq!(config.ca_file, None);
    assert!(config.keys.is_empty());
    let server = config.server;
    assert_eq!(server.workers, usize::from(thread::available_parallelism().unwrap()));
    assert_eq!((server.runtime, server.tls), (Runtime::PerCore, None));
    assert_eq!((server.max_connections, server.max_requests), (10_000, 4096));
    assert_eq!((server.max_body_bytes, server.max_head_bytes), (33_554_432, 65_536));
    assert_eq!(server.max_items, 4096);
    assert_eq!(
        (server.max_bodies_bytes, server.max_answers_bytes),
        (1_073_741_824, 1_073_741_824)
    );
    assert_eq!((server.head_timeout, server.body_timeout), (ms(10_000), ms(60_000)));
    assert_eq!((server.body_grace, server.min_body_rate), (ms(10_000), 1024));
    assert_eq!((server.http2_max_streams, server.client_share), (128, 0.5));
    assert_eq!((server.drain, server.drain_delay), (ms(30_000), ms(0)));
    assert!(server.hosts.is_empty() && server.origins.is_empty());
    assert_eq!(
        (config.log.format, config.log.level.as_str(), config.log.requests),
        (LogFormat::Text, "info", true)
    );
    assert_eq!(config.trace, None);
}

#[test]
fn operators() {
    let written = "admin = \"[::]:8081\"\nadmin_hosts = [\"ops.example\"]\nadmin_token = { env = \"TEAM_KEY\" }\n\
                   admin_open_metrics = true\n";
    let expected = Operators {
        hosts: vec!["ops.example".to_owned()],
        token: Some(Secret::new("team-secret")),
        open_metrics: true,
    };
    assert_eq!(config(written).operators, expected);
}

#[test]
fn traces() {
    const ENDPOINT: &str = "[trace]\nendpoint = \"http://127.0.0.1:4318/v1/traces\"";
    let plain = Trace {
        endpoint: "http://127.0.0.1:4318/v1/traces".parse().unwrap(),
        headers: Vec::new(),
        sample: 1.0,
        max_queued: 2048,
        timeout: ms(5000),
        propagate: false,
    };
    assert_eq!(config(ENDPOINT).trace, Some(plain.clone()));
    let written = format!(
        "{ENDPOINT}\nsample = 0.25\nmax_queued = 7\ntimeout_ms = 100\npropagate = true\n\
         headers = {{ X-Tenant = \"a\", Authorization = {{ env = \"TEAM_KEY\" }} }}"
    );
    let headers = [("x-tenant", "a"), ("authorization", "team-secret")];
    let expected = Trace {
        headers: headers
            .map(|(name, value)| (HeaderName::from_static(name), Secret::new(value)))
            .to_vec(),
        sample: 0.25,
        max_queued: 7,
        timeout: ms(100),
        propagate: true,
        ..plain
    };
    assert_eq!(config(&written).trace, Some(expected));
}

#[test]
fn the_built_in_chain() {
    let config = config("");
    let timeouts = config.timeouts;
    assert_eq!((timeouts.connect, timeouts.first_content), (ms(5000), ms(30_000)));
    assert_eq!((timeouts.between_frames, timeouts.request), (ms(60_000), ms(120_000)));
    assert_eq!(timeouts.whole, Duration::MAX);
    let attempts = Attempts {
        max: 3,
        same_target_wait: ms(2000),
        max_answer_bytes: 33_554_432,
        max_held_bytes: 262_144,
        retry_share: 0.2,
        retry_floor: 3,
        max_waiting: 1024,
        max_idle_connections: 64,
        idle_connection: ms(60_000),
        connection_age: ms(50_000),
    };
    assert_eq!(config.attempts, attempts);
    let breaker = Breaker {
        enabled: true,
        failure_share: 0.5,
        min_attempts: 5,
        window: ms(30_000),
        open: ms(15_000),
        max_open: ms(120_000),
        rest: ms(1_800_000),
        max_retry_after: ms(3_600_000),
    };
    assert_eq!(config.breaker, breaker);
    let route = &config.routes[0];
    assert_eq!(
        (route.on_error, route.hedge_share, route.max_attempts),
        (OnError::Pass, 0.05, 3)
    );
    assert!(route.policies.is_empty());
}

#[test]
fn policies() {
    let policies = config("").policies;
    assert_eq!(policies.directory, Path::new("/gateway/plugins"));
    assert!(policies.headers.is_empty());
    assert_eq!(
        (policies.poll, policies.max_file_bytes, policies.keep_versions),
        (ms(2000), 67_108_864, 5)
    );
    assert_eq!((policies.max_unused, policies.required), (16, false));
    let compile = policies.compile;
    assert_eq!(
        (compile.memory_bytes, compile.cpu, compile.wall),
        (2_147_483_648, ms(60_000), ms(60_000))
    );
    let rules = policies.defaults;
    assert!(rules.settings.is_empty() && rules.grants.is_empty());
    assert_eq!(
        (
            rules.isolation,
            rules.deadline,
            rules.deadline_written,
            rules.memory_bytes
        ),
        (Isolation::Fresh, ms(5), false, 16_777_216)
    );
    assert_eq!((rules.max_instances, rules.recycle_after), (16, 10_000));
    assert_eq!((rules.log_lines, rules.log_bytes, rules.max_picks), (16, 4096, 64));
}

#[test]
fn a_policy_starts_from_the_rules_of_all() {
    let config = config(
        "[policies]\ndeadline_ms = 7\nheaders = [\"X-Team\"]\n[policy.p]\nmemory_mib = 2\ngrants = [\"prompt\"]\n\
         isolation = \"reuse\"\n[policy.p.settings]\ntext = \"a,b\"\nnumber = 1_000\nhex = 0xff\nshare = 0.50\nflag = \
         true\n\
         list = [\"a\", 2, false]\nnone = []\ntable = { b = [1.5, { c = 1 }], a = \"x\" }\ntables = [{ a = 1 }]\n",
    );
    assert_eq!(config.policies.headers, ["x-team"]);
    let rules = config.rules("p");
    assert_eq!((rules.deadline, rules.memory_bytes), (ms(7), 2_097_152));
    assert!(rules.deadline_written, "by [policies], for all of them");
    assert_eq!(
        (rules.grants.as_slice(), rules.isolation),
        ([Grant::Prompt].as_slice(), Isolation::Reuse)
    );
    for (name, text) in [
        ("text", "a,b"),
        ("number", "1000"),
        ("hex", "255"),
        ("share", "0.50"),
        ("flag", "true"),
        ("list", "a,2,false"),
        ("none", ""),
        ("table", r#"{"a":"x","b":[1.5,{"c":1}]}"#),
        ("tables", r#"[{"a":1}]"#),
    ] {
        assert_eq!(rules.settings[name], text, "{name}");
    }
    assert_eq!(config.rules("another"), &config.policies.defaults);
}

#[test]
fn targets_and_routes() {
    let config = parse(
        r#"
        [timeouts]
        whole_ms = 300000
        [[target]]
        name = "azure/eu"
        vendor = "azure"
        model = "my-gpt"
        base_url = "https://r.openai.azure.com/openai/v1/"
        api_key = { env = "AZURE_OPENAI_API_KEY" }
        context_window = 400_000
        max_output = 64_000
        input_price = 1
        cached_input_price = 0.25
        cache_write_price = 1.5
        output_price = 2.5
        attributes = { region = "eu", zone = 2, spare = true }
        timeouts = { connect_ms = 500 }
        [[target]]
        name = "sim"
        vendor = "sim"
        model = "m"
        [target.sim]
        latency_ms = 1
        tokens_per_second = 12.5
        errors = { "429" = 0.25, cut = 0.5, hang = 0.1, reset = 0 }
        [[route]]
        model = "gpt-*"
        targets = ["sim", "azure/eu"]
        policies = ["plan-b", "cheapest"]
        on_error = "reject"
        hedge_share = 1
        max_attempts = 9
        timeouts = { request_ms = 1000, whole_ms = 60000 }
        "#,
    )
    .unwrap();
    let azure = &config.targets[0];
    assert_eq!(
        (azure.name.as_str(), azure.vendor.name, azure.model.as_str()),
        ("azure/eu", "azure", "my-gpt")
    );
    assert_eq!(azure.base_url, "https://r.openai.azure.com/openai/v1");
    assert_eq!(azure.api_keys[0].reveal(), "azure-secret");
    assert_eq!((azure.context_window, azure.max_output), (Some(400_000), Some(64_000)));
    let prices = Prices {
        input: 1.0,
        cached_input: Some(0.25),
        cache_write: Some(1.5),
        output: 2.5,
        long_prompt: None,
    };
    assert_eq!(azure.prices, Some(prices));
    let attributes = [("region", "eu"), ("zone", "2"), ("spare", "true")];
    assert_eq!(
        azure.attributes,
        attributes.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!((azure.timeouts.connect, azure.timeouts.whole), (ms(500), ms(300_000)));
    let sim = config.targets[1].sim.as_ref().unwrap();
    assert_eq!(
        (sim.latency, sim.first_token, sim.tokens_per_second, sim.tokens),
        (ms(1), ms(100), 12.5, 64)
    );
    let errors = [
        (SimError::Status(429), 0.25),
        (SimError::Cut, 0.5),
        (SimError::Hang, 0.1),
        (SimError::Reset, 0.0),
    ];
    assert_eq!(sim.errors, errors);
    let route = &config.routes[0];
    assert_eq!(
        route
            .targets
            .iter()
            .map(|target| target.name.as_str())
            .collect::<Vec<_>>(),
        ["sim", "azure/eu"]
    );
    assert_eq!(route.policies, ["plan-b", "cheapest"]);
    assert_eq!(
        (route.on_error, route.hedge_share, route.max_attempts),
        (OnError::Reject, 1.0, 9)
    );
    assert_eq!((route.timeouts.connect, route.timeouts.request), (None, Some(ms(1000))));
    let timeouts = azure.timeouts.shortened(&route.timeouts);
    assert_eq!(
        (timeouts.connect, timeouts.request, timeouts.whole),
        (ms(500), ms(1000), ms(60_000))
    );
}

/// A target with these lines beside its vendor and model.
fn target(lines: &str) -> Arc<Target> {
    let text = format!("[[target]]\nname = \"t\"\n{lines}\n");
    config(&text).targets[0].clone()
}

const GPT: &str = "vendor = \"openai\"\nmodel = \"gpt-5.4-2026-03-05\"\napi_key = { env = \"OPENAI_API_KEY\" }";

#[test]
fn a_target_that_says_nothing_has_what_the_catalog_knows() {
    let known = *catalog::lookup("openai", "gpt-5.4").unwrap();
    let gpt = target(GPT);
    assert_eq!(
        (gpt.context_window, gpt.max_output, gpt.prices),
        (Some(known.context_window), known.max_output, Some(known.prices))
    );
    let unknown = target("vendor = \"vllm\"\nmodel = \"gpt-5.4\"");
    assert_eq!(
        (unknown.context_window, unknown.max_output, unknown.prices),
        (None, None, None)
    );
    let groq = target(
        "vendor = \"openai-compatible\"\nmodel = \"llama-3.3-70b-versatile\"\nbase_url = \"https://api.groq.com/openai/v1\"",
    );
    assert_eq!(groq.prices.map(|prices| prices.input), Some(0.59));
}

#[test]
fn what_a_target_says_goes_before_the_catalog() {
    let known = *catalog::lookup("openai", "gpt-5.4").unwrap();
    let gpt = target(&format!("{GPT}\ncontext_window = 8000\ninput_price = 2"));
    assert_eq!((gpt.context_window, gpt.max_output), (Some(8000), known.max_output));
    let prices = Prices {
        input: 2.0,
        long_prompt: None,
        ..known.prices
    };
    assert_eq!(gpt.prices, Some(prices));
    assert!(known.prices.long_prompt.is_some());
    assert_eq!(gpt.prices_of("gpt-5.4-2026-03-05"), Some(prices));
    let other = catalog::lookup("openai", "gpt-5.4-mini").map(|known| known.prices);
    assert_eq!((gpt.prices_of("gpt-5.4-mini"), gpt.prices_of("gpt-0")), (other, None));
}

#[test]
fn every_path_begins_at_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let pem = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), pem.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), pem.signing_key.serialize_pem()).unwrap();
    let text = "state = \"/var/lib/pointsman\"\nca_file = \"cert.pem\"\n\
                [server]\ntls = { certificate = \"cert.pem\", key = \"key.pem\" }\n[policies]\ndirectory = \
                \"../wasm\"\n";
    let path = folder.path().join("pointsman.toml");
    std::fs::write(&path, format!("{text}{}", super::REST)).unwrap();
    let config = Config::load(&path, &env).unwrap();
    let at = |name: &str| folder.path().join(name);
    assert_eq!(config.file.as_deref(), Some(path.as_path()));
    assert_eq!(config.state, Path::new("/var/lib/pointsman"));
    assert_eq!(config.ca_file, Some(at("cert.pem")));
    assert_eq!(
        config.server.tls,
        Some(TlsFiles {
            certificate: at("cert.pem"),
            key: at("key.pem")
        })
    );
    assert_eq!(config.policies.directory, at("../wasm"));
}

#[test]
fn a_requested_model_goes_to_its_exact_route_first() {
    let route = |model: &str| format!("[[route]]\nmodel = \"{model}\"\ntargets = [\"rest\"]\n");
    let config = config(&["gpt-*", "gpt-5", "*-mini", "*"].map(route).concat());
    let model = |requested| config.route_for(requested).map(|route| route.model.as_str());
    assert_eq!(model("gpt-5"), Some("gpt-5"));
    assert_eq!(model("gpt-5-mini"), Some("gpt-*"), "the first pattern in the file");
    assert_eq!(model("o-mini"), Some("*-mini"));
    assert_eq!(model("rest"), Some("rest"));
    assert_eq!(model("anything"), Some("*"));
    assert_eq!(super::config("").route_for("anything"), None);
}

#[test]
fn without_a_file_simulated_vendors_answer() {
    let config = Config::without_file(Path::new("/gateway"), &|_| None);
    assert_eq!(config.file, None);
    assert_eq!(config.policies.directory, Path::new("/gateway/plugins"));
    assert_eq!(config.state, Path::new("/gateway/.pointsman"));
    let names: Vec<_> = config.targets.iter().map(|target| target.name.as_str()).collect();
    assert_eq!(names, ["sim-fast", "sim-steady", "sim-cheap"]);
    assert!(config.targets.iter().all(|target| target.sim.is_some()));
    assert!(
        config
            .targets
            .iter()
            .any(|target| target.sim.as_ref().unwrap().errors.is_empty()),
        "a request is answered"
    );
    let smart = config.route_for("smart").unwrap();
    assert_eq!(
        (smart.policies.as_slice(), smart.targets.len()),
        (["plan-b".to_owned()].as_slice(), 3)
    );
    let any = config.route_for("gpt-5").unwrap();
    assert_eq!((any.model.as_str(), any.targets.len()), ("*", 3));
}

#[test]
fn without_a_file_a_vendor_whose_key_is_set_goes_first() {
    let config = Config::without_file(Path::new("/gateway"), &env);
    let names: Vec<_> = config.targets.iter().map(|target| target.name.as_str()).collect();
    assert_eq!(names, ["openai", "mistral", "sim-fast", "sim-steady", "sim-cheap"]);
    let openai = &config.targets[0];
    assert_eq!(openai.base_url, "https://api.openai.com/v1");
    assert_eq!(openai.api_keys[0].reveal(), "sk-openai-secret");
    assert_eq!(config.route_for("smart").unwrap().targets[0].name, "openai");
}

#[test]
fn every_vendor_can_be_a_target() {
    for vendor in VENDORS {
        let own = if vendor.base_url.is_none() {
            "base_url = \"https://host/v1\""
        } else {
            ""
        };
        let key = vendor.key_variable.map_or(String::new(), |variable| {
            format!("api_key = {{ env = \"{variable}\" }}")
        });
        let places = [("region", "us-east-1"), ("project", "p")];
        let wanted = |(key, _): &&(&str, &str)| vendor.base_url.is_some_and(|url| url.contains(&format!("{{{key}}}")));
        let places: String = places
            .iter()
            .filter(wanted)
            .map(|(key, value)| format!("{key} = \"{value}\"\n"))
            .collect();
        let name = vendor.name;
        let text =
            format!("[[target]]\nname = \"t\"\nvendor = \"{name}\"\nmodel = \"m\"\n{own}\n{key}\n{places}{REST}");
        let any_key = |_: &str| Some("some-key".to_owned());
        let config = Config::parse(&text, Path::new("pointsman.toml"), Path::new("/gateway"), &any_key);
        let config = config.unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert_eq!(config.targets[0].vendor, vendor);
        assert!(!config.targets[0].base_url.path().ends_with("v1/"));
    }
}
