//! Credentials of clouds that come from the environment.

use super::heard::Format;
use super::running::ASK;
use super::setup::Setup;
use super::vendor::Vendor;

fn authorization(setup: Setup, vendor: &Vendor) -> String {
    let gateway = setup.start();
    gateway.chat(ASK);
    let header = vendor
        .only()
        .head
        .header("authorization")
        .unwrap_or_default()
        .to_owned();
    assert!(!gateway.log().contains("bedrock-key"), "{}", gateway.log());
    header
}

#[test]
fn bedrocks_own_key_goes_before_keys_that_sign_and_behind_those_of_the_target() {
    let with_everything = |vendor: &Vendor| {
        Setup::new([vendor])
            .vendor(vendor.name, Format::Converse.vendor())
            .target(vendor.name, "region = \"eu-central-1\"")
            .env("AWS_BEARER_TOKEN_BEDROCK", "bedrock-key")
            .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
    };
    let vendor = Vendor::well("vendor");
    assert_eq!(authorization(with_everything(&vendor), &vendor), "Bearer bedrock-key");

    let vendor = Vendor::well("vendor");
    let own = with_everything(&vendor)
        .target("vendor", "api_key = { env = \"OWN\" }")
        .env("OWN", "own-key");
    assert_eq!(authorization(own, &vendor), "Bearer own-key");

    let vendor = Vendor::well("vendor");
    let unset = with_everything(&vendor).env("AWS_BEARER_TOKEN_BEDROCK", "");
    let header = authorization(unset, &vendor);
    assert!(
        header.starts_with("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/"),
        "{header}"
    );
}
