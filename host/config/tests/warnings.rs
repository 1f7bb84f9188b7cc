//! What is legal but suspicious.

use super::{parse, warnings};

#[test]
fn a_plain_configuration_has_none() {
    assert!(warnings("").is_empty());
}

#[test]
fn what_is_of_no_use() {
    for (text, warning) in [
        (
            "[[target]]\nname = \"rest2\"\nvendor = \"sim\"\nmodel = \"m\"\noutput_price = 1\n[[route]]\nmodel = \
             \"m\"\ntargets = [\"rest2\"]\n",
            "1: the prices in [[target]] do not say what an answer costs; write both input_price and output_price",
        ),
        (
            "[[target]]\nname = \"gpt\"\nvendor = \"sim\"\nmodel = \"m\"",
            "2: no [[route]] has the target `gpt`; name it in the targets of one, or remove it",
        ),
        (
            "\n[policy.plan-b]",
            "2: no [[route]] has the policy `plan-b`; write policies = [\"plan-b\"] in one",
        ),
        (
            "[trace]\nendpoint = \"http://127.0.0.1:4318\"",
            "2: `endpoint` in [trace] is an address without a path; write it whole, such as \
             \"http://127.0.0.1:4318/v1/traces\"",
        ),
        (
            "[trace]\nendpoint = \"http://localhost:8080/v1/traces\"",
            "1: traces go to http://localhost:8080/v1/traces, which is this gateway itself; write the address of the \
             collector",
        ),
        (
            "[trace]\nheaders = { authorization = { env = \"TEAM_KEY\" } }\nendpoint = \"http://c/v1/traces\"",
            "3: the headers of [trace] go over the network unencrypted; write https:// if the collector speaks it",
        ),
        (
            "[timeouts]\nrequest_ms = 10000",
            "1: first_content_ms is 30000, but request_ms ends the request after 10000; shorten the one or raise the \
             other",
        ),
    ] {
        assert_eq!(warnings(text), [warning]);
    }
}

#[test]
fn a_route_behind_one_that_takes_everything_first() {
    let routes = |models: &[&str]| {
        let route = |model: &&str| format!("[[route]]\nmodel = \"{model}\"\ntargets = [\"rest\"]\n");
        warnings(&models.iter().map(route).collect::<String>())
    };
    assert_eq!(
        routes(&["*", "gpt-*"]),
        ["4: no request gets here: `*` on line 1 takes them first; move this route up"]
    );
    assert_eq!(
        routes(&["gpt-*", "gpt-5*"]),
        ["4: no request gets here: `gpt-*` on line 1 takes them first; move this route up"]
    );
    assert!(routes(&["gpt-5*", "gpt-*", "*"]).is_empty());
    assert!(
        routes(&["*", "gpt-5"]).is_empty(),
        "an exact name goes before all patterns"
    );
}

#[test]
fn a_door_that_is_open_to_everybody() {
    let open = "listen = \"0.0.0.0:8080\"\n";
    assert_eq!(
        warnings(open),
        [
            "1: whoever reaches 0.0.0.0:8080 can spend your money, for there is no [[key]]; write [[key]] tables, or \
             listen on 127.0.0.1"
        ]
    );
    assert!(
        warnings(&format!(
            "{open}[[key]]\nname = \"team\"\nsecret = {{ env = \"TEAM_KEY\" }}"
        ))
        .is_empty()
    );
}

#[test]
fn a_key_on_the_network_unencrypted() {
    let target = |url: &str| {
        let text = format!(
            "[[target]]\nname = \"t\"\nvendor = \"vllm\"\nmodel = \"m\"\nbase_url = \"{url}\"\napi_key = {{ env = \
             \"TEAM_KEY\" }}\n\
             [[route]]\nmodel = \"*\"\ntargets = [\"t\"]"
        );
        parse(&text)
            .unwrap()
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        target("http://gpu.example:8000/v1"),
        [
            "pointsman.toml:5: the api_key of [[target]] goes over the network unencrypted; write https:// if the \
             vendor speaks it"
        ]
    );
    for url in [
        "https://gpu.example/v1",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000/v1",
        "http://localhost:8000/v1",
    ] {
        assert!(target(url).is_empty());
    }
}

#[test]
fn a_target_that_is_the_gateway_itself() {
    let text =
        "[[target]]\nname = \"t\"\nvendor = \"llamacpp\"\nmodel = \"m\"\n[[route]]\nmodel = \"*\"\ntargets = [\"t\"]";
    let warnings = |text: &str| {
        parse(text)
            .unwrap()
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warnings(text),
        [
            "pointsman.toml:2: the target `t` is at http://127.0.0.1:8080/v1, which is this gateway itself; write \
             another listen or base_url"
        ]
    );
    assert!(warnings(&format!("listen = \"127.0.0.1:8090\"\n{text}")).is_empty());
}
