use std::path::PathBuf;

use super::*;
use crate::credential::desk::{Desk, courier, environment};

const ID: &str = "AKIDEXAMPLE";

fn keys_json(names: [&str; 3], expiration: &str) -> String {
    let [id, secret, token] = names;
    format!(
        r#"{{"Code":"Success","{id}":"ASIAROLE","{secret}":"hush-secret","{token}":"hush-token","Expiration":{expiration}}}"#
    )
}

fn role_json(expiration: &str) -> String {
    keys_json(
        ["AccessKeyId", "SecretAccessKey", "Token"],
        &format!("\"{expiration}\""),
    )
}

fn in_an_hour() -> String {
    let later = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    let (date, (hour, minute, second)) = (later.date(), later.time().as_hms());
    format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
}

fn is_an_hour(lifetime: Option<Duration>) -> bool {
    (3590..=3600).contains(&lifetime.unwrap().as_secs())
}

async fn fetch(variables: &[(&str, &str)]) -> Result<Fresh<Keys>, Error> {
    let environment = environment(variables);
    Chain::from_environment(&environment, courier())?.fetch().await
}

struct Files {
    _folder: tempfile::TempDir,
    credentials: PathBuf,
    config: PathBuf,
}

impl Files {
    fn new(credentials: &str, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self {
            credentials: folder.path().join("credentials"),
            config: folder.path().join("config"),
            _folder: folder,
        };
        std::fs::write(&files.credentials, credentials).unwrap();
        std::fs::write(&files.config, config).unwrap();
        files
    }

    async fn fetch(&self, variables: &[(&str, &str)]) -> Result<Fresh<Keys>, Error> {
        let mut all = vec![
            ("AWS_SHARED_CREDENTIALS_FILE", self.credentials.to_str().unwrap()),
            ("AWS_CONFIG_FILE", self.config.to_str().unwrap()),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        all.extend(variables);
        fetch(&all).await
    }
}

#[tokio::test]
async fn variables_go_first() {
    let variables = [
        ("AWS_ACCESS_KEY_ID", ID),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("AWS_SESSION_TOKEN", "hush-token"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/"),
    ];
    let fresh = fetch(&variables).await.unwrap();
    assert_eq!((fresh.value.access_key_id(), fresh.lifetime), (ID, None));
    assert!(!format!("{fresh:?}").contains("hush"));
    assert_eq!(fresh.value.redact("bad hush-token"), "bad [key]-token");
}

#[tokio::test]
async fn half_a_key_is_an_error() {
    let error = fetch(&[("AWS_ACCESS_KEY_ID", ID)]).await.unwrap_err().to_string();
    assert!(error.contains("AWS_SECRET_ACCESS_KEY is not"), "{error}");
}

#[tokio::test]
async fn a_profile_is_read_from_both_files() {
    let files = Files::new(
        "# comment\n[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = a=b\n",
        "[profile other]\nregion = eu-central-1\ns3 =\n  aws_access_key_id = no\naws_access_key_id=AKIDOTHER\n\
         aws_secret_access_key=c\n[profile sso]\nsso_session = x\n",
    );
    let id = |fresh: Fresh<Keys>| fresh.value.access_key_id().to_owned();
    assert_eq!(id(files.fetch(&[]).await.unwrap()), "AKIDDEFAULT");
    assert_eq!(id(files.fetch(&[("AWS_PROFILE", "other")]).await.unwrap()), "AKIDOTHER");
    let missing = files.fetch(&[("AWS_PROFILE", "typo")]).await.unwrap_err().to_string();
    assert!(missing.contains("`typo` is in neither file"), "{missing}");
    if cfg!(not(feature = "aws-config")) {
        let sso = files.fetch(&[("AWS_PROFILE", "sso")]).await.unwrap_err().to_string();
        assert!(sso.contains("--features aws-config"), "{sso}");
    }
}

#[tokio::test]
async fn a_container_shows_its_token() {
    let desk = Desk::answering([(200, role_json(&in_an_hour()).as_str())]).await;
    let url = desk.url("/v1/credentials?a=b");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from-file\n").unwrap();
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.path().to_str().unwrap()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "from-variable"),
    ];
    let fresh = fetch(&variables).await.unwrap();
    assert_eq!(fresh.value.access_key_id(), "ASIAROLE");
    assert!(is_an_hour(fresh.lifetime));
    let asked = desk.asked().remove(0);
    assert_eq!(asked.line, "GET /v1/credentials?a=b");
    assert_eq!(asked.header("authorization"), "from-file");
}

#[tokio::test]
async fn a_container_asks_nobody_on_the_network_in_the_clear() {
    let elsewhere = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://keys.example/")];
    let error = fetch(&elsewhere).await.unwrap_err().to_string();
    assert!(error.contains("https://"), "{error}");
    let platform = environment(&[(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "http://169.254.170.23/v1/credentials",
    )]);
    assert!(Container::from_environment(&platform).unwrap().is_some());
    let platform = environment(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1")]);
    assert!(Container::from_environment(&platform).unwrap().is_some());
}

async fn from_instance(expiration: &str) -> (Fresh<Keys>, Desk) {
    let role = role_json(expiration);
    let desk = Desk::answering([(200, "a-session"), (200, "gateway-role\n"), (200, &role)]).await;
    let base = desk.url("/");
    let fresh = fetch(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &base)]).await.unwrap();
    (fresh, desk)
}

#[tokio::test]
async fn an_instance_has_a_session_with_its_metadata_server() {
    let (fresh, desk) = from_instance(&in_an_hour()).await;
    assert_eq!(fresh.value.access_key_id(), "ASIAROLE");
    assert!(is_an_hour(fresh.lifetime));
    let asked = desk.asked();
    let lines: Vec<_> = asked.iter().map(|asked| asked.line.as_str()).collect();
    let roles = "/latest/meta-data/iam/security-credentials/";
    assert_eq!(
        lines,
        [
            "PUT /latest/api/token".to_owned(),
            format!("GET {roles}"),
            format!("GET {roles}gateway-role")
        ]
    );
    assert_eq!(asked[0].header("x-aws-ec2-metadata-token-ttl-seconds"), "300");
    assert_eq!(asked[2].header("x-aws-ec2-metadata-token"), "a-session");
}

#[tokio::test]
async fn an_instance_whose_keys_are_not_renewed_goes_on_with_them() {
    let (fresh, _) = from_instance("2020-01-01T00:00:00Z").await;
    assert_eq!(fresh.lifetime, Some(Duration::from_secs(600)));
}

#[tokio::test]
async fn a_web_identity_takes_its_role() {
    let credentials = keys_json(["AccessKeyId", "SecretAccessKey", "SessionToken"], "4102444800.0");
    let answer = format!(
        r#"{{"AssumeRoleWithWebIdentityResponse":{{"AssumeRoleWithWebIdentityResult":{{"Credentials":{credentials}}}}}}}"#
    );
    let desk = Desk::answering([(200, answer.as_str())]).await;
    let url = desk.url("/");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "eyJ.identity").unwrap();
    let variables = [
        ("AWS_ENDPOINT_URL_STS", url.as_str()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.path().to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gateway"),
    ];
    let fresh = fetch(&variables).await.unwrap();
    assert_eq!(fresh.value.access_key_id(), "ASIAROLE");
    assert!(fresh.lifetime.unwrap() > Duration::from_secs(86400));
    let asked = desk.asked().remove(0);
    assert_eq!(asked.header("accept"), "application/json");
    assert_eq!(asked.field("Action"), "AssumeRoleWithWebIdentity");
    assert_eq!(asked.field("WebIdentityToken"), "eyJ.identity");
}

#[tokio::test]
async fn nothing_anywhere_says_what_to_set() {
    let error = fetch(&[("AWS_EC2_METADATA_DISABLED", "true")])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no AWS credentials") && error.contains("AWS_PROFILE"),
        "{error}"
    );
    let silent = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")];
    let error = fetch(&silent).await.unwrap_err().to_string();
    assert!(
        error.contains("no AWS credentials") && error.contains("metadata server"),
        "{error}"
    );
}

#[tokio::test]
async fn too_long_an_answer_is_none() {
    let long = "x".repeat(100_000);
    let desk = Desk::answering([(200, long.as_str())]).await;
    let url = desk.url("/");
    let error = fetch(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("longer than 65536 bytes"), "{error}");
}

#[test]
fn a_bearer_key_is_taken_as_it_is() {
    let set = environment(&[(BEARER_VARIABLE, "bedrock-api-key-hush")]);
    let vendor = Uri::from_static("https://bedrock-runtime.eu-west-1.amazonaws.com");
    let token = bearer_token(&set, &vendor).unwrap().unwrap();
    assert_eq!(token.header(), "Bearer bedrock-api-key-hush");
    assert!(bearer_token(&environment(&[]), &vendor).unwrap().is_none());
    let broken = environment(&[(BEARER_VARIABLE, "hush hush")]);
    for (variables, to) in [(&broken, vendor), (&set, Uri::from_static("http://proxy.example/"))] {
        let error = bearer_token(variables, &to).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"));
    }
}
