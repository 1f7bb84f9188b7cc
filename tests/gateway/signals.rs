//! What signals do: reload, drain, end at once, or nothing.

use rustix::process::Signal;

use super::running::{ASK, ASK_STREAM, Gateway, eventually};
use super::script::{DONE, Gate, ROLE, STOP, Script, text};
use super::setup::{Setup, ready_made};
use super::vendor::Vendor;

/// A vendor whose first stream waits at a gate, and that is well from then on.
fn waiting(gate: &Gate) -> Vendor {
    let script = Script::begin([ROLE, &text("before")])
        .until(gate)
        .frames([&text("after"), STOP, DONE])
        .end();
    Vendor::start("vendor", [script, Script::Well("still here".into())])
}

#[test]
fn a_hangup_reloads_everything_and_cuts_nothing() {
    let gate = Gate::default();
    let vendor = waiting(&gate);
    let mut gateway = Setup::new([&vendor]).policy("plan-b").start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("before");

    gateway.signal(Signal::HUP);
    gateway.wait_for_log("the configuration and the files that it names are as they were");
    std::fs::write(gateway.plugin("plan-b"), ready_made("cheapest")).unwrap();
    gateway.configure(
        Setup::new([&vendor])
            .policy("plan-b")
            .target("vendor", "attributes = { better = true }"),
    );
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("the changed configuration is live");
    gateway.wait_for_log("policy live");
    assert_eq!(gateway.chat(ASK).says(), "still here");

    gate.open();
    assert!(stream.rest().ends_with(&[&text("after"), STOP, DONE].concat()));
}

#[test]
fn a_hangup_says_again_what_is_wrong() {
    let vendor = Vendor::well("vendor");
    let mut gateway = Setup::new([&vendor]).start();
    gateway.configure(Setup::new([&vendor]).route("colour = \"red\""));
    gateway.wait_for_log("colour");
    let said = |gateway: &Gateway| gateway.log().matches("unknown key `colour`").count();
    assert_eq!(said(&gateway), 1);
    gateway.signal(Signal::HUP);
    eventually("the log to say it again", || (said(&gateway) == 2).then_some(()));
    assert_eq!(gateway.chat(ASK).says(), "from vendor");
}

#[test]
fn other_signals_are_ignored_and_logged() {
    let gate = Gate::default();
    let vendor = waiting(&gate);
    let gateway = Setup::new([&vendor]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("before");
    for (signal, name) in [(Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        gateway.signal(signal);
        gateway.wait_for_log(&format!("{name} is ignored"));
    }
    // Without anybody who reads it a log is a closed pipe, which must not be fatal either.
    gateway.signal(Signal::PIPE);
    assert_eq!(gateway.chat(ASK).says(), "still here");
    gate.open();
    assert!(stream.rest().ends_with(&[&text("after"), STOP, DONE].concat()));
}

#[test]
fn an_interrupt_drains_as_a_termination_does() {
    let gate = Gate::default();
    let vendor = waiting(&gate);
    let mut gateway = Setup::new([&vendor]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("before");
    gateway.signal(Signal::INT);
    eventually("readiness to turn red", || {
        (gateway.admin("GET /readyz").status == 503).then_some(())
    });
    assert!(gateway.is_running());
    gate.open();
    assert!(stream.rest().ends_with(&[&text("after"), STOP, DONE].concat()));
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_gateway_at_once() {
    for (first, second, code) in [
        (Signal::INT, Signal::INT, 130),
        (Signal::TERM, Signal::INT, 130),
        (Signal::TERM, Signal::TERM, 143),
    ] {
        let vendor = Vendor::start("vendor", [Script::begin([ROLE, &text("before")]).hold()]);
        let mut gateway = Setup::new([&vendor]).toml("server.drain_ms = 600000").start();
        let mut stream = gateway.stream(ASK_STREAM);
        stream.read_until("before");
        gateway.signal(first);
        gateway.wait_for_log("draining");
        assert!(gateway.is_running());
        gateway.signal(second);
        assert_eq!(gateway.wait_for_exit().code(), Some(code));
        assert!(gateway.log().contains("ends at once"), "{}", gateway.log());
    }
}
