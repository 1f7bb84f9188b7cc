//! Tokens of Google Cloud, for Vertex: for a service account, for somebody who logged in with gcloud, or from the metadata server.
//!
//! <https://cloud.google.com/docs/authentication/application-default-credentials>

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use http::Uri;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::courier::{self, Courier, Letter, Reply};
use super::{Environment, Error, Fetch, Fresh, Object, Token, read_file, seconds, text};

/// What a token is asked for: all that the account may do. Vertex has no narrower one.
pub const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Where keys and refresh tokens are exchanged, unless the file says. <https://oauth2.googleapis.com>
pub const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";

/// The metadata server's usual name; `GCE_METADATA_HOST` replaces it.
pub const METADATA_HOST: &str = "metadata.google.internal";

const FILE_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// Elsewhere than at Google the metadata server's name does not exist, or nobody answers.
const METADATA_PATIENCE: Duration = Duration::from_secs(3);

/// Gives out tokens.
pub struct Google {
    courier: Courier,
    /// A file, which is read anew for each token.
    file: Option<PathBuf>,
    metadata_host: String,
}

impl Google {
    /// The file in `GOOGLE_APPLICATION_CREDENTIALS`, gcloud's own, or the metadata server: whichever is there first.
    pub fn from_environment(environment: Environment<'_>, courier: Courier) -> Self {
        let own = || gcloud_file(environment).filter(|file| file.exists());
        Self {
            courier,
            file: environment(FILE_VARIABLE).map(PathBuf::from).or_else(own),
            metadata_host: environment("GCE_METADATA_HOST").unwrap_or_else(|| METADATA_HOST.to_owned()),
        }
    }

    /// One file and nothing else: a service account's key, or a login of gcloud's.
    pub fn file(path: impl Into<PathBuf>, courier: Courier) -> Self {
        Self {
            courier,
            file: Some(path.into()),
            metadata_host: METADATA_HOST.to_owned(),
        }
    }

    async fn token(&self) -> Result<Fresh<Token>, Error> {
        let Some(file) = &self.file else {
            return self.metadata_token().await;
        };
        let unusable = |fault: String| unusable(file, fault);
        let written = read_file(file).await.map_err(|fault| fault.error(unusable))?;
        let Ok(Value::Object(account)) = serde_json::from_str(&written) else {
            return Err(unusable("is not a JSON object".to_owned()));
        };
        let letter = match text(&account, "type") {
            Some("service_account") => for_service_account(&account, SystemTime::now()),
            Some("authorized_user") => for_user(&account),
            Some(other) => Err(format!("is of type `{}`, which is not supported", excerpt(other))),
            None => Err("has no type".to_owned()),
        };
        read(&self.courier.ask(letter.map_err(unusable)?).await?)
    }

    /// <https://cloud.google.com/compute/docs/access/authenticate-workloads>
    async fn metadata_token(&self) -> Result<Fresh<Token>, Error> {
        const INSTEAD: &str = "set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file, run `gcloud auth \
                               application-default login`, or attach a service account to this machine";
        let path = "computeMetadata/v1/instance/service-accounts/default/token";
        let scope: String = form_urlencoded::byte_serialize(SCOPE.as_bytes()).collect();
        let url = format!("http://{}/{path}?scopes={scope}", self.metadata_host);
        let letter = Letter {
            within: Some(METADATA_PATIENCE),
            ..Letter::get("the metadata server", courier::url("GCE_METADATA_HOST", &url)?, INSTEAD)
        };
        // It proves that no browser was talked into asking.
        read(&self.courier.ask(letter.header("metadata-flavor", "Google")).await?)
    }
}

impl Fetch<Token> for Google {
    fn fetch(&self) -> BoxFuture<'_, Result<Fresh<Token>, Error>> {
        Box::pin(self.token())
    }
}

/// Where gcloud writes what `application-default login` gives it.
/// The file that the environment names, else gcloud's own.
pub fn credential_file(environment: Environment<'_>) -> Option<PathBuf> {
    let named = environment(FILE_VARIABLE).map(PathBuf::from);
    named.or_else(|| gcloud_file(environment))
}

fn gcloud_file(environment: Environment<'_>) -> Option<PathBuf> {
    const NAME: &str = "application_default_credentials.json";
    let folder = environment("CLOUDSDK_CONFIG").map(PathBuf::from);
    let home = || environment("HOME").map(|home| Path::new(&home).join(".config/gcloud"));
    Some(folder.or_else(home)?.join(NAME))
}

/// A service account's key is exchanged for a token by way of a claim that it signs.
///
/// <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>
fn for_service_account(account: &Object, now: SystemTime) -> Result<Letter, String> {
    const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    const INSTEAD: &str = "check that the key still exists in IAM, and this machine's clock";
    let url = token_url(account)?;
    let claim = signed_claim(account, &url, now)?;
    let letter = Letter::post("Google's token service", url, INSTEAD)
        .field("grant_type", GRANT)
        .field("assertion", &claim);
    Ok(letter)
}

/// Somebody's own login is refreshed.
fn for_user(account: &Object) -> Result<Letter, String> {
    const INSTEAD: &str = "run `gcloud auth application-default login` again";
    let mut letter =
        Letter::post("Google's token service", token_url(account)?, INSTEAD).field("grant_type", "refresh_token");
    for name in ["client_id", "client_secret", "refresh_token"] {
        letter = letter.field(name, required(account, name)?);
    }
    Ok(letter)
}

/// A JSON Web Token, signed with the account's RSA key (RS256).
fn signed_claim(account: &Object, url: &Uri, now: SystemTime) -> Result<String, String> {
    let issued = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut head = json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(id) = text(account, "private_key_id") {
        head["kid"] = id.into();
    }
    let claim = json!({
        "iss": required(account, "client_email")?,
        "scope": SCOPE,
        "aud": url.to_string(),
        "iat": issued,
        // As far ahead as is allowed.
        "exp": issued + 3600,
    });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&head), encode(&claim));
    let signature = signature(required(account, "private_key")?, signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn signature(key: &str, message: &[u8]) -> Result<Vec<u8>, String> {
    // What is wrong with a key is not said in more words: they could hold a part of it.
    let broken = || "has a private_key that is no RSA key".to_owned();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| broken())?;
    let key = any_supported_type(&key).map_err(|_| broken())?;
    let signer = key
        .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
        .ok_or_else(broken)?;
    signer.sign(message).map_err(|_| broken())
}

/// Secrets go there: it must be reached over TLS.
fn token_url(account: &Object) -> Result<Uri, String> {
    let url = text(account, "token_uri").unwrap_or(TOKEN_URL);
    courier::safe_url("token_uri", url).map_err(|_| "has a token_uri that is no https:// address".to_owned())
}

fn required<'a>(account: &'a Object, name: &str) -> Result<&'a str, String> {
    text(account, name).ok_or_else(|| format!("has no {name}"))
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

fn unusable(file: &Path, fault: String) -> Error {
    Error::Unusable {
        place: file.display().to_string(),
        fault,
        instead: format!(
            "point {FILE_VARIABLE} at the JSON key of a service account, or at the file that `gcloud auth application-default login` \
             writes"
        ),
    }
}

fn read(reply: &Reply) -> Result<Fresh<Token>, Error> {
    let object = reply.object()?;
    let token = text(&object, "access_token").and_then(Token::new);
    Ok(Fresh {
        value: token.ok_or_else(|| reply.malformed("has no access_token"))?,
        lifetime: Some(Duration::from_secs(
            seconds(&object, "expires_in").ok_or_else(|| reply.malformed("has no expires_in"))?,
        )),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::credential::desk::{Desk, courier, environment};

    /// Made for these tests with `openssl genrsa`; it opens nothing.
    const TEST_KEY: &str = include_str!("testdata/test-key.pem");
    const TEST_KEY_PUBLIC: &[u8] = include_bytes!("testdata/test-key.public.der");

    fn file(content: &Value) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content.to_string()).unwrap();
        file
    }

    fn service_account(desk: &Desk) -> Value {
        json!({
            "type": "service_account",
            "client_email": "gateway@project.iam.gserviceaccount.com",
            "private_key": TEST_KEY,
            "private_key_id": "key-1",
            "token_uri": desk.url("/token"),
        })
    }

    fn verify(message: &[u8], signature: &[u8]) {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let rsa = algorithms
            .all
            .iter()
            .find(|one| one.signature_alg_id() == rustls_pki_types::alg_id::RSA_PKCS1_SHA256)
            .unwrap();
        rsa.verify_signature(TEST_KEY_PUBLIC, message, signature).unwrap();
    }

    fn decoded(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_service_account_signs_for_a_token() {
        let desk = Desk::answering([(
            200,
            r#"{"access_token":"ya29.one","expires_in":3599,"token_type":"Bearer"}"#,
        )])
        .await;
        let file = file(&service_account(&desk));
        let fresh = Google::file(file.path(), courier()).fetch().await.unwrap();
        assert_eq!(fresh.value.header(), "Bearer ya29.one");
        assert_eq!(fresh.lifetime, Some(Duration::from_secs(3599)));

        let asked = desk.asked().remove(0);
        assert_eq!(asked.line, "POST /token");
        assert_eq!(asked.field("grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let assertion = asked.field("assertion");
        let (signed, signature) = assertion.rsplit_once('.').unwrap();
        verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap());
        let (head, claim) = signed.split_once('.').unwrap();
        assert_eq!(decoded(head), json!({ "alg": "RS256", "typ": "JWT", "kid": "key-1" }));
        let claim = decoded(claim);
        assert_eq!(claim["iss"], "gateway@project.iam.gserviceaccount.com");
        assert_eq!(claim["aud"].as_str().unwrap(), desk.url("/token"));
        assert_eq!(claim["exp"].as_u64().unwrap() - claim["iat"].as_u64().unwrap(), 3600);
    }

    #[tokio::test]
    async fn a_refusal_says_why_and_repeats_no_secret() {
        let desk = Desk::echoing(400).await;
        let file = file(&json!({
            "type": "authorized_user",
            "client_id": "id",
            "client_secret": "hush-client-secret",
            "refresh_token": "1//hush-refresh-token",
            "token_uri": desk.url("/token"),
        }));
        let error = Google::file(file.path(), courier()).fetch().await.unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("400") && said.contains("gcloud auth"), "{said}");
        assert!(!said.contains("hush"), "{said}");
    }

    #[tokio::test]
    async fn the_metadata_server_is_asked_when_there_is_no_file() {
        let desk = Desk::answering([(200, r#"{"access_token":"ya29.two","expires_in":200}"#)]).await;
        let host = desk.host();
        let environment = environment(&[("GCE_METADATA_HOST", &host)]);
        let google = Google::from_environment(&environment, courier());
        assert_eq!(google.fetch().await.unwrap().value.header(), "Bearer ya29.two");
        let asked = desk.asked().remove(0);
        assert!(
            asked
                .line
                .starts_with("GET /computeMetadata/v1/instance/service-accounts/default/token?"),
            "{}",
            asked.line
        );
        assert_eq!(asked.header("metadata-flavor"), "Google");
    }

    #[tokio::test]
    async fn unusable_files_say_what_to_do_and_nothing_of_the_key() {
        let cases = [
            (json!({ "type": "external_account" }), "`external_account`"),
            (
                json!({ "type": "service_account", "client_email": "a", "private_key": "hush" }),
                "no RSA key",
            ),
            (
                json!({ "type": "service_account", "client_email": "a" }),
                "no private_key",
            ),
            (
                json!({ "type": "authorized_user", "token_uri": "http://token.example/" }),
                "token_uri that is no https",
            ),
        ];
        for (content, expected) in cases {
            let file = file(&content);
            let error = Google::file(file.path(), courier())
                .fetch()
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected) && error.contains(FILE_VARIABLE), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_source_of_tokens_asks_once() {
        let desk = Desk::answering([(200, r#"{"access_token":"ya29.one","expires_in":3599}"#)]).await;
        let file = file(&service_account(&desk));
        let source = crate::credential::Source::new("Google's token", Google::file(file.path(), courier()));
        let (one, two) = tokio::join!(source.get(), source.get());
        assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
        assert_eq!(desk.asked().len(), 1);
        assert!(!format!("{source:?}").contains("ya29"));
    }
}
