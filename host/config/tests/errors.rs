//! Each mistake and the whole message it is answered with.

use super::{all_errors, errors, parse};

#[test]
fn an_error_names_file_line_fault_and_remedy() {
    let errors = parse(
        "[[target]]\nname = \"gpt\"\nvendor = \"sim\"\nmodle = \"m\"\n[[route]]\nmodel = \"*\"\ntargets = [\"gpt\"]",
    );
    assert_eq!(
        errors.unwrap_err().to_string(),
        "switchyard.toml:1: `model` is missing in [[target]]; write model = \"…\"\n\
         switchyard.toml:4: unknown key `modle` in [[target]]; did you mean `model`?"
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
            "2: unknown vendor `nobody` in [[target]]; write one of openai, azure, mistral, ollama, vllm, llamacpp, \
             openai-compatible, sim",
            "3: unknown key `price` in [[target]]; known keys are `name`, `vendor`, `model`, `base_url`, `api_key`, \
             `context_window`, `input_price`, `output_price`, `attributes`, `timeouts`, `sim`",
            "5: `workers` in [server] is 0; write a whole number from 1 to 1024",
            "6: `model` is missing in [[route]]; write model = \"…\"",
            "7: unknown target `x` in [[route]]; there are none",
        ]
    );
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
             \"warn,switchyard=debug\"",
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
            "state = \"C:\\switchyard\"",
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
