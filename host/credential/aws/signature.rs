//! Signatures of AWS, version 4: made for Bedrock, and checked when a client of Bedrock's calls us.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{self, SessionTokenMode, SignableBody, SignableRequest, SigningSettings};
use aws_sigv4::sign::v4;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::Keys;
use crate::config::Secret;
use crate::credential::Error;

/// What a signature is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Such as `eu-central-1`.
    pub region: &'a str,
    /// `bedrock`, also where the host is called `bedrock-runtime`.
    pub service: &'a str,
}

/// A request that is to be signed.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// Its method.
    pub method: &'a Method,
    /// As the `host` header says it.
    pub host: &'a str,
    /// Path and query as they are sent. What is encoded in the path is encoded once more for the signature.
    pub path: &'a str,
    /// The `content-type` header, if there is one.
    pub content_type: Option<&'a str>,
    /// All of it.
    pub body: &'a [u8],
}

/// Why a client's signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// There is none.
    #[error("the request has no AWS4-HMAC-SHA256 signature in its authorization header")]
    NotSigned,
    /// It is not written as AWS writes it.
    #[error("the authorization header has no usable {0}")]
    Malformed(&'static str),
    /// It was made with another key.
    #[error("the signature was made with another access key")]
    OtherKey,
    /// Something that must be signed is not.
    #[error("the header {0} is not signed")]
    Unsigned(&'static str),
    /// A header that was signed did not arrive.
    #[error("the signed header {0} is missing")]
    MissingHeader(String),
    /// It is too old, or from the future.
    #[error("x-amz-date is more than {} minutes from this machine's clock", CLOCKS_APART.as_secs() / 60)]
    Expired,
    /// `x-amz-content-sha256` is of another body, or of none.
    #[error("x-amz-content-sha256 is not the digest of the body")]
    OtherBody,
    /// Key, method, path, query, headers or body are not those that were signed.
    #[error(
        "the signature does not match the request: check the secret access key, and that no proxy changes the request"
    )]
    Mismatch,
}

/// How far clocks may be apart; AWS allows as much.
const CLOCKS_APART: Duration = Duration::from_secs(15 * 60);

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: &str = "x-amz-date";
const BODY_DIGEST: &str = "x-amz-content-sha256";

/// The headers that sign a request: `x-amz-date`, `authorization` and, for short-lived keys, `x-amz-security-token`. `host` and
/// `content-type` are signed too and must be sent as they were given.
pub fn sign(
    keys: &Keys,
    scope: Scope<'_>,
    request: &Unsigned<'_>,
    now: SystemTime,
) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let content_type = request.content_type.map(|value| ("content-type", value));
    let headers = [("host", request.host)].into_iter().chain(content_type);
    let url = format!("https://{}{}", request.host, request.path);
    let body = SignableBody::Bytes(request.body);
    let request = SignableRequest::new(request.method.as_str(), url, headers, body).map_err(unsignable)?;
    let signed = output(keys.0.clone(), scope, request, now).map_err(|fault| Error::Signing(fault.to_string()))?;
    let headers = signed.output().headers().map(|(name, value)| {
        let name = HeaderName::try_from(name).map_err(unsignable)?;
        let mut value = HeaderValue::try_from(value).map_err(unsignable)?;
        value.set_sensitive(name != DATE);
        Ok((name, value))
    });
    headers.collect()
}

fn unsignable(fault: impl std::error::Error) -> Error {
    let mut said = fault.to_string();
    if let Some(source) = fault.source() {
        said = format!("{said}: {source}");
    }
    Error::Signing(said)
}

type Output = aws_sigv4::SigningOutput<http_request::SigningInstructions>;

fn output(
    credentials: Credentials,
    scope: Scope<'_>,
    request: SignableRequest<'_>,
    now: SystemTime,
) -> Result<Output, Box<dyn std::error::Error + Send + Sync>> {
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    settings.excluded_headers = None;
    settings.session_token_mode = SessionTokenMode::Include;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service)
        .time(now)
        .settings(settings)
        .build()?
        .into();
    Ok(http_request::sign(request, &params)?)
}

/// Whose key a client says it signed with. `None`: it did not sign.
pub fn access_key_id(headers: &HeaderMap) -> Option<&str> {
    Claim::read(headers).ok().map(|claim| claim.access_key_id)
}

/// Whether a client signed this request, all of it, within the last minutes, and with this key. `body` is the body as it came.
///
/// Region and service are the client's to choose. A session token is not checked: gateway keys have none.
pub fn verify(head: &Parts, body: &[u8], access_key_id: &str, secret: &Secret, now: SystemTime) -> Result<(), Why> {
    let claim = Claim::read(&head.headers)?;
    if claim.access_key_id != access_key_id {
        return Err(Why::OtherKey);
    }
    let date = claim.date(&head.headers)?;
    let apart = now.duration_since(date).unwrap_or_else(|ahead| ahead.duration());
    if apart > CLOCKS_APART {
        return Err(Why::Expired);
    }
    check_body_digest(&head.headers, body)?;
    let headers = claim.signed_headers(head)?;
    let expected = expected(&claim, head, &headers, body, secret, date)?;
    let same = expected.as_bytes().ct_eq(claim.signature.as_bytes());
    if bool::from(same) { Ok(()) } else { Err(Why::Mismatch) }
}

/// The signature that the request should have.
fn expected(
    claim: &Claim<'_>,
    head: &Parts,
    headers: &[(&str, Cow<'_, str>)],
    body: &[u8],
    secret: &Secret,
    date: SystemTime,
) -> Result<String, Why> {
    let host = headers.iter().find(|(name, _)| *name == "host");
    let (_, host) = host.ok_or(Why::Unsigned("host"))?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let headers = headers.iter().map(|(name, value)| (*name, value.as_ref()));
    let url = format!("https://{host}{path}");
    let request = SignableRequest::new(head.method.as_str(), url, headers, SignableBody::Bytes(body))
        .map_err(|_| Why::Malformed("host"))?;
    // The token, if the client has one, is among the signed headers already.
    let credentials = Credentials::new(claim.access_key_id, secret.reveal(), None, None, "pointsman");
    let signed = output(credentials, claim.scope, request, date).map_err(|_| Why::Mismatch)?;
    Ok(signed.signature().to_owned())
}

/// What an `authorization` header claims.
struct Claim<'a> {
    access_key_id: &'a str,
    /// `20261123`.
    day: &'a str,
    scope: Scope<'a>,
    /// Names with semicolons between them.
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Claim<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, Why> {
        let written = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let fields = written.and_then(|written| written.trim().strip_prefix(ALGORITHM));
        let fields = fields.filter(|fields| fields.starts_with(' ')).ok_or(Why::NotSigned)?;
        let field = |name: &'static str| {
            let mut all = fields.split(',').filter_map(|field| field.trim().split_once('='));
            let found = all.find(|(found, _)| *found == name).map(|(_, value)| value);
            found.ok_or(Why::Malformed(name))
        };
        let parts: Vec<_> = field("Credential")?.split('/').collect();
        let [access_key_id, day, region, service, "aws4_request"] = parts[..] else {
            return Err(Why::Malformed("Credential"));
        };
        Ok(Self {
            access_key_id,
            day,
            scope: Scope { region, service },
            signed_headers: field("SignedHeaders")?,
            signature: field("Signature")?,
        })
    }

    /// When it was signed.
    fn date(&self, headers: &HeaderMap) -> Result<SystemTime, Why> {
        let written = headers.get(DATE).and_then(|value| value.to_str().ok());
        let written = written.ok_or_else(|| Why::MissingHeader(DATE.to_owned()))?;
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let date = PrimitiveDateTime::parse(written, format).map_err(|_| Why::Malformed("x-amz-date"))?;
        if !written.starts_with(self.day) {
            return Err(Why::Malformed("Credential"));
        }
        Ok(date.assume_utc().into())
    }

    /// The headers that were signed, as they arrived. Without host and date among them, a signature could be used elsewhere and for
    /// ever.
    fn signed_headers(&self, head: &'a Parts) -> Result<Vec<(&'a str, Cow<'a, str>)>, Why> {
        let names: Vec<_> = self.signed_headers.split(';').collect();
        for required in ["host", DATE] {
            if !names.contains(&required) {
                return Err(Why::Unsigned(required));
            }
        }
        let value = |name: &'a str| {
            let value = joined(&head.headers, name).or_else(|| authority(head, name));
            value
                .map(|value| (name, value))
                .ok_or_else(|| Why::MissingHeader(name.chars().take(100).collect()))
        };
        names.into_iter().map(value).collect()
    }
}

/// A header's values, as one.
fn joined<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter().map(|value| value.to_str().ok());
    let first = Cow::Borrowed(values.next()??);
    values.try_fold(first, |joined, value| Some(Cow::Owned(format!("{joined},{}", value?))))
}

/// In HTTP/2 the host is in the address.
fn authority<'a>(head: &'a Parts, name: &str) -> Option<Cow<'a, str>> {
    let authority = head.uri.authority().filter(|_| name == "host")?;
    Some(Cow::Borrowed(authority.as_str()))
}

/// Some clients say the digest; it must be that of this body. `UNSIGNED-PAYLOAD` is no digest: anybody on the way could have written
/// such a body.
fn check_body_digest(headers: &HeaderMap, body: &[u8]) -> Result<(), Why> {
    let Some(said) = headers.get(BODY_DIGEST) else {
        return Ok(());
    };
    let digest = Sha256::digest(body);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if said.as_bytes().eq_ignore_ascii_case(digest.as_bytes()) {
        Ok(())
    } else {
        Err(Why::OtherBody)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const ID: &str = "AKIDEXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const BODY: &[u8] = br#"{"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#;
    const HOST: &str = "bedrock-runtime.eu-central-1.amazonaws.com";
    const PATH: &str = "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse";
    const SCOPE: Scope<'_> = Scope {
        region: "eu-central-1",
        service: "bedrock",
    };

    /// 2026-11-23T12:00:00Z.
    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_435_200)
    }

    fn keys(token: Option<&str>) -> Keys {
        Keys::new(ID, &Secret::new(SECRET), token.map(Secret::new).as_ref())
    }

    fn converse(path: &'static str) -> Unsigned<'static> {
        Unsigned {
            method: &Method::POST,
            host: HOST,
            path,
            content_type: Some("application/json"),
            body: BODY,
        }
    }

    fn signed(keys: &Keys, request: &Unsigned<'_>, scope: Scope<'_>, now: SystemTime) -> String {
        let headers: HeaderMap = sign(keys, scope, request, now).unwrap().into_iter().collect();
        headers["authorization"].to_str().unwrap().to_owned()
    }

    // Signatures of botocore 1.44.5: SigV4Auth(Credentials(ID, SECRET, token), "bedrock", "eu-central-1") at noon.

    #[test]
    fn signs_as_botocore_does() {
        assert_eq!(
            signed(&keys(None), &converse(PATH), SCOPE, noon()),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/eu-central-1/bedrock/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=47b64965649b114a0833f1629bb31afd78d8fc30026532883cc9689588f093a8"
        );
    }

    #[test]
    fn signs_session_tokens_as_botocore_does() {
        let keys = keys(Some("SESSION//TOKEN+EXAMPLE=="));
        let headers = sign(&keys, SCOPE, &converse(PATH), noon()).unwrap();
        let headers: HeaderMap = headers.into_iter().collect();
        assert_eq!(headers["x-amz-security-token"], "SESSION//TOKEN+EXAMPLE==");
        assert_eq!(headers["x-amz-date"], "20261123T120000Z");
        let authorization = headers["authorization"].to_str().unwrap();
        assert!(
            authorization.ends_with(
                "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
                 Signature=a86d402e7c276e9c4d5c3f8e90c102fd2defb2928a60dc199e12264c6dd0bf03"
            ),
            "{authorization}"
        );
        assert!(!format!("{headers:?}").contains("SESSION"));
    }

    /// The example of AWS's own documentation.
    #[test]
    fn signs_as_aws_documents() {
        let request = Unsigned {
            method: &Method::GET,
            host: "iam.amazonaws.com",
            path: "/?Action=ListUsers&Version=2010-05-08",
            content_type: Some("application/x-www-form-urlencoded; charset=utf-8"),
            body: b"",
        };
        let scope = Scope {
            region: "us-east-1",
            service: "iam",
        };
        // 2015-08-30T12:36:00Z
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let authorization = signed(&keys(None), &request, scope, then);
        let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        assert!(authorization.ends_with(signature), "{authorization}");
    }

    /// As botocore signs it, with a header of its own and a query.
    fn from_botocore() -> Parts {
        let path = "/model/arn%3Aaws%3Abedrock%3Aeu-central-1%3A123456789012%3Ainference-profile%2Feu.x/converse-stream\
                    ?b=2&a=x%20y";
        let request = Request::post(path)
            .header("host", HOST)
            .header("content-type", "application/json")
            .header("x-custom", "two   words")
            .header("x-amz-date", "20261123T120000Z")
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/eu-central-1/bedrock/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date;x-custom, \
                 Signature=0cf5902d9ab5ac148ae990caaf9920ae73954f62f20d2090e23e795c15ba9bd0",
            );
        request.body(()).unwrap().into_parts().0
    }

    fn check(head: &Parts, body: &[u8]) -> Result<(), Why> {
        verify(head, body, ID, &Secret::new(SECRET), noon())
    }

    #[test]
    fn accepts_what_botocore_signed() {
        let head = from_botocore();
        assert_eq!(access_key_id(&head.headers), Some(ID));
        assert_eq!(check(&head, BODY), Ok(()));
        let late = noon() + Duration::from_secs(14 * 60);
        assert_eq!(verify(&head, BODY, ID, &Secret::new(SECRET), late), Ok(()));
    }

    #[test]
    fn accepts_what_it_signed_itself() {
        let headers = sign(&keys(Some("a token")), SCOPE, &converse(PATH), noon()).unwrap();
        let mut head = from_botocore();
        head.uri = PATH.parse().unwrap();
        head.headers.extend(headers.into_iter().collect::<HeaderMap>());
        assert_eq!(check(&head, BODY), Ok(()));
    }

    #[test]
    fn refuses_another_body_path_query_method_or_header() {
        assert_eq!(check(&from_botocore(), b"{}"), Err(Why::Mismatch));
        let changes: [fn(&mut Parts); 5] = [
            |head| head.uri = "/model/other/converse-stream?b=2&a=x%20y".parse().unwrap(),
            |head| head.uri = head.uri.path().parse().unwrap(),
            |head| head.method = Method::PUT,
            |head| drop(head.headers.insert("x-custom", HeaderValue::from_static("three"))),
            |head| {
                drop(
                    head.headers
                        .insert("x-amz-date", HeaderValue::from_static("20261123T120001Z")),
                )
            },
        ];
        for change in changes {
            let mut head = from_botocore();
            change(&mut head);
            assert_eq!(check(&head, BODY), Err(Why::Mismatch), "{head:?}");
        }
    }

    #[test]
    fn refuses_old_and_future_signatures() {
        let secret = Secret::new(SECRET);
        for seconds in [-16 * 60, 16 * 60] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs((1_795_435_200 + seconds) as u64);
            assert_eq!(verify(&from_botocore(), BODY, ID, &secret, now), Err(Why::Expired));
        }
    }

    #[test]
    fn refuses_another_key_or_secret() {
        let head = from_botocore();
        assert_eq!(
            verify(&head, BODY, "AKIDOTHER", &Secret::new(SECRET), noon()),
            Err(Why::OtherKey)
        );
        assert_eq!(
            verify(&head, BODY, ID, &Secret::new("other"), noon()),
            Err(Why::Mismatch)
        );
    }

    #[test]
    fn refuses_what_leaves_the_body_open() {
        let mut head = from_botocore();
        head.headers
            .insert(BODY_DIGEST, HeaderValue::from_static("UNSIGNED-PAYLOAD"));
        assert_eq!(check(&head, BODY), Err(Why::OtherBody));
    }

    #[test]
    fn refuses_headers_that_are_not_signatures() {
        let authorization = |value: &'static str| {
            let mut head = from_botocore();
            head.headers.insert("authorization", HeaderValue::from_static(value));
            check(&head, BODY)
        };
        assert_eq!(authorization("Bearer sk-1"), Err(Why::NotSigned));
        assert_eq!(authorization("AWS4-HMAC-SHA256"), Err(Why::NotSigned));
        assert_eq!(authorization("AWS4-HMAC-SHA256 x"), Err(Why::Malformed("Credential")));
        assert_eq!(
            authorization("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/r/s"),
            Err(Why::Malformed("Credential"))
        );
        assert_eq!(
            authorization(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/r/s/aws4_request, SignedHeaders=x-amz-date, Signature=1"
            ),
            Err(Why::Unsigned("host"))
        );
        assert_eq!(
            authorization(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/r/s/aws4_request, SignedHeaders=host;x-amz-date;x-no, Signature=1"
            ),
            Err(Why::MissingHeader("x-no".to_owned()))
        );
    }
}
