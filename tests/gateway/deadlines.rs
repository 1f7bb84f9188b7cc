//! Every deadline, wherever it is written: for all targets, for one, on a route, or by a policy with a pick. The shortest holds. Before
//! content the next target answers, behind it the client is told; and the vendor is told that nobody listens any more.

use std::thread;

use super::guests::guest;
use super::heard::Format;
use super::running::{ASK, ASK_STREAM, Gateway, eventually};
use super::script::{ROLE, Script, text};
use super::setup::Setup;
use super::vendor::Vendor;

/// Where a deadline can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Everywhere,
    Target,
    Route,
    Pick,
}

const PLACES: [Place; 4] = [Place::Everywhere, Place::Target, Place::Route, Place::Pick];
const CONFIGURATION: [Place; 3] = [Place::Everywhere, Place::Target, Place::Route];

/// A deadline, and a vendor that does not keep it.
struct Deadline {
    key: &'static str,
    places: &'static [Place],
    ask: &'static str,
    vendor: fn() -> Vendor,
    /// How the failure is known.
    code: &'static str,
    /// The vendor has the request, and must be told that it is cancelled.
    is_sent: bool,
}

const ROW: Deadline = Deadline {
    key: "first_content_ms",
    places: &PLACES,
    ask: ASK_STREAM,
    vendor: || does(Script::begin([ROLE]).hold()),
    code: "first_content_timeout",
    is_sent: true,
};

/// Those that pass before content.
const BEFORE: [Deadline; 6] = [
    Deadline {
        key: "connect_ms",
        vendor: || Vendor::full("first"),
        code: "connect_timeout",
        is_sent: false,
        ..ROW
    },
    ROW,
    Deadline {
        ask: ASK,
        vendor: || does(Script::silence()),
        ..ROW
    },
    Deadline {
        key: "whole_content_ms",
        places: &CONFIGURATION,
        ask: ASK,
        vendor: || does(Script::silence()),
        ..ROW
    },
    Deadline { key: "whole_ms", ..ROW },
    Deadline {
        key: "whole_ms",
        ask: ASK,
        vendor: || does(Script::silence()),
        ..ROW
    },
];

/// Those that pass behind content.
const AFTER: [Deadline; 2] = [
    Deadline {
        key: "between_frames_ms",
        vendor: || does(Script::begin([ROLE, &text("half")]).hold()),
        code: "between_frames_timeout",
        ..ROW
    },
    Deadline {
        key: "whole_ms",
        vendor: || {
            let begun = Script::begin([ROLE, &text("half")]);
            let drip = (0..500).fold(begun, |script, _| script.pause(20).frames([": ping\n\n"]));
            does(drip.hold())
        },
        code: "whole_timeout",
        ..ROW
    },
];

/// A vendor called `first` that always does this.
fn does(script: Script) -> Vendor {
    Vendor::start("first", [script])
}

impl Deadline {
    /// A gateway on which everything but this one, in this place, is longer than any test waits. On its route `alone` there is no other
    /// target.
    fn written(&self, place: Place, first: &Vendor, second: &Vendor) -> Gateway {
        let said = |there, longer: &str| {
            let is_it = there == place;
            if is_it { "400".to_owned() } else { longer.to_owned() }
        };
        // Whole answers have as much time as a first content where nothing else is said.
        let mut keys = vec!["connect_ms", "first_content_ms", "between_frames_ms", "request_ms"];
        keys.retain(|key| *key != self.key);
        let long = keys.iter().map(|key| format!("timeouts.{key} = 60000\n"));
        let global =
            long.collect::<String>() + &format!("timeouts.{} = {}\n", self.key, said(Place::Everywhere, "60000"));
        let mut setup = Setup::new([first, second]).toml(&global);
        let mut route = "attempts_detail = true\npolicies = [\"picker\"]\n".to_owned();
        let mut pick = String::new();
        // What is longer than that of all is refused.
        if place != Place::Everywhere {
            setup = setup.target(
                "first",
                &format!("timeouts.{} = {}", self.key, said(Place::Target, "50000")),
            );
            route += &format!("timeouts.{} = {}\n", self.key, said(Place::Route, "50000"));
            pick = format!(", {} = {}", self.key, said(Place::Pick, "50000"));
        }
        let alone = format!("[[route]]\nmodel = \"alone\"\ntargets = [\"first\"]\n{route}");
        let settings = format!("policy.picker.settings = {{ picks = \"first, second\"{pick} }}");
        setup
            .plugin("picker", guest("picker"))
            .route(&route)
            .toml(&settings)
            .after(&alone)
            .start()
    }

    /// Checks it in all of its places at once.
    fn check(&self, check: fn(&Self, &Vendor, &Vendor, &Gateway, &str)) {
        thread::scope(|scope| {
            for place in self.places {
                scope.spawn(move || {
                    let (first, second) = ((self.vendor)(), Vendor::well("second"));
                    let gateway = self.written(*place, &first, &second);
                    let who = format!("{} of {place:?}, {}", self.key, self.ask);
                    check(self, &first, &second, &gateway, &who);
                });
            }
        });
    }

    fn assert_is_known(&self, attempts: &str, who: &str) {
        let known_as = format!(" {} ", self.code);
        let is_known = attempts.starts_with("first: timeout ") && attempts.contains(&known_as);
        assert!(is_known, "{who}: {attempts}");
    }

    fn assert_is_cancelled(&self, first: &Vendor, gateway: &Gateway, count: f64) {
        if self.is_sent {
            first.wait_for_cancellation();
        }
        eventually("the failures to be counted", || {
            let counted = gateway.metric("pointsman_attempts_total", "target=\"first\",outcome=\"timeout\"");
            (counted == count).then_some(())
        });
    }
}

#[test]
fn before_content_a_deadline_is_a_timeout_and_the_next_target_answers() {
    for deadline in BEFORE {
        deadline.check(|deadline, first, _, gateway, who| {
            let answer = gateway.chat(deadline.ask);
            let detail = answer.header("x-pointsman-attempts-detail");
            assert!(answer.text().contains("from second"), "{who}: {detail}");
            deadline.assert_is_known(detail, who);
            deadline.assert_is_cancelled(first, gateway, 1.0);

            // What policies are told, and all that the client is told of it, are the same kinds.
            let answer = gateway.chat(&deadline.ask.replace("smart", "alone"));
            deadline.assert_is_known(answer.header("x-pointsman-attempts-detail"), who);
            answer.assert_error(504, "vendor_timeout");
            deadline.assert_is_cancelled(first, gateway, 2.0);
        });
    }
}

#[test]
fn behind_content_a_deadline_is_a_timeout_and_the_client_is_told() {
    for deadline in AFTER {
        deadline.check(|deadline, first, second, gateway, who| {
            let mut stream = gateway.stream(deadline.ask);
            let heard = Format::Chat.hear(stream.rest());
            assert!(heard.is_cut_off() && heard.says == "half", "{who}: {heard:?}");
            let line = gateway.request_line(stream.header("x-request-id"));
            assert_eq!(line["outcome"], "cut-off", "{who}: {line}");
            deadline.assert_is_known(line["attempts"].as_str().unwrap(), who);
            deadline.assert_is_cancelled(first, gateway, 1.0);
            assert_eq!(second.count(), 0, "{who}");
        });
    }
}
