//! Files that the configuration names are replaced while the gateway runs: what is new is live without a restart, and what is broken
//! changes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::client::Connection;
use super::protocols::{tls, tls_vendor, with_tls};
use super::running::{ASK, CHAT, Gateway, eventually};
use super::setup::Setup;
use super::vendor::Vendor;

/// A mounted volume of files as an orchestrator writes it: each file is a link through `..data`, and `..data` is swapped.
struct Volume {
    folder: TempDir,
    versions: usize,
}

impl Volume {
    fn new(files: &[(&str, &str)]) -> Self {
        let mut volume = Self {
            folder: tempfile::tempdir().unwrap(),
            versions: 0,
        };
        volume.swap(files);
        for (name, _) in files {
            symlink(Path::new("..data").join(name), volume.folder.path().join(name)).unwrap();
        }
        volume
    }

    fn swap(&mut self, files: &[(&str, &str)]) {
        let version = format!("..version-{}", self.versions);
        self.versions += 1;
        let at = |name: &str| self.folder.path().join(name);
        fs::create_dir(at(&version)).unwrap();
        for (name, text) in files {
            fs::write(at(&version).join(name), text).unwrap();
        }
        symlink(&version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// Replaces a file in one step.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn authorization(vendor: &Vendor) -> String {
    let last = vendor.received().pop().expect("a request");
    last.head.header("authorization").unwrap_or_default().to_owned()
}

/// Asks until the vendor gets what is expected.
fn ask_until(gateway: &Gateway, vendor: &Vendor, what: &str) {
    eventually(what, || {
        assert_eq!(gateway.chat(ASK).status, 200);
        authorization(vendor).contains(what).then_some(())
    });
}

#[test]
fn a_key_in_a_mounted_volume_is_used_when_the_volume_is_swapped() {
    let vendor = Vendor::well("vendor");
    let mut volume = Volume::new(&[("key", "sk-first")]);
    let key = format!("api_key = {{ file = \"{}\" }}", volume.path("key"));
    let gateway = Setup::new([&vendor]).target("vendor", &key).start();
    gateway.chat(ASK);
    assert_eq!(authorization(&vendor), "Bearer sk-first");
    for next in ["sk-second", "sk-third"] {
        volume.swap(&[("key", next)]);
        ask_until(&gateway, &vendor, next);
    }
    assert!(gateway.log().contains(&volume.path("key")), "the log names the file");
    for secret in ["sk-first", "sk-second", "sk-third"] {
        assert!(!gateway.log().contains(secret));
    }
}

#[test]
fn a_key_that_a_file_holds_is_used_however_it_is_written() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .file("key", "sk-first")
        .target("vendor", "api_key = { file = \"key\" }")
        .start();
    replace(&gateway.path("key"), "sk-renamed");
    ask_until(&gateway, &vendor, "sk-renamed");
    fs::write(gateway.path("key"), "sk-in-place\n").unwrap();
    ask_until(&gateway, &vendor, "sk-in-place");
    fs::remove_file(gateway.path("key")).unwrap();
    fs::write(gateway.path("key"), "sk-anew").unwrap();
    ask_until(&gateway, &vendor, "sk-anew");
}

#[test]
fn a_key_file_that_breaks_is_reported_and_the_key_before_is_used() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .file("key", "sk-first")
        .target("vendor", "api_key = { file = \"key\" }")
        .start();
    replace(&gateway.path("key"), "two\nlines");
    eventually("the gauge", || {
        (gateway.metric("pointsman_config_refused", "") == 1.0).then_some(())
    });
    gateway.wait_for_log("holds a character that a header cannot carry");
    gateway.chat(ASK);
    assert_eq!(authorization(&vendor), "Bearer sk-first");
    fs::remove_file(gateway.path("key")).unwrap();
    gateway.wait_for_log("cannot be read");
    gateway.chat(ASK);
    assert_eq!(authorization(&vendor), "Bearer sk-first");
    replace(&gateway.path("key"), "sk-mended");
    ask_until(&gateway, &vendor, "sk-mended");
    assert_eq!(gateway.metric("pointsman_config_refused", ""), 0.0);
}

#[test]
fn a_gateway_key_that_was_replaced_opens_and_the_old_one_does_not() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .file("client", "gw-first")
        .after("[[key]]\nname = \"client\"\nsecret = { file = \"client\" }\n")
        .start();
    let status = |key: &str| {
        let header = format!("Bearer {key}");
        gateway.ask(CHAT, &[("authorization", &header)], ASK).status
    };
    assert_eq!((status("gw-first"), status("gw-second")), (200, 401));
    replace(&gateway.path("client"), "gw-second");
    eventually("the new key", || (status("gw-second") == 200).then_some(()));
    assert_eq!(status("gw-first"), 401);
}

#[test]
fn headers_of_traces_come_from_files_that_are_replaced() {
    let (vendor, collector) = (Vendor::well("vendor"), Vendor::well("collector"));
    let trace = format!(
        "[trace]\nendpoint = \"http://{}/v1/traces\"\nheaders = {{ authorization = {{ file = \"token\" }} }}\n",
        collector.address
    );
    let gateway = Setup::new([&vendor]).file("token", "first").after(&trace).start();
    gateway.chat(ASK);
    collector.wait_for(1);
    assert_eq!(authorization(&collector), "first");
    replace(&gateway.path("token"), "second");
    eventually("the new header", || {
        gateway.chat(ASK);
        (authorization(&collector) == "second").then_some(())
    });
}

fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// Whether a client that trusts nothing but this certificate is answered.
fn is_shown(gateway: &Gateway, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> bool {
    let mut connection = Connection::over(tls(gateway, certificate, b"http/1.1"));
    let request = format!(
        "{CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{ASK}",
        ASK.len()
    );
    connection.send(request.as_bytes()).is_ok() && connection.answer().status == 200
}

#[test]
fn a_renewed_certificate_is_shown_to_new_clients_and_a_broken_one_to_none() {
    let (first, second, third) = (certificate(), certificate(), certificate());
    let vendor = Vendor::well("vendor");
    let gateway = with_tls(Setup::new([&vendor]), &first).start();
    let mut open = Connection::over(tls(&gateway, &first, b"http/1.1"));
    open.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(open.answer().status, 200);

    // Between the two the pair does not fit, and the old one is shown.
    replace(&gateway.path("certificate.pem"), &second.cert.pem());
    gateway.wait_for_log("is not the key of the certificate");
    assert!(is_shown(&gateway, &first) && !is_shown(&gateway, &second));
    replace(&gateway.path("key.pem"), &second.signing_key.serialize_pem());
    eventually("the new certificate", || is_shown(&gateway, &second).then_some(()));
    assert!(!is_shown(&gateway, &first));
    open.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(open.answer().status, 200, "an open connection goes on");

    fs::write(gateway.path("certificate.pem"), "rubbish").unwrap();
    gateway.wait_for_log("holds no certificate in PEM format");
    assert!(is_shown(&gateway, &second));
    replace(&gateway.path("key.pem"), &third.signing_key.serialize_pem());
    replace(&gateway.path("certificate.pem"), &third.cert.pem());
    eventually("the certificate after that", || {
        is_shown(&gateway, &third).then_some(())
    });
    assert!(!gateway.log().contains("at the next start"), "{}", gateway.log());
}

#[test]
fn a_renewed_authority_is_trusted() {
    let certificate = certificate();
    let address = tls_vendor(&certificate);
    let (secure, plain) = (Vendor::well("secure"), Vendor::well("plain"));
    let gateway = Setup::new([&secure, &plain])
        .base_url("secure", &format!("https://localhost:{}/v1", address.port()))
        .file("authority.pem", &self::certificate().cert.pem())
        .toml("ca_file = \"authority.pem\"\nbreaker.enabled = false")
        .start();
    assert_eq!(gateway.chat(ASK).says(), "from plain");
    replace(&gateway.path("authority.pem"), &certificate.cert.pem());
    eventually("the vendor to be trusted", || {
        (gateway.chat(ASK).says() == "over tls").then_some(())
    });
}

#[test]
fn keys_of_an_aws_profile_are_read_again_when_the_file_changes() {
    let profile = |id: &str| format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = secret-of-{id}\n");
    let mut volume = Volume::new(&[("credentials", &profile("AKIAFIRST"))]);
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .vendor("vendor", "bedrock")
        .target("vendor", "region = \"eu-central-1\"")
        .toml("breaker.enabled = false")
        .env("AWS_SHARED_CREDENTIALS_FILE", &volume.path("credentials"))
        .start();
    let signed_by = |id: &str| {
        gateway.chat(ASK);
        authorization(&vendor)
            .contains(&format!("Credential={id}/"))
            .then_some(())
    };
    assert_eq!(signed_by("AKIAFIRST"), Some(()), "{}", authorization(&vendor));
    volume.swap(&[("credentials", &profile("AKIASECOND"))]);
    eventually("the new key", || signed_by("AKIASECOND"));
    // What is broken leaves what was there.
    volume.swap(&[("credentials", "[default]\naws_access_key_id = AKIATHIRD\n")]);
    gateway.wait_for_log("has only half a key");
    assert_eq!(signed_by("AKIASECOND"), Some(()));
}
