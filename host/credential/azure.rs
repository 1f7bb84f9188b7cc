//! Tokens of Microsoft Entra, for Azure: for an application with a secret, for a workload that a cluster vouches for, or for the
//! identity that a machine was given.
//!
//! <https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow>

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use http::Uri;

use super::courier::{self, Courier, Letter, Reply};
use super::{Environment, Error, Fetch, Fresh, Token, read_file, seconds, text};
use crate::config::Secret;

/// What a token is good for, if nobody says otherwise: the models of Azure OpenAI and Foundry.
pub const SCOPE: &str = "https://cognitiveservices.azure.com/.default";

/// Who gives tokens out in the public cloud; `AZURE_AUTHORITY_HOST` replaces it.
pub const AUTHORITY: &str = "https://login.microsoftonline.com";

/// The metadata server of a machine; `AZURE_POD_IDENTITY_AUTHORITY_HOST` replaces it.
///
/// <https://learn.microsoft.com/en-us/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>
pub const METADATA: &str = "http://169.254.169.254";

/// Elsewhere than at Azure nobody answers there.
const METADATA_PATIENCE: Duration = Duration::from_secs(3);

const WHO: &str = "Entra";

/// Gives out tokens.
pub struct Azure {
    courier: Courier,
    scope: String,
    identity: Identity,
}

/// Who asks for a token.
enum Identity {
    /// An application, at an authority's address.
    Application { url: Uri, client: String, proof: Proof },
    /// What `IDENTITY_ENDPOINT` gives out: App Service, Functions, Container Apps.
    Service {
        url: Uri,
        header: Secret,
        client: Option<String>,
    },
    /// What a virtual machine's metadata server gives out.
    Machine { base: String, client: Option<String> },
}

enum Proof {
    Secret(Secret),
    /// A token of the cluster's, read anew each time: it is replaced while we run.
    File(PathBuf),
}

impl Azure {
    /// An application's secret, a workload's token, or a managed identity: whichever the variables are set for. `scope` is [`SCOPE`]
    /// unless the configuration says otherwise.
    pub fn from_environment(environment: Environment<'_>, scope: &str, courier: Courier) -> Result<Self, Error> {
        let secret = environment("AZURE_CLIENT_SECRET").map(|secret| Proof::Secret(Secret::new(secret)));
        let file = || environment("AZURE_FEDERATED_TOKEN_FILE").map(|path| Proof::File(path.into()));
        let identity = match secret.or_else(file) {
            Some(proof) => application(environment, proof)?,
            None => managed(environment)?,
        };
        Ok(Self {
            courier,
            scope: scope.to_owned(),
            identity,
        })
    }

    async fn token(&self) -> Result<Fresh<Token>, Error> {
        let letter = match &self.identity {
            Identity::Application { url, client, proof } => self.for_application(url, client, proof).await?,
            Identity::Service { url, header, client } => self.for_service(url, header, client.as_deref())?,
            Identity::Machine { base, client } => self.for_machine(base, client.as_deref())?,
        };
        read(&self.courier.ask(letter).await?)
    }

    async fn for_application(&self, url: &Uri, client: &str, proof: &Proof) -> Result<Letter, Error> {
        const INSTEAD: &str =
            "check AZURE_TENANT_ID, AZURE_CLIENT_ID and that the secret or federation has not expired";
        const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let letter = Letter::post(WHO, url.clone(), INSTEAD)
            .field("grant_type", "client_credentials")
            .field("client_id", client)
            .field("scope", &self.scope);
        Ok(match proof {
            Proof::Secret(secret) => letter.field("client_secret", secret.reveal()),
            Proof::File(path) => {
                let unusable = |fault| Error::Unusable {
                    place: path.display().to_string(),
                    fault,
                    instead: "point AZURE_FEDERATED_TOKEN_FILE at the file that the cluster mounts".to_owned(),
                };
                let assertion = read_file(path).await.map_err(|fault| fault.error(unusable))?;
                letter
                    .field("client_assertion_type", ASSERTION)
                    .field("client_assertion", assertion.trim())
            }
        })
    }

    /// <https://learn.microsoft.com/en-us/azure/app-service/overview-managed-identity#rest-endpoint-reference>
    fn for_service(&self, url: &Uri, header: &Secret, client: Option<&str>) -> Result<Letter, Error> {
        const INSTEAD: &str = "give this app a managed identity, or set AZURE_CLIENT_ID to the one that it has";
        let query = self.query("2019-08-01", client);
        let url = courier::url("IDENTITY_ENDPOINT", &format!("{url}?{query}"))?;
        Ok(Letter::get("the identity endpoint", url, INSTEAD).header("x-identity-header", header.reveal()))
    }

    fn for_machine(&self, base: &str, client: Option<&str>) -> Result<Letter, Error> {
        const INSTEAD: &str =
            "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or give this machine a managed identity";
        let query = self.query("2018-02-01", client);
        let url = courier::url(
            "AZURE_POD_IDENTITY_AUTHORITY_HOST",
            &format!("{base}/metadata/identity/oauth2/token?{query}"),
        )?;
        let letter = Letter {
            within: Some(METADATA_PATIENCE),
            ..Letter::get("the machine's metadata server", url, INSTEAD)
        };
        Ok(letter.header("metadata", "true"))
    }

    /// Managed identities know resources, which are scopes without their end.
    fn query(&self, version: &str, client: Option<&str>) -> String {
        let resource = self.scope.strip_suffix("/.default").unwrap_or(&self.scope);
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("api-version", version)
            .append_pair("resource", resource);
        if let Some(client) = client {
            query.append_pair("client_id", client);
        }
        query.finish()
    }
}

impl Fetch<Token> for Azure {
    fn fetch(&self) -> BoxFuture<'_, Result<Fresh<Token>, Error>> {
        Box::pin(self.token())
    }
}

fn application(environment: Environment<'_>, proof: Proof) -> Result<Identity, Error> {
    let required = |name: &str| {
        environment(name).ok_or_else(|| Error::Unusable {
            place: name.to_owned(),
            fault: "is not set".to_owned(),
            instead: "set it as the application's page in Entra shows it".to_owned(),
        })
    };
    let tenant = required("AZURE_TENANT_ID")?;
    let authority = environment("AZURE_AUTHORITY_HOST").unwrap_or_else(|| AUTHORITY.to_owned());
    let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
    Ok(Identity::Application {
        url: courier::safe_url("AZURE_AUTHORITY_HOST with AZURE_TENANT_ID", &url)?,
        client: required("AZURE_CLIENT_ID")?,
        proof,
    })
}

fn managed(environment: Environment<'_>) -> Result<Identity, Error> {
    let client = environment("AZURE_CLIENT_ID");
    let Some(endpoint) = environment("IDENTITY_ENDPOINT") else {
        let base = environment("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| METADATA.to_owned());
        let base = base.trim_end_matches('/').to_owned();
        return Ok(Identity::Machine { base, client });
    };
    let header = environment("IDENTITY_HEADER").filter(|_| environment("IDENTITY_SERVER_THUMBPRINT").is_none());
    Ok(Identity::Service {
        url: courier::url("IDENTITY_ENDPOINT", &endpoint)?,
        header: Secret::new(header.ok_or_else(|| Error::Unusable {
            place: "IDENTITY_ENDPOINT".to_owned(),
            fault: "is of Azure Arc or Service Fabric, which are not supported".to_owned(),
            instead: "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET".to_owned(),
        })?),
        client,
    })
}

/// Some answers say how long the token will do, some only until when.
fn read(reply: &Reply) -> Result<Fresh<Token>, Error> {
    let object = reply.object()?;
    let token = text(&object, "access_token").and_then(Token::new);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let until = seconds(&object, "expires_on").map(|at| at.saturating_sub(now.as_secs()));
    let lifetime = seconds(&object, "expires_in").or(until);
    Ok(Fresh {
        value: token.ok_or_else(|| reply.malformed("has no access_token"))?,
        lifetime: Some(Duration::from_secs(
            lifetime.ok_or_else(|| reply.malformed("has no expires_in"))?,
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::desk::{Desk, courier, environment};

    const YES: &str = r#"{"token_type":"Bearer","expires_in":"3599","access_token":"eyJ.one"}"#;

    #[tokio::test]
    async fn an_application_proves_itself_with_its_secret() {
        let desk = Desk::answering([(200, YES)]).await;
        let authority = desk.url("/");
        let environment = environment(&[
            ("AZURE_AUTHORITY_HOST", &authority),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_CLIENT_SECRET", "s~cret+/="),
        ]);
        let fresh = Azure::from_environment(&environment, SCOPE, courier())
            .unwrap()
            .fetch()
            .await
            .unwrap();
        assert_eq!(fresh.value.header(), "Bearer eyJ.one");
        assert_eq!(fresh.lifetime, Some(Duration::from_secs(3599)));
        let asked = desk.asked().remove(0);
        assert_eq!(asked.line, "POST /tenant/oauth2/v2.0/token");
        assert_eq!(asked.field("grant_type"), "client_credentials");
        assert_eq!(asked.field("client_id"), "client");
        assert_eq!(asked.field("client_secret"), "s~cret+/=");
        assert_eq!(asked.field("scope"), SCOPE);
    }

    #[tokio::test]
    async fn a_workload_shows_the_clusters_token_as_it_is_now() {
        let desk = Desk::answering([(200, YES), (200, YES)]).await;
        let authority = desk.url("");
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let environment = environment(&[
            ("AZURE_AUTHORITY_HOST", &authority),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_FEDERATED_TOKEN_FILE", path),
        ]);
        let azure = Azure::from_environment(&environment, SCOPE, courier()).unwrap();
        for token in ["first", "second"] {
            std::fs::write(file.path(), format!("{token}\n")).unwrap();
            azure.fetch().await.unwrap();
        }
        let shown: Vec<_> = desk
            .asked()
            .iter()
            .map(|asked| asked.field("client_assertion"))
            .collect();
        assert_eq!(shown, ["first", "second"]);
    }

    #[tokio::test]
    async fn a_machine_asks_its_metadata_server() {
        let desk = Desk::answering([(200, YES)]).await;
        let base = desk.url("");
        let environment = environment(&[
            ("AZURE_POD_IDENTITY_AUTHORITY_HOST", &base),
            ("AZURE_CLIENT_ID", "mine"),
        ]);
        Azure::from_environment(&environment, SCOPE, courier())
            .unwrap()
            .fetch()
            .await
            .unwrap();
        let asked = desk.asked().remove(0);
        assert_eq!(
            asked.line,
            "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fcognitiveservices.azure.com\
             &client_id=mine"
        );
        assert_eq!(asked.header("metadata"), "true");
    }

    #[tokio::test]
    async fn a_service_asks_its_identity_endpoint() {
        let later = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            + 1000;
        let yes = format!(r#"{{"access_token":"eyJ.two","expires_on":"{later}"}}"#);
        let desk = Desk::answering([(200, yes.as_str())]).await;
        let endpoint = desk.url("/msi/token");
        let environment = environment(&[("IDENTITY_ENDPOINT", &endpoint), ("IDENTITY_HEADER", "a-header")]);
        let fresh = Azure::from_environment(&environment, SCOPE, courier())
            .unwrap()
            .fetch()
            .await
            .unwrap();
        assert!((990..=1000).contains(&fresh.lifetime.unwrap().as_secs()));
        let asked = desk.asked().remove(0);
        assert!(
            asked
                .line
                .starts_with("GET /msi/token?api-version=2019-08-01&resource="),
            "{}",
            asked.line
        );
        assert_eq!(asked.header("x-identity-header"), "a-header");
    }

    #[tokio::test]
    async fn a_refusal_repeats_no_secret() {
        let desk = Desk::echoing(401).await;
        let authority = desk.url("");
        let environment = environment(&[
            ("AZURE_AUTHORITY_HOST", &authority),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_CLIENT_SECRET", "hush-secret"),
        ]);
        let error = Azure::from_environment(&environment, SCOPE, courier())
            .unwrap()
            .fetch()
            .await
            .unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("401") && said.contains("AZURE_TENANT_ID"), "{said}");
        assert!(!said.contains("hush"), "{said}");
    }

    #[test]
    fn half_an_application_is_told_what_it_lacks() {
        let environment = environment(&[("AZURE_CLIENT_SECRET", "hush"), ("AZURE_TENANT_ID", "tenant")]);
        let error = Azure::from_environment(&environment, SCOPE, courier())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("AZURE_CLIENT_ID") && !error.contains("hush"), "{error}");
    }
}
