//! Looks around in the system it runs on, as the run-time library of a language does, and says what it found.

mod bindings {
    wit_bindgen::generate!({
        path: ["../../../wit", "wit"],
        world: "test:guest/guest",
        generate_all,
    });
}

use bindings::pointsman::policy::types::{Action, Attempt, Decision, Request, Target};
use bindings::wasi::cli::{environment, stderr, stdin, terminal_stdout};
use bindings::wasi::clocks::{monotonic_clock, wall_clock};
use bindings::wasi::filesystem::preopens;
use bindings::wasi::io::poll::poll;
use bindings::wasi::io::streams::StreamError;
use bindings::wasi::random::{insecure_seed, random};
use bindings::wasi::sockets::instance_network;

struct Guest;

impl bindings::Guest for Guest {
    fn decide(request: Request, _: Vec<Target>, _: Vec<Attempt>) -> Decision {
        if request.model == "network" {
            instance_network::instance_network();
        }
        assert!(environment::get_environment().is_empty());
        assert!(environment::get_arguments().is_empty());
        assert!(preopens::get_directories().is_empty());
        assert!(terminal_stdout::get_terminal_stdout().is_none());
        assert!(matches!(stdin::get_stdin().blocking_read(10), Err(StreamError::Closed)));
        let sleep = monotonic_clock::subscribe_duration(3_600_000_000_000);
        assert_eq!(poll(&[&sleep]), [0]);
        sleep.block();
        let out = stderr::get_stderr();
        out.blocking_write_and_flush(b"Traceback\nValueError").unwrap();
        drop(out);
        let now = wall_clock::now();
        assert_eq!(
            u128::from(monotonic_clock::now()),
            u128::from(request.now_ms) * 1_000_000
        );
        let dice = (
            random::get_random_u64(),
            random::get_random_bytes(3),
            insecure_seed::insecure_seed(),
        );
        let reason = format!("{}.{:09} {:?}", now.seconds, now.nanoseconds, dice);
        Decision {
            action: Action::Pass,
            reason,
        }
    }
}

bindings::export!(Guest with_types_in bindings);
