//! What must hold for any text.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{REST, all_errors, parse};

/// Pieces of configurations, from which nearly valid ones are made up.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "\n",
    "\n",
    " ",
    "#",
    "\"",
    "'",
    "\"\"\"",
    "\\",
    "é",
    "\u{feff}",
    "-1",
    "0x",
    "1",
    "0.5",
    "1e999",
    "nan",
    "true",
    "2026-11-23",
    "server",
    "log",
    "level",
    "trace",
    "endpoint",
    "policies",
    "headers",
    "policy",
    "plan-b",
    "settings",
    "timeouts",
    "connect_ms",
    "attempts",
    "breaker",
    "key",
    "secret",
    "env",
    "file",
    "target",
    "name",
    "vendor",
    "\"sim\"",
    "sim",
    "errors",
    "route",
    "model",
    "targets",
    "\"a\"",
    "[[target]]\n",
    "[[route]]\n",
    "name = \"a\"\n",
    "model = \"*\"\n",
    "targets = [\"a\"]\n",
    "vendor = \"sim\"\n",
    "[server]\n",
    "[policy.p]\n",
    "tls = { certificate = \"/\", key = \"/\" }\n",
];

/// A configuration with every kind of table and without multi-line values, so that a key may be added below any of its
/// lines.
const WHOLE: &str = r#"
listen = "127.0.0.1:9000"
[server]
max_requests = 10
[log]
level = "debug"
[policies]
poll_ms = 100
[policy.plan-b]
deadline_ms = 3
[timeouts]
connect_ms = 100
[attempts]
max = 2
[breaker]
enabled = false
[[key]]
name = "team"
[key.secret]
env = "TEAM_KEY"
[[target]]
name = "gpt"
vendor = "openai"
model = "gpt-5"
[target.api_key]
env = "OPENAI_API_KEY"
[target.timeouts]
connect_ms = 50
[[route]]
model = "smart"
targets = ["gpt", "rest"]
policies = ["plan-b"]
"#;

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn no_mixture_of_pieces_makes_the_reader_panic(pieces in vec(select(PIECES), 0..60)) {
        let text = pieces.concat();
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.0.is_empty());
            let lines = text.matches('\n').count() + 1;
            prop_assert!(errors.0.iter().all(|error| error.line.is_none_or(|line| (1..=lines).contains(&line))));
        }
    }

    #[test]
    fn an_unknown_key_is_reported_with_its_line(key in "zz[a-z0-9_-]{0,20}", below in 0..WHOLE.lines().count()) {
        let mut lines: Vec<String> = format!("{WHOLE}{REST}").lines().map(str::to_owned).collect();
        lines.insert(below, format!("{key} = [1, \"two\"]"));
        let errors = all_errors(&lines.join("\n"));
        prop_assert_eq!(errors.len(), 1);
        let expected = format!("{}: unknown key `{key}`", below + 1);
        prop_assert!(errors[0].starts_with(&expected), "{}", errors[0]);
    }

    #[test]
    fn line_ends_do_not_matter(key in "zz[a-z]{1,9}", below in 0..WHOLE.lines().count()) {
        let mut lines: Vec<&str> = WHOLE.lines().chain(REST.lines()).collect();
        let unknown = format!("{key} = 1");
        lines.insert(below, &unknown);
        prop_assert_eq!(all_errors(&lines.join("\n")), all_errors(&lines.join("\r\n")));
    }
}

#[test]
fn the_whole_configuration_is_one() {
    parse(&format!("{WHOLE}{REST}")).unwrap();
}
