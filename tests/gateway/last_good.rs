//! A start while the configuration on disk is broken.

use std::fs;
use std::process::Output;

use super::running::{ASK, Gateway, binary, eventually};
use super::setup::Setup;
use super::vendor::Vendor;

const BROKEN: &str = "[[target]\nname = ";

/// A gateway that was ready once, and has ended. A restart of it uses the last good configuration.
fn ended(setup: Setup) -> Gateway {
    let mut gateway = setup.env("POINTSMAN_LAST_GOOD", "1").start();
    gateway.terminate();
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    gateway
}

/// Runs a start that fails.
fn serve(gateway: &Gateway, arguments: &[&str]) -> Output {
    let mut serve = binary();
    serve.arg("serve").arg("--config").arg(gateway.path("pointsman.toml"));
    serve.args(arguments).output().unwrap()
}

#[test]
fn a_broken_configuration_starts_with_the_last_one_that_was_live_until_it_is_mended() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let setup = Setup::new([&first])
        .target("first", "api_key = { env = \"FIRST_KEY\" }")
        .env("FIRST_KEY", "sk-of-first");
    let mut gateway = ended(setup);
    for broken in [BROKEN, ""] {
        fs::write(gateway.path("pointsman.toml"), broken).unwrap();
        gateway.start_again();
        assert_eq!(gateway.chat(ASK).says(), "from first");
        assert_eq!(gateway.metric("pointsman_config_refused", ""), 1.0);
        let ready = gateway.admin("GET /readyz");
        assert_eq!(ready.status, 200);
        assert!(ready.text().contains("refused"), "{}", ready.text());
        assert!(gateway.log().contains("the last one that was live is served"));
        gateway.terminate();
        assert_eq!(gateway.wait_for_exit().code(), Some(0));
    }
    gateway.start_again();
    gateway.configure(Setup::new([&second]).env("POINTSMAN_LAST_GOOD", "1"));
    eventually("the mended configuration", || {
        (gateway.chat(ASK).says() == "from second").then_some(())
    });
    assert_eq!(gateway.metric("pointsman_config_refused", ""), 0.0);
    assert_eq!(gateway.admin("GET /readyz").text(), "ready");

    // What was mended is the last good one from then on.
    fs::write(gateway.path("pointsman.toml"), BROKEN).unwrap();
    gateway.restart();
    assert_eq!(gateway.chat(ASK).says(), "from second");
    let kept = fs::read_to_string(gateway.path(".pointsman/last-good.toml")).unwrap();
    assert!(!kept.contains("sk-of-first"), "{kept}");
}

#[test]
fn without_being_asked_to_a_broken_configuration_starts_nothing() {
    let vendor = Vendor::well("vendor");
    let gateway = ended(Setup::new([&vendor]));
    fs::write(gateway.path("pointsman.toml"), BROKEN).unwrap();
    assert_eq!(serve(&gateway, &[]).status.code(), Some(64));

    fs::remove_dir_all(gateway.path(".pointsman")).unwrap();
    let none = serve(&gateway, &["--last-good"]);
    assert_eq!(none.status.code(), Some(64));
    let errors = String::from_utf8(none.stderr).unwrap();
    assert!(errors.contains("there is no last good configuration in"), "{errors}");
    assert!(errors.contains("pointsman.toml:1:"), "{errors}");
}
