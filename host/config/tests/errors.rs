//! Each mistake and the whole message it is answered with.

use std::fs;
use std::path::Path;

use super::super::Config;
use super::{REST, all_errors, env, errors, parse};

#[test]
fn an_error_names_file_line_fault_and_remedy() {
    let errors = parse(
        "[[target]]\nname = \"gpt\"\nvendor = \"sim\"\nmodle = \"m\"\n[[route]]\nmodel = \"*\"\ntargets = [\"gpt\"]",
    );
    assert_eq!(
        errors.unwrap_err().to_string(),
        "pointsman.toml:1: `model` is missing in [[target]]; write model = \"…\"\n\
         pointsman.toml:4: unknown key `modle` in [[target]]; did you mean `model`?"
    );
}

#[test]
fn all_errors_come_at_once_in_the_order_of_lines() {
    let text = "[[target]]\nvendor = \"nobody\"\nprice = 3\n[server]\nworkers = 0\n[[route]]\ntargets = [\"x\"]\n";
    assert_eq!(
        all_errors(text),
        [
            "1: `name` is missing in [[target]]; write name = \"…\"",
            "1: `model` is missing in [[target]]; write model = \"…\"",
            "2: unknown vendor `nobody` in [[target]]; write one of openai, azure, azure-classic, anthropic, gemini, vertex, \
             vertex-anthropic, bedrock, bedrock-anthropic, mistral, groq, together, deepseek, openrouter, vercel, ollama, \
             vllm, llamacpp, openai-compatible, sim",
            "3: unknown key `price` in [[target]]; known keys are `name`, `vendor`, `model`, `region`, `project`, `api_version`, \
             `base_url`, `api_key`, `api_keys`, `credentials`, `concurrency`, `context_window`, `max_output`, `input_price`, \
             `cached_input_price`, `cache_write_price`, `output_price`, `can`, `attributes`, `timeouts`, `sim`",
            "5: `workers` in [server] is 0; write a whole number from 1 to 1024",
            "6: `model` is missing in [[route]]; write model = \"…\"",
            "7: unknown target `x` in [[route]]; there are none",
        ]
    );
}

#[test]
fn a_model_that_leaves_its_place_in_a_path() {
    for model in ["..", "a/../b"] {
        let text = format!("[[target]]\nname = \"x\"\nvendor = \"sim\"\nmodel = \"{model}\"\n");
        let expected = format!(
            "4: `model` in [[target]] is \"{model}\", which is no model's name; write the model's name as the vendor spells it"
        );
        let errors = all_errors(&text);
        assert!(errors.contains(&expected), "{errors:?}");
    }
}

#[test]
fn unknown_keys() {
    assert_eq!(
        errors("lisen = \"127.0.0.1:1\""),
        ["1: unknown key `lisen`; did you mean `listen`?"]
    );
    assert_eq!(
        errors("[polices]\npoll_ms = 1"),
        ["1: unknown key `polices`; did you mean `policies`?"]
    );
    assert_eq!(
        errors("[log]\ncolour = true"),
        ["2: unknown key `colour` in [log]; known keys are `format`, `level`, `requests`"]
    );
    assert_eq!(
        errors("[server]\ntls = { cert = \"a\" }").last().map(String::as_str),
        Some("2: unknown key `cert` in tls of [server]; did you mean `certificate`?")
    );
    assert_eq!(
        errors("[policy.plan-b]\ndeadline = 5").first().map(String::as_str),
        Some("2: unknown key `deadline` in [policy.plan-b]; did you mean `deadline_ms`?")
    );
    assert_eq!(
        errors("[log]\nlisten = \"127.0.0.1:1\""),
        ["2: unknown key `listen` in [log]; write it above the first table"]
    );
    assert_eq!(
        errors("\"li\\nsten\" = 1"),
        ["1: unknown key `li sten`; did you mean `listen`?"]
    );
}

#[test]
fn hosts_and_origins_are_those_that_browsers_send() {
    assert_eq!(
        errors("[server]\nhosts = [\"llm.corp\", \"llm.corp:80\"]\norigins = [\"*\",\n\"app.corp\", \"http://*.*\"]"),
        [
            "2: `hosts` in [server] has \"llm.corp:80\", which is not a host name without port; write hosts = \
             [\"llm.example.com\"]",
            "4: `origins` in [server] has \"app.corp\", which is not an origin; write origins = \
             [\"https://app.example.com\"]",
            "4: `origins` in [server] has \"http://*.*\", which has more than one `*`; write origins = \
             [\"https://app.example.com\"]",
        ]
    );
}

#[test]
fn traces_need_a_place_to_go() {
    assert_eq!(
        errors("[trace]\nsample = 2\nmax_queued = 0\ntimeout = 5"),
        [
            "1: `endpoint` is missing in [trace]; write endpoint = \"http://127.0.0.1:4318/v1/traces\"",
            "2: `sample` in [trace] is 2; write a number from 0 to 1",
            "3: `max_queued` in [trace] is 0; write a whole number from 1 to 1000000",
            "4: unknown key `timeout` in [trace]; did you mean `timeout_ms`?",
        ]
    );
    for (endpoint, fault) in [
        ("collector:4318", "is not a whole address"),
        ("/v1/traces", "is not a whole address"),
        ("grpc://collector:4317", "is an address of neither http nor https"),
        ("http://me:secret@collector/v1/traces", "has a credential in it"),
        (
            "http://collector/v1/traces?key=1",
            "has more than a path behind the host",
        ),
    ] {
        assert_eq!(
            errors(&format!("[trace]\nendpoint = \"{endpoint}\"")),
            [format!(
                "2: `endpoint` in [trace] {fault}; write it like \"http://127.0.0.1:4318/v1/traces\""
            )],
            "{endpoint}"
        );
    }
}

#[test]
fn headers_of_traces() {
    const REFERENCE: &str = "write { env = \"NAME\" } or { file = \"PATH\" }";
    for (header, error) in [
        (
            "authorization = \"Bearer abc\"",
            format!("`authorization` in [trace] is written out; secrets do not belong in this file: {REFERENCE}"),
        ),
        (
            "x-api-key = 7",
            format!("`x-api-key` in [trace] is written out; secrets do not belong in this file: {REFERENCE}"),
        ),
        (
            "authorization = { env = \"UNSET\" }",
            "environment variable `UNSET` for authorization of [trace] is not set; set it to the secret alone"
                .to_owned(),
        ),
        (
            "x-tenant = {}",
            format!("`x-tenant` in [trace] must say where the secret is; {REFERENCE}"),
        ),
        (
            "x-tenant = 7",
            "`x-tenant` in [trace] is a whole number; write a text in quotes".to_owned(),
        ),
        (
            "x-tenant = \"é\"",
            "`x-tenant` in [trace] holds a character that a header cannot carry; write printable ASCII".to_owned(),
        ),
        (
            "\"x tenant\" = \"a\"",
            "`x tenant` in headers of [trace] is not the name of a header; write one such as x-tenant".to_owned(),
        ),
        (
            "Content-Type = \"a\"",
            "`Content-Type` in headers of [trace] is a header that the gateway writes itself; leave it out".to_owned(),
        ),
    ] {
        let text = format!("[trace]\nendpoint = \"https://collector/v1/traces\"\nheaders = {{ {header} }}");
        assert_eq!(errors(&text), [format!("3: {error}")], "{header}");
    }
}

#[test]
fn wrong_types() {
    assert_eq!(
        errors("listen = 8080"),
        ["1: `listen` is a whole number; write a text in quotes"]
    );
    assert_eq!(
        errors("server = 3"),
        ["1: `server` is a whole number; write [server] and its keys below"]
    );
    assert_eq!(
        errors("[timeouts]\nconnect_ms = \"5s\""),
        ["2: `connect_ms` in [timeouts] is a text; write a whole number from 1 to 600000"]
    );
    assert_eq!(
        errors("[timeouts]\nconnect_ms = 0.5"),
        ["2: `connect_ms` in [timeouts] is a number with a fraction; write a whole number from 1 to 600000"]
    );
    assert_eq!(
        errors("[log]\nrequests = \"yes\""),
        ["2: `requests` in [log] is a text; write true or false"]
    );
    assert_eq!(
        errors("[policies]\nheaders = \"x-team\""),
        ["2: `headers` in [policies] is a text; write headers = [\"…\"]"]
    );
    assert_eq!(
        errors("[policies]\nheaders = [7]"),
        ["2: `headers` in [policies] is a whole number; write a text in quotes"]
    );
    assert_eq!(
        errors("[breaker]\nfailure_share = true"),
        ["2: `failure_share` in [breaker] is true or false; write a number from 0.01 to 1"]
    );
    assert_eq!(
        errors("[policy]\nx = 1"),
        ["2: `x` is a whole number; write [policy.x] and its keys below"]
    );
    assert_eq!(
        all_errors("[target]\nname = \"a\"\n[[route]]\nmodel = \"*\"\ntargets = [\"a\"]"),
        [
            "1: `target` is a table; write [[target]] and its keys below",
            "5: unknown target `a` in [[route]]; there are none",
        ]
    );
}

#[test]
fn values_out_of_range() {
    for (text, error) in [
        (
            "[server]\nmax_body_mib = 5000",
            "2: `max_body_mib` in [server] is 5000; write a whole number from 1 to 1024",
        ),
        (
            "[server]\nmax_requests = -1",
            "2: `max_requests` in [server] is -1; write a whole number from 1 to 1000000",
        ),
        (
            "[server]\nworkers = 0x800",
            "2: `workers` in [server] is 0x800; write a whole number from 1 to 1024",
        ),
        (
            "[breaker]\nfailure_share = 1.5",
            "2: `failure_share` in [breaker] is 1.5; write a number from 0.01 to 1",
        ),
        (
            "[breaker]\nfailure_share = nan",
            "2: `failure_share` in [breaker] is nan; write a number from 0.01 to 1",
        ),
        (
            "[breaker]\nopen_ms = 9000\nmax_open_ms = 8000",
            "3: `max_open_ms` in [breaker] is 8000, less than open_ms; write at least 9000, or a shorter open_ms",
        ),
        (
            "[breaker]\nopen_ms = 900000",
            "2: `max_open_ms` in [breaker] is 120000, less than open_ms; write at least 900000, or a shorter open_ms",
        ),
        (
            "[server]\nruntime = \"fast\"",
            "2: `runtime` in [server] is \"fast\"; write \"per-core\" or \"shared\"",
        ),
        (
            "[log]\nformat = \"xml\"",
            "2: `format` in [log] is \"xml\"; write \"text\" or \"json\"",
        ),
        (
            "[log]\nlevel = \"inof\"",
            "2: `level` in [log] is \"inof\"; write off, error, warn, info, debug or trace, also for one module as in \
             \"warn,pointsman=debug\"",
        ),
        (
            "listen = \"localhost\"",
            "1: `listen` is \"localhost\"; write an IP address and a port, such as \"127.0.0.1:8080\"",
        ),
        (
            "admin = \"127.0.0.1:8080\"",
            "1: `admin` is 127.0.0.1:8080, which listen takes already; write another port",
        ),
        ("state = \"\"", "1: `state` is empty; write state = \"…\""),
    ] {
        assert_eq!(errors(text), [error]);
    }
}

#[test]
fn syntax() {
    const VALUE: &str = "write a text in quotes, a number, true or false";
    for (text, error) in [
        ("listen = 127.0.0.1:1", format!("1: not TOML: invalid float; {VALUE}")),
        (
            "listen = localhost",
            format!("1: not TOML: string values must be quoted; {VALUE}"),
        ),
        (
            "[log]\nrequests = yes",
            format!("2: not TOML: string values must be quoted; {VALUE}"),
        ),
        ("listen \"a\"", "1: not TOML: key with no value; write `=`".to_owned()),
        (
            "[log\nlevel = \"info\"",
            "1: not TOML: unclosed table; write `]`".to_owned(),
        ),
        (
            "state = \"a",
            "1: not TOML: invalid basic string; end the text with the quote it began with".to_owned(),
        ),
        (
            "state = \"C:\\pointsman\"",
            "1: not TOML: missing escaped value; write every backslash twice, or the text in single quotes".to_owned(),
        ),
        (
            "[log]\nlevel = \"info\"\nlevel = \"warn\"",
            "3: `level` for the second time; write it once".to_owned(),
        ),
        ("[log]\n[log]", "2: `log` for the second time; write it once".to_owned()),
        (
            "listen.a = 1\nlisten.a.b = 1",
            "2: not TOML: cannot extend value of type integer with a dotted key; see https://toml.io".to_owned(),
        ),
    ] {
        assert!(errors(text).contains(&error), "{text}: {:?}", errors(text));
    }
}

#[test]
fn what_is_not_toml_hides_what_follows_from_it_but_nothing_else() {
    // The name of the target may be on the broken line, so neither is it missing nor is the route wrong.
    let text = "[[target]]\nname = a\nvendor = \"sim\"\nmodel = 3\n[[route]]\nmodel = \"*\"\ntargets = [\"a\"]";
    assert_eq!(
        all_errors(text),
        [
            "2: not TOML: string values must be quoted; write a text in quotes, a number, true or false",
            "4: `model` in [[target]] is a whole number; write a text in quotes",
        ]
    );
    // Without its bracket the array swallows all that follows.
    assert_eq!(errors("[policies]\nheaders = [\"a\",").len(), 1);
}

/// The errors of a target that is fine but for some `lines`; the first of them is line 5.
fn target_errors(lines: &str) -> Vec<String> {
    errors(&format!(
        "[[target]]\nname = \"t\"\nmodel = \"m\"\n\n{lines}\n[[route]]\nmodel = \"t\"\ntargets = [\"t\"]"
    ))
}

/// The errors of a route that is fine but for some `lines`; the first of them is line 3.
fn route_errors(lines: &str) -> Vec<String> {
    errors(&format!("[[route]]\nmodel = \"r\"\n{lines}\n"))
}

#[test]
fn targets() {
    for (lines, error) in [
        ("", "1: `vendor` is missing in [[target]]; write vendor = \"…\""),
        (
            "vendor = \"\"",
            "5: `vendor` in [[target]] is empty; write vendor = \"…\"",
        ),
        (
            "vendor = \"openai\"",
            "1: `api_key` is missing in [[target]]; write api_key = { env = \"OPENAI_API_KEY\" }",
        ),
        (
            "vendor = \"mistral\"",
            "1: `api_key` is missing in [[target]]; write api_key = { env = \"MISTRAL_API_KEY\" }",
        ),
        (
            "vendor = \"openai-compatible\"",
            "1: `base_url` is missing in [[target]]; write base_url = \"https://HOST/v1\"",
        ),
        (
            "vendor = \"azure\"\napi_key = { env = \"AZURE_OPENAI_API_KEY\" }",
            "1: `base_url` is missing in [[target]]; write base_url = \"https://RESOURCE.openai.azure.com/openai/v1\"",
        ),
        (
            "vendor = \"azure\"\nbase_url = \"https://r.openai.azure.com/openai/v1\"",
            "1: `api_key` is missing in [[target]]; write api_key = { env = \"AZURE_OPENAI_API_KEY\" }",
        ),
        (
            "vendor = \"sim\"\nbase_url = \"http://127.0.0.1:1\"",
            "6: `base_url` in [[target]] is not for simulated vendors; leave it out",
        ),
        (
            "vendor = \"sim\"\napi_key = { env = \"TEAM_KEY\" }",
            "6: `api_key` in [[target]] is not for simulated vendors; leave it out",
        ),
        (
            "vendor = \"vllm\"\nsim = { tokens = 1 }",
            "6: `sim` in [[target]] is for simulated vendors only; leave it out or write vendor = \"sim\"",
        ),
        (
            "vendor = \"sim\"\ncontext_window = 0",
            "6: `context_window` in [[target]] is 0; write a whole number from 1 to 1000000000",
        ),
        (
            "vendor = \"sim\"\ninput_price = -0.5",
            "6: `input_price` in [[target]] is -0.5; write a number from 0 to 1000000",
        ),
        (
            "vendor = \"sim\"\ninput_price = 1\noutput_price = 1\ncached_input_price = 2",
            "8: `cached_input_price` in [[target]] is more than input_price; write at most that",
        ),
        (
            "vendor = \"sim\"\nattributes = { regions = [\"us\", \"eu\"] }",
            "6: `regions` in [[target]] is an array; write a text, a number, true or false",
        ),
        (
            "vendor = \"sim\"\nattributes = \"us\"",
            "6: `attributes` in [[target]] is a text; write attributes = { … }",
        ),
        (
            "vendor = \"sim\"\ntimeouts = { connect_ms = 6000 }",
            "6: `connect_ms` in timeouts of [[target]] is 6000, more than the 5000 of [timeouts]; write less here or \
             raise it there",
        ),
    ] {
        assert_eq!(target_errors(lines), [error]);
    }
}

#[test]
fn addresses() {
    for (address, fault) in [
        ("127.0.0.1:8000", "is not a whole address"),
        ("http://", "is not a whole address"),
        ("/v1", "is not a whole address"),
        ("http://my host/v1", "is not an address"),
        ("ftp://host/v1", "is an address of neither http nor https"),
        ("https://user:password@host/v1", "has a credential in it"),
        ("https://host/v1?api-version=1", "has more than a path behind the host"),
        ("https://host/v1#top", "has more than a path behind the host"),
    ] {
        let errors = target_errors(&format!("vendor = \"vllm\"\nbase_url = \"{address}\""));
        assert_eq!(
            errors,
            [format!(
                "6: `base_url` in [[target]] {fault}; write it like \"https://HOST/v1\""
            )]
        );
    }
}

#[test]
fn simulated_vendors() {
    for (sim, error) in [
        (
            "{ latency = 5 }",
            "unknown key `latency` in sim of [[target]]; did you mean `latency_ms`?",
        ),
        (
            "{ tokens = 0 }",
            "`tokens` in sim of [[target]] is 0; write a whole number from 1 to 1000000",
        ),
        (
            "{ tokens_per_second = 0 }",
            "`tokens_per_second` in sim of [[target]] is 0; write a number from 0.1 to 1000000",
        ),
        (
            "{ errors = { \"200\" = 0.1 } }",
            "`errors` in sim of [[target]] holds `200`, which is no way to fail; write a status from 400 to 599, \
             reset, hang or cut",
        ),
        (
            "{ errors = { reset = 2 } }",
            "`reset` in sim of [[target]] is 2; write a number from 0 to 1",
        ),
        (
            "{ errors = { reset = 0.6, \"500\" = 0.6 } }",
            "`errors` in sim of [[target]] has shares that sum up to 1.20; write shares that sum up to at most 1",
        ),
    ] {
        assert_eq!(
            target_errors(&format!("vendor = \"sim\"\nsim = {sim}")),
            [format!("6: {error}")]
        );
    }
}

#[test]
fn routes() {
    for (lines, error) in [
        (
            "",
            "1: `targets` is missing in [[route]]; write targets = [\"…\"] with names of [[target]] tables",
        ),
        (
            "targets = []",
            "3: `targets` in [[route]] is empty; write the name of at least one [[target]]",
        ),
        (
            "targets = [\"rest\", \"rest\"]",
            "3: `targets` in [[route]] has `rest` twice; write it once",
        ),
        (
            "targets = [\"rust\"]",
            "3: unknown target `rust` in [[route]]; did you mean `rest`?",
        ),
        (
            "targets = [\"rest\",\n \"gpt\"]",
            "4: unknown target `gpt` in [[route]]; known targets are `rest`",
        ),
        (
            "targets = [\"rest\"]\npolicies = [\"plan b.wasm\"]",
            "4: `policies` in [[route]] has \"plan b.wasm\", which is not the name of a policy; write letters, \
             digits, - and _, such as \"plan-b\" for plan-b.wasm",
        ),
        (
            "targets = [\"rest\"]\npolicies = [\"a\", \"a\"]",
            "4: `policies` in [[route]] has `a` twice; write it once",
        ),
        (
            "targets = [\"rest\"]\non_error = \"retry\"",
            "4: `on_error` in [[route]] is \"retry\"; write \"pass\" or \"reject\"",
        ),
        (
            "targets = [\"rest\"]\nhedge_share = 5",
            "4: `hedge_share` in [[route]] is 5; write a number from 0 to 1",
        ),
        (
            "targets = [\"rest\"]\nmax_attempts = 0",
            "4: `max_attempts` in [[route]] is 0; write a whole number from 1 to 100",
        ),
        (
            "targets = [\"rest\"]\ntimeouts = { request_ms = 200000 }",
            "4: `request_ms` in timeouts of [[route]] is 200000, more than the 120000 of [timeouts]; write less here \
             or raise it there",
        ),
    ] {
        assert_eq!(route_errors(lines), [error]);
    }
}

#[test]
fn patterns() {
    for pattern in ["gpt-?", "gpt-[45]", "{a,b}", "a b", "a**"] {
        assert_eq!(
            errors(&format!("[[route]]\ntargets = [\"rest\"]\nmodel = \"{pattern}\"")),
            [format!(
                "3: `model` in [[route]] is \"{pattern}\"; write a model name, in which `*` stands for anything"
            )]
        );
    }
}

#[test]
fn names_that_are_taken() {
    assert_eq!(
        errors("[[target]]\nname = \"rest\"\nvendor = \"sim\"\nmodel = \"m\""),
        ["6: the target `rest` is already on line 2; write another name, or remove one of the two"]
    );
    assert_eq!(
        errors("[[route]]\nmodel = \"rest\"\ntargets = [\"rest\"]"),
        ["9: the route `rest` is already on line 2; write another name, or remove one of the two"]
    );
    let key = |name: &str, variable: &str| format!("[[key]]\nname = \"{name}\"\nsecret = {{ env = \"{variable}\" }}\n");
    assert_eq!(
        errors(&[key("a", "TEAM_KEY"), key("a", "MISTRAL_API_KEY")].concat()),
        ["5: the key `a` is already on line 2; write another name, or remove one of the two"]
    );
    assert_eq!(
        errors(&[key("a", "TEAM_KEY"), key("b", "SAME_KEY")].concat()),
        ["6: the key `b` has the same secret as `a`; give each client its own"]
    );
}

#[test]
fn names_that_are_misspelled() {
    assert_eq!(
        errors("[[key]]\nname = \"team a\"\nsecret = { env = \"TEAM_KEY\" }"),
        ["2: `name` in [[key]] is \"team a\"; write at most 64 letters, digits, - _ . : and /"]
    );
    assert_eq!(
        errors("[policy.\"plan.b\"]"),
        [
            "1: `plan.b` is not the name of a policy; write letters, digits, - and _, such as [policy.plan-b] for \
             plan-b.wasm"
        ]
    );
}

#[test]
fn nothing_to_serve() {
    assert_eq!(
        all_errors(""),
        [
            " no [[target]], so there is nowhere to send requests; write at least one, with name, vendor and model",
            " no [[route]], so no request is served; write at least one, such as model = \"*\" with targets = [\"…\"]",
        ]
    );
}

#[test]
fn policies() {
    for (text, error) in [
        (
            "[policies]\nheaders = [\"x team\"]",
            "2: `headers` in [policies] holds `x team`, which is not the name of a header; write names such as \
             \"x-team\"",
        ),
        (
            "[policies]\nheaders = [\"Authorization\"]",
            "2: `headers` in [policies] holds `authorization`, which carries a credential; leave it out: policies \
             never see credentials",
        ),
        (
            "[policy.p]\ngrants = [\"promt\"]",
            "2: `grants` in [policy.p] is \"promt\"; write \"prompt\" or \"patch-prompt\"",
        ),
        (
            "[policy.p]\nisolation = \"none\"",
            "2: `isolation` in [policy.p] is \"none\"; write \"fresh\" or \"reuse\"",
        ),
        (
            "[policy.p]\nmemory_mib = 0",
            "2: `memory_mib` in [policy.p] is 0; write a whole number from 1 to 4096",
        ),
        (
            "[policy.p.settings]\norder = [\"a,b\", \"c\"]",
            "2: `order` in [policy.p] has an element with a comma in it; write elements without commas: the policy \
             gets them with commas between",
        ),
        (
            "[policy.p.settings]\nshares = { a = nan }",
            "2: `shares` in [policy.p] holds a number that JSON has not; write a smaller one",
        ),
    ] {
        assert_eq!(errors(text), [error]);
    }
}

#[test]
fn files_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    let errors = |text: &str| match Config::parse(&format!("{text}{REST}"), Path::new("s.toml"), folder.path(), &env) {
        Ok(_) => panic!("should be refused"),
        Err(errors) => errors
            .to_string()
            .replace(&folder.path().display().to_string(), "FOLDER"),
    };
    assert_eq!(
        errors("ca_file = \"none.pem\""),
        "s.toml:1: `ca_file` is `FOLDER/none.pem`, which cannot be read: No such file or directory (os error 2); \
         write the path of a PEM file"
    );
    assert_eq!(
        errors("ca_file = \"empty.pem\""),
        "s.toml:1: `ca_file` is `FOLDER/empty.pem`, which holds no certificate in PEM format; write the path of a PEM \
         file"
    );
    assert_eq!(
        errors("[server]\ntls = { key = \"empty.pem\" }"),
        "s.toml:2: `certificate` is missing in tls of [server]; write certificate = \"PATH\"\n\
         s.toml:2: `key` in tls of [server] is `FOLDER/empty.pem`, which holds no private key in PEM format; write the path \
         of a PEM file"
    );
}

#[test]
fn a_configuration_file_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pointsman.toml");
    let errors = || {
        Config::load(&path, &env)
            .unwrap_err()
            .to_string()
            .replace(&path.display().to_string(), "FILE")
    };
    assert_eq!(
        errors(),
        "FILE: the configuration file cannot be read: No such file or directory (os error 2); give the path of a file \
         that can be read"
    );
    fs::write(&path, b"state = \"a\"\nlisten = \"\xff\"").unwrap();
    assert_eq!(
        errors(),
        "FILE:2: a character that is not UTF-8; save the file as UTF-8"
    );
    fs::write(&path, vec![b' '; 5 << 20]).unwrap();
    assert_eq!(
        errors(),
        "FILE: the configuration file cannot be read: longer than 4 MiB; give the path of a file that can be read"
    );
}

#[test]
fn operators_that_others_can_reach_need_a_token() {
    for address in ["0.0.0.0:8081", "[::]:8081", "10.0.0.7:8081", "[::ffff:10.0.0.7]:8081"] {
        assert_eq!(
            errors(&format!("admin = \"{address}\"")),
            [format!(
                "1: `admin` is {address}, which other machines reach, and there is no admin_token; write admin_token = {{ env = \
                 \"NAME\" }}, or admin = \"127.0.0.1:8081\""
            )]
        );
    }
    for address in ["127.0.0.1:9", "127.7.7.7:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
        parse(&format!("admin = \"{address}\"\n{REST}")).unwrap();
    }
    assert_eq!(
        errors("admin = \"0.0.0.0:8081\"\nadmin_token = { env = \"NOT_THERE\" }"),
        ["2: environment variable `NOT_THERE` for admin_token is not set; set it to the secret alone"]
    );
    assert_eq!(
        errors("admin_hosts = [\"http://ops.example\", \"ops.example:8081\", \"\", \"ok.example\"]").len(),
        3
    );
}
