//! Where secrets come from, what is wrong with them, and that nothing ever prints one.

use std::fs;
use std::path::Path;

use super::super::{Config, Secret};
use super::{REST, config, env, errors};

/// The errors of a key whose secret is written like this, on line 3.
fn secret_errors(secret: &str) -> Vec<String> {
    errors(&format!("[[key]]\nname = \"team\"\nsecret = {secret}"))
}

#[test]
fn a_secret_comes_from_the_environment() {
    let config = config("[[key]]\nname = \"team\"\nsecret = { env = \"TEAM_KEY\" }");
    assert_eq!(config.keys[0].secret, Some(Secret::new("team-secret")));
}

#[test]
fn a_secret_comes_from_a_file_without_the_newline_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("team"), "from-a-file\r\n").unwrap();
    let text = format!("[[key]]\nname = \"team\"\nsecret = {{ file = \"team\" }}{REST}");
    let config = Config::parse(&text, Path::new("s.toml"), folder.path(), &env).unwrap();
    assert_eq!(config.keys[0].secret.as_ref().unwrap().reveal(), "from-a-file");
}

#[test]
fn a_secret_must_be_a_reference() {
    const REMEDY: &str = "write { env = \"NAME\" } or { file = \"PATH\" }";
    for written in ["\"sk-live-123\"", "123", "[\"sk-live-123\"]"] {
        let error = "3: `secret` in [[key]] is written out; secrets do not belong in this file:";
        assert_eq!(secret_errors(written), [format!("{error} {REMEDY}")]);
    }
    for written in ["{}", "{ env = \"TEAM_KEY\", file = \"team\" }"] {
        assert_eq!(
            secret_errors(written),
            [format!("3: `secret` in [[key]] must say where the secret is; {REMEDY}")]
        );
    }
    assert_eq!(
        secret_errors("{ evn = \"TEAM_KEY\" }"),
        [
            format!("3: `secret` in [[key]] must say where the secret is; {REMEDY}"),
            "3: unknown key `evn` in secret of [[key]]; did you mean `env`?".to_owned(),
        ]
    );
    assert_eq!(
        errors("[[key]]\nname = \"team\""),
        ["1: `secret` is missing in [[key]]; write secret = { env = \"NAME\" }"]
    );
}

#[test]
fn what_a_secret_refers_to_must_be_there() {
    for (written, error) in [
        (
            "{ env = \"UNSET\" }",
            "environment variable `UNSET` for secret of [[key]] is not set; set it to the secret alone",
        ),
        (
            "{ env = \"EMPTY\" }",
            "environment variable `EMPTY` for secret of [[key]] is empty; set it to the secret alone",
        ),
        (
            "{ env = \"TWO_LINES\" }",
            "environment variable `TWO_LINES` for secret of [[key]] holds a character that a header cannot carry; set \
             it to the secret alone",
        ),
        (
            "{ file = \"none.txt\" }",
            "file `/gateway/none.txt` for secret of [[key]] cannot be read: No such file or directory (os error 2); \
             write the path of a file that holds the secret alone",
        ),
        (
            "{ env = \"\" }",
            "`env` in secret of [[key]] is empty; write env = \"…\"",
        ),
    ] {
        assert_eq!(secret_errors(written), [format!("3: {error}")]);
    }
    let folder = tempfile::tempdir().unwrap();
    for (content, fault) in [(&b" \n"[..], "is empty"), (b"\xff", "is not text")] {
        fs::write(folder.path().join("team"), content).unwrap();
        let text = format!("[[key]]\nname = \"team\"\nsecret = {{ file = \"team\" }}{REST}");
        let errors = Config::parse(&text, Path::new("s.toml"), folder.path(), &env)
            .unwrap_err()
            .to_string();
        let expected =
            format!("team` for secret of [[key]] {fault}; write the path of a file that holds the secret alone");
        assert!(errors.ends_with(&expected), "{errors}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    const KEY: &str = "sk-proj-0123456789abcdefghij";
    for written in [
        format!("\"{KEY}\""),
        format!("{{ env = \"{KEY}\" }}"),
        format!("{{ file = \"{KEY}\" }}"),
        format!("{{ value = \"{KEY}\" }}"),
        KEY.to_owned(),
        format!("\"{KEY}"),
        format!("{{ env = {KEY} }}"),
        format!("[[\"{KEY}\"]]"),
        format!("{KEY} # \"{KEY}\""),
    ] {
        for text in [
            format!("[[key]]\nname = \"team\"\nsecret = {written}"),
            format!("[[target]]\nname = \"t\"\nvendor = \"openai\"\nmodel = \"m\"\napi_key = {written}"),
        ] {
            let errors = errors(&text).join("\n");
            assert!(!errors.is_empty() && !errors.contains("0123456789"), "{errors}");
        }
    }
    let address =
        format!("[[target]]\nname = \"t\"\nvendor = \"vllm\"\nmodel = \"m\"\nbase_url = \"http://{KEY}@host/v1\"");
    assert!(!errors(&address).join("\n").contains(KEY));
}

#[test]
fn nothing_prints_a_secret() {
    let text = "listen = \"0.0.0.0:80\"\n[[key]]\nname = \"team\"\nsecret = { env = \"TEAM_KEY\" }\n[[target]]\nname \
    = \"t\"\n\
                vendor = \"openai\"\nmodel = \"m\"\napi_key = { env = \"OPENAI_API_KEY\" }\nbase_url = \
                \"http://proxy/v1\"";
    let config = config(text);
    let warnings: String = config.warnings.iter().map(ToString::to_string).collect();
    for printed in [format!("{config:?}"), format!("{config:#?}"), warnings] {
        assert!(!printed.contains("-secret"), "{printed}");
    }
    assert_eq!(format!("{:?}", config.keys[0].secret), "Some(Secret(…))");
}
