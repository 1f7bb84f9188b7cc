//! `check`: what it finds, what it prints, and that it leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use super::running::binary;
use super::setup::ready_made;

const REAL: &str = r#"
[server]
tls = { certificate = "/etc/tls/server.pem", key = "/etc/tls/server-key.pem" }
[[key]]
name = "team"
secret = { file = "/run/secrets/team" }
[[target]]
name = "gpt"
vendor = "openai"
model = "gpt-5.4"
api_key = { env = "OPENAI_API_KEY" }
[[route]]
model = "smart"
targets = ["gpt"]
policies = ["plan-b"]
"#;

fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pointsman.toml"), config).unwrap();
    folder
}

fn check(folder: &Path, arguments: &[&str]) -> Output {
    let mut check = binary();
    check.current_dir(folder).args(["check", "--config", "pointsman.toml"]);
    check.args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn secrets_that_are_not_there_are_no_errors_where_they_are_not_wanted() {
    let folder = folder(REAL);
    let strict = check(folder.path(), &[]);
    assert_eq!(strict.status.code(), Some(1));
    for place in ["OPENAI_API_KEY", "/run/secrets/team", "/etc/tls/server-key.pem"] {
        assert!(text(&strict.stderr).contains(place), "{}", text(&strict.stderr));
    }
    let lenient = check(folder.path(), &["--without-secrets"]);
    assert_eq!(lenient.status.code(), Some(0), "{}", text(&lenient.stderr));
    let said = text(&lenient.stdout);
    for line in [
        "  target gpt              openai gpt-5.4",
        "  policy plan-b           ready-made",
        "  not read: environment variable OPENAI_API_KEY",
        "  not read: file /etc/tls/server-key.pem",
    ] {
        assert!(said.lines().any(|said| said == line), "{line:?} in\n{said}");
    }
}

/// Nothing is missed because something else is wrong, and each thing has its line and a near name.
#[test]
fn errors_of_the_configuration_and_of_policies_come_together() {
    let wrong = REAL
        .replace("targets = [\"gpt\"]", "targets = [\"gtp\"]")
        .replace("policies = [\"plan-b\"]", "policies = [\"planb\", \"mine\"]\nprice = 1");
    let folder = folder(&wrong);
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/mine.wasm"), &ready_made("plan-b")[..500]).unwrap();
    let output = check(folder.path(), &["--without-secrets"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    for (line, word) in [
        (14, "did you mean `gpt`?"),
        (15, "policy `planb`"),
        (15, "did you mean `plan-b`?"),
        (15, "policy `mine`"),
        (16, "unknown key `price`"),
    ] {
        let begin = format!("pointsman.toml:{line}: ");
        assert!(
            errors
                .lines()
                .any(|error| error.starts_with(&begin) && error.contains(word)),
            "{word} on line {line} in\n{errors}"
        );
    }
}

#[test]
fn it_leaves_nothing_behind() {
    let (folder, temporary) = (folder(REAL), tempfile::tempdir().unwrap());
    let mut command = binary();
    command.current_dir(folder.path()).env("TMPDIR", temporary.path());
    let output = command
        .args(["check", "--config", "pointsman.toml", "--without-secrets"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for folder in [folder.path(), temporary.path()] {
        let left: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        let left: Vec<_> = left.iter().filter(|name| *name != "pointsman.toml").collect();
        assert!(left.is_empty(), "{left:?} in {}", folder.display());
    }
}

#[test]
fn machines_read_json() {
    let folder = folder(REAL);
    let json = |arguments: &[&str]| -> (Option<i32>, Value) {
        let output = check(folder.path(), arguments);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    };
    let (code, good) = json(&["--without-secrets", "--json"]);
    assert_eq!((code, &good["ok"]), (Some(0), &Value::Bool(true)));
    assert_eq!(good["targets"][0]["name"], "gpt");
    assert_eq!(good["policies"][0]["from"], "ready-made");
    assert_eq!(good["errors"], serde_json::json!([]));
    let (code, bad) = json(&["--json"]);
    assert_eq!((code, &bad["ok"]), (Some(1), &Value::Bool(false)));
    assert_eq!(bad["errors"][0]["file"], "pointsman.toml");
    assert_eq!(bad["errors"][0]["line"], 3);
}
