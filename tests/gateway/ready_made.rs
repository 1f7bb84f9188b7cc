//! The ready-made policies, and the switches that operators set for them.

use std::time::Duration;

use super::running::{ASK, ASK_STREAM, CHAT, Gateway, eventually};
use super::script::{Script, error_body, whole};
use super::setup::Setup;
use super::vendor::Vendor;

fn says(gateway: &Gateway) -> String {
    gateway.chat(ASK).says()
}

#[test]
fn a_switch_takes_a_target_out_until_it_is_deleted_and_survives_a_restart() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let mut gateway = Setup::new([&first, &second]).policy("plan-b").start();
    assert_eq!(says(&gateway), "from first");
    assert_eq!(gateway.admin_with("PUT /api/switches/first", "off").status, 200);
    assert_eq!(says(&gateway), "from second", "the next decision obeys");
    assert_eq!(
        gateway.admin("GET /api/switches").json(),
        serde_json::json!({ "first": "off" })
    );
    gateway.restart();
    assert_eq!(says(&gateway), "from second", "a restart remembers");
    assert_eq!(gateway.admin("DELETE /api/switches/first").status, 200);
    assert_eq!(says(&gateway), "from first");
    assert_eq!(gateway.admin("DELETE /api/switches/first").status, 404);
}

#[test]
fn a_switch_takes_a_whole_vendor_out() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let setup = Setup::new([&first, &second]).policy("plan-b").vendor("first", "vllm");
    let gateway = setup.start();
    assert_eq!(says(&gateway), "from first");
    gateway.admin_with("PUT /api/switches/vllm", "off");
    assert_eq!(says(&gateway), "from second");
}

#[test]
fn where_everything_is_switched_off_nobody_is_called() {
    let vendor = Vendor::well("vendor");
    for setup in [Setup::new([&vendor]).policy("plan-b"), Setup::new([&vendor])] {
        let gateway = setup.start();
        gateway.admin_with("PUT /api/switches/openai-compatible", "off");
        let answer = gateway.chat(ASK);
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    assert_eq!(vendor.count(), 0);
}

#[test]
fn residency_keeps_requests_in_their_region_and_rejects_those_without_one() {
    let (us, eu) = (Vendor::well("us"), Vendor::well("eu"));
    let setup = Setup::new([&us, &eu])
        .policy("residency")
        .route("on_error = \"reject\"");
    let setup = setup
        .target("us", "attributes = { region = \"us\" }")
        .target("eu", "attributes = { region = \"eu\" }");
    let setup =
        setup.toml("policies.headers = [\"x-region\"]\npolicy.residency.settings = { from = \"header.x-region\" }");
    let gateway = setup.start();
    for region in ["us", "eu"] {
        let answer = gateway.ask(CHAT, &[("x-region", region)], ASK);
        assert_eq!(answer.says(), format!("from {region}"));
    }
    for headers in [&[][..], &[("x-region", "mars")]] {
        let answer = gateway.ask(CHAT, headers, ASK);
        answer.assert_error(451, "rejected_by_policy");
        assert_eq!(answer.header("x-should-retry"), "false");
        assert!(answer.header("x-pointsman-policy").starts_with("residency@"));
    }
    assert_eq!((us.count(), eu.count()), (1, 1));
}

#[test]
fn residency_goes_by_the_gateway_key_and_never_leaves_the_region() {
    let eu = Vendor::start("eu", [Script::status(500, &[], &error_body("server_error"))]);
    let us = Vendor::well("us");
    let setup = Setup::new([&eu, &us])
        .policy("residency")
        .route("on_error = \"reject\"");
    let setup = setup
        .target("us", "attributes = { region = \"us\" }")
        .target("eu", "attributes = { region = \"eu\" }");
    let key = "[[key]]\nname = \"team\"\nsecret = { env = \"TEAM_KEY\" }\nattributes = { region = \"eu\" }";
    let gateway = setup.toml(key).env("TEAM_KEY", "gw-key").start();
    let answer = gateway.ask(CHAT, &[("authorization", "Bearer gw-key")], ASK);
    answer.assert_error(503, "rejected_by_policy");
    assert_eq!((eu.count(), us.count()), (1, 0));
}

#[test]
fn canary_sends_its_share_to_the_new_target_and_the_same_clients_always() {
    let (old, new) = (Vendor::well("old"), Vendor::well("new"));
    let at = |percent: u32| {
        let settings =
            format!("policy.canary.settings = {{ target = \"new\", percent = {percent}, sticky = \"conversation\" }}");
        Setup::new([&old, &new]).policy("canary").toml(&settings)
    };
    assert_eq!(says(&at(0).start()), "from old");
    assert_eq!(says(&at(100).start()), "from new");

    let gateway = at(50).start();
    let ask = |conversation: usize| {
        gateway
            .chat(&ASK.replace("hello", &format!("conversation {conversation}")))
            .says()
    };
    let first: Vec<_> = (0..30).map(ask).collect();
    assert!(
        first.contains(&"from old".into()) && first.contains(&"from new".into()),
        "{first:?}"
    );
    assert_eq!(
        first,
        (0..30).map(ask).collect::<Vec<_>>(),
        "each conversation stays where it was"
    );
}

#[test]
fn canary_falls_back_when_the_new_target_fails() {
    let new = Vendor::gone("new");
    let old = Vendor::well("old");
    let setup = Setup::new([&old, &new])
        .policy("canary")
        .toml("policy.canary.settings = { target = \"new\", percent = 100 }");
    let answer = setup.start().chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("from old", "2")
    );
}

#[test]
fn cheapest_asks_the_cheapest_that_is_up() {
    let (cheap, dear) = (Vendor::gone("cheap"), Vendor::well("dear"));
    let setup = Setup::new([&dear, &cheap])
        .policy("cheapest")
        .target("cheap", "input_price = 1\noutput_price = 1");
    let answer = setup
        .target("dear", "input_price = 5\noutput_price = 5")
        .start()
        .chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("from dear", "2")
    );
}

/// The first target is known to answer quickly. When it does not, the second starts beside it and wins.
#[test]
fn fastest_hedges_and_the_loser_is_cancelled() {
    let quick = Script::answer(&whole("quick")).after(Duration::from_millis(30));
    let first = Vendor::start("first", [quick, Script::silence()]);
    let second = Vendor::well("second");
    let settings = "policy.fastest.settings = { explore_percent = 0, hedge_floor_ms = 100 }";
    let gateway = Setup::new([&first, &second])
        .policy("fastest")
        .route("hedge_share = 1.0")
        .toml(settings)
        .start();
    assert_eq!(says(&gateway), "quick");
    let answer = gateway.chat(ASK_STREAM);
    assert_eq!((answer.status, answer.header("x-pointsman-target")), (200, "second"));
    assert_eq!(answer.header("x-pointsman-attempts"), "2");
    first.wait_for_cancellation();
    let told = gateway.target("first");
    assert_eq!(
        (&told["error_rate"], &told["in_flight"]),
        (&0.0.into(), &0.into()),
        "to lose is no failure"
    );
    let line = gateway.request_line(answer.header("x-request-id"));
    assert!(
        line["attempts"].as_str().unwrap().contains("first: abandoned"),
        "{line}"
    );
    assert_eq!(gateway.metric("pointsman_hedges_total", ""), 1.0);
}

#[test]
fn a_client_that_goes_away_cancels_target_and_hedge() {
    let quick = Script::answer(&whole("quick")).after(Duration::from_millis(30));
    let first = Vendor::start("first", [quick, Script::silence()]);
    let second = Vendor::start("second", [Script::silence()]);
    let settings = "policy.fastest.settings = { explore_percent = 0, hedge_floor_ms = 50, hedge_ceiling_ms = 50 }";
    let gateway = Setup::new([&first, &second])
        .policy("fastest")
        .route("hedge_share = 1.0")
        .toml(settings)
        .start();
    assert_eq!(says(&gateway), "quick");
    let mut client = gateway.connect();
    client.request(CHAT, &[], ASK.as_bytes());
    second.wait_for(1);
    drop(client);
    first.wait_for_cancellation();
    second.wait_for_cancellation();
    for name in ["first", "second"] {
        eventually("the attempt to end", || {
            (gateway.target(name)["in_flight"] == 0).then_some(())
        });
        assert_eq!(gateway.target(name)["error_rate"], 0.0);
    }
}

/// Only a share of the requests may be hedged, whatever the policy wants.
#[test]
fn a_hedge_beyond_the_routes_share_is_denied() {
    let slow = |pause| Script::answer(&whole("slow")).after(Duration::from_millis(pause));
    let first = Vendor::start("first", [slow(20), slow(400)]);
    let second = Vendor::well("second");
    let settings = "policy.fastest.settings = { explore_percent = 0, hedge_floor_ms = 50, hedge_ceiling_ms = 50 }";
    let gateway = Setup::new([&first, &second])
        .policy("fastest")
        .route("hedge_share = 0.0")
        .toml(settings)
        .start();
    for _ in 0..2 {
        let answer = gateway.chat(ASK);
        assert_eq!(
            (answer.says().as_str(), answer.header("x-pointsman-attempts")),
            ("slow", "1")
        );
    }
    assert_eq!(second.count(), 0);
    assert_eq!(gateway.metric("pointsman_hedges_denied_total", ""), 1.0);
}

#[test]
fn when_target_and_hedge_both_fail_the_next_one_answers() {
    let quick = Script::answer(&whole("quick")).after(Duration::from_millis(30));
    let dies = Script::status(500, &[], &error_body("server_error"));
    let first = Vendor::start("first", [quick, dies.clone().after(Duration::from_millis(300))]);
    let (second, third) = (Vendor::start("second", [dies]), Vendor::well("third"));
    let settings = "policy.fastest.settings = { explore_percent = 0, hedge_floor_ms = 50, hedge_ceiling_ms = 50 }";
    let setup = Setup::new([&first, &second, &third])
        .policy("fastest")
        .route("hedge_share = 1.0")
        .toml(settings);
    let gateway = setup.start();
    assert_eq!(says(&gateway), "quick");
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("from third", "3")
    );
}
