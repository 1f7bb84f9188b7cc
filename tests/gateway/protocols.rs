//! HTTP/2 and TLS: the same gateway over other transports, on both sides.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};

use super::client::Connection;
use super::running::{ASK, ASK_STREAM, CHAT, Gateway};
use super::script::{DONE, ROLE, STOP, Script, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

#[test]
fn http2_needs_no_tls_where_both_sides_know() {
    let vendor = Vendor::start(
        "vendor",
        [
            Script::Well("one".into()),
            Script::stream([ROLE, &text("two"), STOP, DONE]),
        ],
    );
    let gateway = Setup::new([&vendor]).start();
    on_a_runtime(async {
        let stream = tokio::net::TcpStream::connect(gateway.listen).await.unwrap();
        let answers = over_http2(stream, [ASK, ASK_STREAM]).await;
        assert_eq!(answers, [whole("one"), [ROLE, &text("two"), STOP, DONE].concat()]);
    });
}

#[test]
fn a_client_that_resets_its_http2_stream_cancels_the_request() {
    let first = Vendor::start("first", [Script::begin([ROLE, &text("half")]).hold()]);
    let gateway = Setup::new([&first]).start();
    on_a_runtime(async {
        let stream = tokio::net::TcpStream::connect(gateway.listen).await.unwrap();
        let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let driver = tokio::spawn(connection);
        let mut answer = send.send_request(request(ASK_STREAM)).await.unwrap();
        answer.body_mut().frame().await.unwrap().unwrap();
        drop(answer);
        // The connection stays open: only the one stream is given up.
        tokio::task::spawn_blocking(move || first.wait_for_cancellation())
            .await
            .unwrap();
        assert!(!driver.is_finished());
    });
}

#[test]
fn a_huge_http2_head_is_431() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    on_a_runtime(async {
        let stream = tokio::net::TcpStream::connect(gateway.listen).await.unwrap();
        let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut huge = request(ASK);
        huge.headers_mut()
            .insert("x-huge", "x".repeat(100 << 10).parse().unwrap());
        // Either the status, or the client's own refusal to send what the server said it would not take.
        let status = send.send_request(huge).await.map(|answer| answer.status().as_u16());
        assert!(
            status.as_ref().is_ok_and(|status| *status == 431) || status.is_err(),
            "{status:?}"
        );
        assert_eq!(gateway.chat(ASK).status, 200);
    });
}

#[test]
fn tls_serves_both_versions_of_http() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let vendor = Vendor::well("vendor");
    let gateway = with_tls(Setup::new([&vendor]), &certificate).start();
    let mut connection = Connection::over(tls(&gateway, &certificate, b"http/1.1"));
    connection.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(connection.answer().says(), "from vendor");

    on_a_runtime(async {
        let tcp = tokio::net::TcpStream::connect(gateway.listen).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(client_config(&certificate, b"h2"));
        let stream = connector.connect(localhost(), tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        assert_eq!(over_http2(stream, [ASK]).await, [whole("from vendor")]);
    });
}

#[test]
fn who_speaks_no_tls_where_tls_is_wanted_is_turned_away_alone() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let vendor = Vendor::well("vendor");
    let gateway = with_tls(Setup::new([&vendor]), &certificate).start();
    let mut plain = gateway.connect();
    let _ = plain.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    plain.wait_until_closed();
    let mut connection = Connection::over(tls(&gateway, &certificate, b"http/1.1"));
    connection.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(connection.answer().status, 200);
}

/// Such a client has asked for nothing, and the handshake may take ten seconds.
#[test]
fn a_client_that_does_not_finish_the_handshake_does_not_hold_up_the_end() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let vendor = Vendor::well("vendor");
    let mut gateway = with_tls(Setup::new([&vendor]), &certificate).start();
    let _silent = TcpStream::connect(gateway.listen).unwrap();
    // Connections are accepted in turn.
    let mut connection = Connection::over(tls(&gateway, &certificate, b"http/1.1"));
    connection.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(connection.answer().status, 200);
    gateway.terminate();
    let began = std::time::Instant::now();
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    assert!(
        began.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

/// A vendor on one's own machines has a certificate of one's own authority, which `ca_file` names.
#[test]
fn vendors_are_reached_over_tls_and_only_with_a_certificate_that_is_trusted() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let address = tls_vendor(&certificate);
    let plain = Vendor::well("plain");
    let secure = Vendor::well("secure");
    let base_url = format!("https://localhost:{}/v1", address.port());
    let setup = Setup::new([&secure, &plain]).base_url("secure", &base_url);

    let trusting = setup
        .clone()
        .file("authority.pem", &certificate.cert.pem())
        .toml("ca_file = \"authority.pem\"")
        .start();
    assert_eq!(trusting.chat(ASK).says(), "over tls");
    let answer = setup.start().chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("from plain", "2")
    );
}

pub(super) fn with_tls(setup: Setup, certificate: &CertifiedKey<rcgen::KeyPair>) -> Setup {
    setup
        .file("certificate.pem", &certificate.cert.pem())
        .file("key.pem", &certificate.signing_key.serialize_pem())
        .toml("server.tls = { certificate = \"certificate.pem\", key = \"key.pem\" }")
}

/// A vendor that answers every connection's first request over TLS.
pub(super) fn tls_vendor(certificate: &CertifiedKey<rcgen::KeyPair>) -> std::net::SocketAddr {
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let (listener, config) = (std::net::TcpListener::bind("localhost:0").unwrap(), Arc::new(config));
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            // A client that does not trust us ends the handshake.
            if stream.read(&mut [0; 4096]).is_ok() {
                let body = whole("over tls");
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).unwrap();
            }
        }
    });
    address
}

pub(super) fn tls(
    gateway: &Gateway,
    certificate: &CertifiedKey<rcgen::KeyPair>,
    protocol: &[u8],
) -> StreamOwned<ClientConnection, TcpStream> {
    let connection = ClientConnection::new(client_config(certificate, protocol), localhost()).unwrap();
    StreamOwned::new(connection, TcpStream::connect(gateway.listen).unwrap())
}

fn client_config(certificate: &CertifiedKey<rcgen::KeyPair>, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn localhost() -> ServerName<'static> {
    "localhost".try_into().unwrap()
}

fn on_a_runtime(story: impl Future) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let patience = std::time::Duration::from_secs(30);
    runtime.block_on(async { tokio::time::timeout(patience, story).await.expect("the story ends") });
}

fn request(body: &str) -> http::Request<Full<Bytes>> {
    let request = http::Request::post("http://localhost/v1/chat/completions");
    request
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

/// The bodies of the answers to some requests, all sent at once over one connection.
async fn over_http2<S, const N: usize>(stream: S, bodies: [&str; N]) -> [String; N]
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for body in bodies {
        let answer = send.send_request(request(body)).await.unwrap();
        assert_eq!(
            (answer.status(), answer.version()),
            (http::StatusCode::OK, http::Version::HTTP_2)
        );
        let whole = answer.into_body().collect().await.unwrap().to_bytes();
        answers.push(String::from_utf8(whole.to_vec()).unwrap());
    }
    answers.try_into().unwrap()
}
