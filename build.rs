//! Builds the ready-made policies under `plugins/` for Wasm, so that the gateway can carry them, and places them in the
//! plugin folder, so that there is something to replace.
//!
//! What it leaves: `$OUT_DIR/policies/NAME.wasm`, `$OUT_DIR/ready_made.rs` with the constant `READY_MADE`, and
//! `plugins/NAME.wasm`, unless a file of the user's is there.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

/// The ready-made policies: the names of their packages and of their plugins.
const POLICIES: [&str; 5] = ["plan-b", "cheapest", "fastest", "residency", "canary"];

const WASM: &str = "wasm32-unknown-unknown";

/// Flags for the guests. The default stack of 1 MiB would make memory of 17 pages out of one.
const GUEST_FLAGS: &str = "-Clink-arg=-zstack-size=16384";

/// Settings of the outer build that are about the gateway: flags and wrappers (of clippy, coverage, rust-analyzer) that
/// a guest may not even compile with, and folders in which two Cargos would wait for each other. All others, such as
/// where registries are and how many jobs may run, are about this machine and hold for the guests too.
const NOT_FOR_GUESTS: [&str; 11] = [
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
    "CARGO_INCREMENTAL",
];

/// A ready-made policy, built and marked.
struct Policy {
    name: &'static str,
    wasm: Vec<u8>,
}

fn main() {
    watch();
    if let Err(message) = run() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
        process::exit(1);
    }
}

/// Names what the guests are made of. Naming folders would be shorter, but this script writes into `plugins`.
fn watch() {
    let crates = ["sdk"].into_iter().chain(POLICIES);
    let sources = crates.flat_map(|name| [format!("plugins/{name}/src"), format!("plugins/{name}/Cargo.toml")]);
    // The manifest of the workspace has the guests' profile.
    let shared = ["build.rs", "wit", "Cargo.toml", "Cargo.lock"].map(String::from);
    for path in sources.chain(shared) {
        println!("cargo::rerun-if-changed={path}");
    }
}

fn run() -> Result<(), String> {
    name_version()?;
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    install_wasm_target()?;
    let policies = build(&source, &guests(&out))?;
    embed(&policies, &out)?;
    for policy in &policies {
        place(policy, &source.join("plugins"));
    }
    Ok(())
}

/// Says what `--version` says: the version, the commit where this is a checkout, and the WebAssembly runtime.
fn name_version() -> Result<(), String> {
    let commit = commit().map(|commit| format!("commit {commit}, ")).unwrap_or_default();
    let version = variable("CARGO_PKG_VERSION")?;
    println!(
        "cargo::rustc-env=POINTSMAN_VERSION={version} ({commit}wasmtime {})",
        wasmtime()?
    );
    Ok(())
}

/// The commit that is built. A development build is not built again for each commit, so it may be of a later one.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // Sources without a repository of their own may lie in somebody else's.
    git(&["rev-parse", "--show-prefix"]).filter(String::is_empty)?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    if env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return Some(format!("{commit} or later"));
    }
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    let names = ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref());
    let paths = names.filter_map(|name| git(&["rev-parse", "--git-path", name]));
    for path in paths.filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    Some(commit)
}

/// The version of the WebAssembly runtime, which compiled policies depend on.
fn wasmtime() -> Result<String, String> {
    let lock = fs::read_to_string("Cargo.lock").map_err(|error| format!("cannot read Cargo.lock: {error}"))?;
    let version = lock
        .split_once("name = \"wasmtime\"\nversion = \"")
        .and_then(|(_, rest)| Some(rest.split_once('"')?.0.to_owned()));
    version.ok_or_else(|| "Cargo.lock has no package wasmtime".to_owned())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}; this script is for Cargo to run"))
}

/// Makes sure that the toolchain of this build can compile for Wasm.
fn install_wasm_target() -> Result<(), String> {
    if has_wasm_target()? {
        return Ok(());
    }
    let mut arguments = vec!["target".to_owned(), "add".to_owned(), WASM.to_owned()];
    // Set by rustup for all that it runs; the toolchain of this build need not be the default one.
    if let Ok(toolchain) = env::var("RUSTUP_TOOLCHAIN") {
        arguments.extend(["--toolchain".to_owned(), toolchain]);
    }
    let command = format!("rustup {}", arguments.join(" "));
    let why = match Command::new("rustup").args(&arguments).output() {
        Ok(_) if has_wasm_target()? => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("cannot run rustup: {error}"),
    };
    Err(format!(
        "This Rust toolchain cannot compile policies: it has no {WASM}, and it could not be added.\n\
         {why}\n\
         Run this, then build again:\n    {command}\n\
         Where Rust did not come with rustup, install its standard library for {WASM} as you installed Rust."
    ))
}

fn has_wasm_target() -> Result<bool, String> {
    let rustc = variable("RUSTC")?;
    let output = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", WASM])
        .output()
        .map_err(|error| format!("cannot run {rustc}: {error}"))?;
    Ok(output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// The target folder of the guests: in that of this build, where all its profiles share it, because guests are the same
/// in all of them.
fn guests(out: &Path) -> PathBuf {
    // Cargo marks its target folder with this file, so that backups leave it out.
    let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.unwrap_or(out).join("guests")
}

/// Builds the guests, in a target folder of their own: this build holds the lock of the other.
fn build(source: &Path, target: &Path) -> Result<Vec<Policy>, String> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(source);
    // What is built has to be what was reviewed, and a build must not write into its sources: hence `--locked`.
    cargo
        .args(["build", "--locked", "--profile", "guest", "--target", WASM])
        .arg("--target-dir")
        .arg(target);
    for name in POLICIES {
        cargo.args(["--package", name]);
    }
    for name in NOT_FOR_GUESTS {
        cargo.env_remove(name);
    }
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PROFILE_")) {
        cargo.env_remove(name);
    }
    // Goes before every other way to set flags.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", GUEST_FLAGS);
    // Standard output is where Cargo reads our own instructions.
    cargo.stdout(io::stderr());
    match cargo.status() {
        Ok(status) if status.success() => POLICIES.map(|name| read(name, target)).into_iter().collect(),
        Ok(status) => Err(format!(
            "the ready-made policies do not build ({status}); Cargo's own words are below"
        )),
        Err(error) => Err(format!("cannot run {:?}: {error}", cargo.get_program())),
    }
}

fn read(name: &'static str, target: &Path) -> Result<Policy, String> {
    let path = target
        .join(WASM)
        .join("guest")
        .join(name.replace('-', "_"))
        .with_extension("wasm");
    let mut wasm = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mark = mark(&wasm);
    wasm.extend(mark);
    Ok(Policy { name, wasm })
}

/// Writes the policies, and the constant that carries them, to where the gateway includes them from.
fn embed(policies: &[Policy], out: &Path) -> Result<(), String> {
    let mut code = String::from(
        "/// The ready-made policies: name and Wasm module.\npub const READY_MADE: &[(&str, &[u8])] = &[\n",
    );
    let folder = out.join("policies");
    let write = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    for Policy { name, wasm } in policies {
        write(&folder.join(name).with_extension("wasm"), wasm)?;
        code += &format!("    ({name:?}, include_bytes!(\"policies/{name}.wasm\")),\n");
    }
    code += "];\n";
    write(&out.join("ready_made.rs"), code.as_bytes())
}

/// Places a policy in the plugin folder. A file that the user put there stays, and a folder that cannot be written to
/// is no reason to fail: the gateway carries the policies anyway.
fn place(policy: &Policy, folder: &Path) {
    let path = folder.join(policy.name).with_extension("wasm");
    let outcome = match fs::read(&path) {
        // Not even touched: a gateway may be watching.
        Ok(bytes) if bytes == policy.wasm => Ok(()),
        Ok(bytes) if !is_marked(&bytes) => Err(io::Error::other("the file there is not from an earlier build")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => replace(&path, &policy.wasm),
    };
    if let Err(why) = outcome {
        let path = path.display();
        println!("cargo::warning={path} stays as it is, and the ready-made policy was not placed there: {why}");
    }
}

/// Puts a file in its place in one step, so that a gateway that watches never reads half of it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", process::id()));
    let placed = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if placed.is_err() {
        // The first error is the one to tell; there may be nothing to remove.
        let _ = fs::remove_file(&beside);
    }
    placed
}

const MARK_NAME: &[u8] = b"pointsman-ready-made";
const MARK_BYTES: usize = 3 + MARK_NAME.len() + 8;

/// The custom section that tells a file of this build's from one of the user's, whichever target folder it came from:
/// it holds a hash of all that stands before it. Every length in it fits into one byte of LEB128.
fn mark(module: &[u8]) -> [u8; MARK_BYTES] {
    // FNV-1a: no key, and the same in every release of Rust.
    let hash = module.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut mark = [0; MARK_BYTES];
    let (head, payload) = mark.split_at_mut(MARK_BYTES - 8);
    head[..3].copy_from_slice(&[0, (MARK_BYTES - 2) as u8, MARK_NAME.len() as u8]);
    head[3..].copy_from_slice(MARK_NAME);
    payload.copy_from_slice(&hash.to_le_bytes());
    mark
}

/// Whether an earlier build made this file, and nobody changed it since.
fn is_marked(file: &[u8]) -> bool {
    file.split_last_chunk::<MARK_BYTES>()
        .is_some_and(|(module, end)| *end == mark(module))
}
