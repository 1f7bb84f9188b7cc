//! The guests under `tests/guests`, built once for each test binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

const NAMES: [&str; 4] = ["hostile", "curious", "picker", "wasi"];
const WASM: &str = "wasm32-unknown-unknown";

/// The plugin file of a guest.
pub fn guest(name: &str) -> &'static [u8] {
    static GUESTS: LazyLock<BTreeMap<&str, Vec<u8>>> = LazyLock::new(build);
    &GUESTS[name]
}

/// Builds them as the gateway's build script builds the ready-made policies, in the same target folder.
fn build() -> BTreeMap<&'static str, Vec<u8>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("guests");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--locked",
            "--profile",
            "guest",
            "--target",
            WASM,
            "--target-dir",
        ])
        .arg(&target);
    cargo.args(NAMES.iter().flat_map(|name| ["--package", name]));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in [
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Clink-arg=-zstack-size=16384");
    let built = cargo.output().expect("cargo runs");
    assert!(
        built.status.success(),
        "the guests do not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let read = |name: &str| fs::read(target.join(WASM).join("guest").join(name).with_extension("wasm")).unwrap();
    NAMES.map(|name| (name, read(name))).into()
}
