//! Compiles plugins in a child process of the same binary: the compiler is a large thing to feed untrusted bytes to, it may
//! take long, and it does not give its memory back.
//!
//! The child gets the plugin as its standard input, writes the compiled program to its standard output, a file, and a
//! [`Report`] as JSON to its standard error. It has no environment, and limits that it sets itself before it reads a byte.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use wasmtime::Module;
use wasmtime::component::Component;
use wit_component::ComponentEncoder;

use super::bulk;
use super::engine::{Layout, compile_config};
use super::program::{line_of, one_line};
use super::refusal::Refusal;
use crate::config::CompileLimits;

/// First argument of the hidden command with which the gateway starts itself to compile a plugin.
pub const COMPILE_COMMAND: &str = "compile-plugin";

/// How a WebAssembly file begins, and what follows there in a core module and in a component.
const MAGIC: &[u8] = b"\0asm";
const CORE: &[u8] = &[1, 0, 0, 0];
const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];

/// Threads of one child: more would make its memory depend on the machine.
const THREADS: &str = "4";

/// Bytes of the child's standard error that are read.
const REPORT_BYTES: u64 = 64 << 10;

/// How often the parent looks whether the child is done: often while most plugins finish, rarely for the large ones.
const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(20);

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Report {
    Compiled,
    Refused(Refusal),
}

/// Stops a load whose plugin file has been replaced or removed meanwhile. All clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(super) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts compile children.
#[derive(Debug, Clone)]
pub(super) struct Compiler {
    /// The gateway's own binary: see [`running_program`].
    pub(super) program: PathBuf,
    /// What the engine expects of machine code.
    pub(super) layout: Layout,
}

/// The program that is running, as a path that can be started. On Linux it leads to the file that this process was started from,
/// also when that was deleted or another one has its name by now: only the same program compiles for the engine of this process.
pub fn running_program() -> io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if cfg!(target_os = "linux") && running.exists() {
        return Ok(running);
    }
    std::env::current_exe()
}

impl Compiler {
    /// Compiles the file `plugin` into `output`, and waits until that is done, a limit is reached or `cancel` is called.
    pub(super) fn compile(
        &self,
        plugin: File,
        output: &File,
        limits: &CompileLimits,
        cancel: &Cancel,
    ) -> Result<(), Refusal> {
        let start =
            |error: io::Error| Refusal::CompilerLost(format!("{} cannot be started: {error}", self.program.display()));
        let mut child = Command::new(&self.program)
            .arg0("pointsman")
            .arg(COMPILE_COMMAND)
            .args([limits.memory_bytes, limits.cpu.as_secs().max(1)].map(|limit| limit.to_string()))
            .arg(self.layout.name())
            .env_clear()
            // One arena for malloc: each further one counts against the limit without being used.
            .envs([("RAYON_NUM_THREADS", THREADS), ("MALLOC_ARENA_MAX", "1")])
            .current_dir("/")
            .stdin(plugin)
            .stdout(output.try_clone().map_err(start)?)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let status = wait(&mut child, limits.wall, cancel);
        let mut told = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            let _ = stderr.take(REPORT_BYTES).read_to_end(&mut told);
        }
        match status.map_err(start)? {
            None if cancel.is_cancelled() => Err(Refusal::Outdated),
            None => Err(Refusal::CompileWall(limits.wall)),
            Some(status) => verdict(status, &told, limits),
        }
    }
}

/// Waits for the child and kills it at the end of `wall`, or when nobody needs it any more; then there is no status.
fn wait(child: &mut Child, wall: Duration, cancel: &Cancel) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let waited = start.elapsed();
        if waited > wall || cancel.is_cancelled() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(if waited < Duration::from_secs(1) { SOON } else { LATER });
    }
}

/// What the child's end means.
fn verdict(status: ExitStatus, told: &[u8], limits: &CompileLimits) -> Result<(), Refusal> {
    let text = String::from_utf8_lossy(told);
    if let Some(report) = text.lines().last().and_then(|line| serde_json::from_str(line).ok()) {
        return match report {
            Report::Compiled if status.success() => Ok(()),
            Report::Compiled => Err(Refusal::CompilerLost(status.to_string())),
            Report::Refused(refusal) => Err(refusal),
        };
    }
    // Without a report it did not end by itself. An allocation that fails aborts, and says so before it does.
    if text.contains("memory allocation") {
        return Err(Refusal::CompileMemory(limits.memory_bytes));
    }
    match status.signal().map(Signal::from_named_raw) {
        Some(Some(Signal::XCPU)) => Err(Refusal::CompileCpu(limits.cpu)),
        _ => match status.signal() {
            Some(signal) => Err(Refusal::CompileKilled(signal)),
            None => Err(Refusal::CompilerLost(format!("{status}: {}", line_of(&text)))),
        },
    }
}

/// The whole life of a compile child: sets its own limits, then reads a plugin from standard input and compiles it.
/// `args` are the arguments after [`COMPILE_COMMAND`].
pub fn compile_child_main(args: &[String]) -> ExitCode {
    let report = match limit_self(args) {
        Ok(layout) => compile_stdin(layout).map_or_else(Report::Refused, |()| Report::Compiled),
        Err(error) => Report::Refused(Refusal::CompilerLost(error)),
    };
    let code = if matches!(report, Report::Compiled) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    match serde_json::to_string(&report) {
        Ok(report) => eprintln!("{report}"),
        Err(error) => eprintln!("{error}"),
    }
    code
}

/// Sets limits on memory, processor time and files, steps back behind the gateway, and dies with it. What it is to compile for.
fn limit_self(args: &[String]) -> Result<Layout, String> {
    let [memory, cpu, layout] = args else {
        return Err(format!("`{COMPILE_COMMAND}` is for the gateway's own use"));
    };
    let layout = Layout::from_name(layout).ok_or_else(|| format!("`{layout}` is not a layout of memory"))?;
    let memory: u64 = memory
        .parse()
        .map_err(|_| format!("`{memory}` is not a number of bytes"))?;
    let cpu: u64 = cpu.parse().map_err(|_| format!("`{cpu}` is not a number of seconds"))?;
    let limit = |resource, soft: u64, hard: u64| {
        // The gateway's own limit holds for its children too, and only an administrator can raise it.
        let most = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: Some(soft.min(most)),
                maximum: Some(hard.min(most)),
            },
        )
        .map_err(|error| format!("a limit cannot be set: {error}"))
    };
    limit(Resource::As, memory, memory)?;
    limit(Resource::Fsize, memory, memory)?;
    limit(Resource::Core, 0, 0)?;
    // At the soft limit comes a signal that tells why; at the hard one the end.
    limit(Resource::Cpu, cpu, cpu + 1)?;
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    // Requests go first. Where it is not possible, compiling only takes its fair share.
    let _ = rustix::process::nice(10);
    Ok(layout)
}

fn compile_stdin(layout: Layout) -> Result<(), Refusal> {
    let failed = |error: io::Error| Refusal::CompilerLost(error.to_string());
    let mut plugin = Vec::new();
    io::stdin().lock().read_to_end(&mut plugin).map_err(failed)?;
    let compiled = compile(&plugin, layout)?;
    // Not through `io::stdout`, which looks for line ends.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    stdout.write_all(&compiled).map_err(failed)
}

/// Compiles a component, or a core module that says which component it wants to be.
fn compile(plugin: &[u8], layout: Layout) -> Result<Vec<u8>, Refusal> {
    let engine =
        wasmtime::Engine::new(&compile_config(layout)).map_err(|error| Refusal::CompileFailed(one_line(&error)))?;
    let component = match check_beginning(plugin)? {
        CORE => &encode(&engine, plugin)?,
        _ => plugin,
    };
    // Not `precompile_component`, for the same machine code: this one also checks that it loads.
    let compile = |component: &[u8]| Component::from_binary(&engine, component)?.serialize();
    let compiled = match bulk::split(component) {
        // What is wrong is said of the plugin as it is.
        Cow::Owned(split) => compile(&split).or_else(|_| compile(component)),
        Cow::Borrowed(component) => compile(component),
    };
    compiled.map_err(|error| invalid(&one_line(&error)))
}

/// Tells a core module from a component, and both from everything else.
fn check_beginning(plugin: &[u8]) -> Result<&[u8], Refusal> {
    if plugin.is_empty() {
        return Err(Refusal::Empty);
    }
    if !plugin.starts_with(MAGIC) {
        if MAGIC.starts_with(plugin) {
            return Err(Refusal::Truncated(format!("it has {} bytes", plugin.len())));
        }
        return Err(Refusal::NotWasm(resemblance(plugin).into()));
    }
    match plugin.get(4..8) {
        Some(kind @ (CORE | COMPONENT)) => Ok(kind),
        Some(kind) => Err(Refusal::Invalid(format!("its version is {kind:02x?}"))),
        None => Err(Refusal::Truncated(format!("it has {} bytes", plugin.len()))),
    }
}

/// What a file that is not WebAssembly may be.
fn resemblance(plugin: &[u8]) -> &'static str {
    let beginning = &plugin[..plugin.len().min(512)];
    match beginning {
        [b'P', b'K', 3, 4, ..] => "a zip archive",
        [0x1f, 0x8b, ..] => "a gzip file",
        [0x7f, b'E', b'L', b'F', ..] => "a native program",
        _ if beginning.trim_ascii_start().starts_with(b"(") => "WebAssembly's text format",
        _ if beginning.contains(&0) => "some other binary file",
        _ => "a text file",
    }
}

/// Makes a component of a core module with the contract embedded, so that nobody needs a tool for it.
fn encode(engine: &wasmtime::Engine, module: &[u8]) -> Result<Vec<u8>, Refusal> {
    // The encoder believes that it is given a valid module.
    Module::validate(engine, module).map_err(|error| invalid(&one_line(&error)))?;
    if contains(module, b"wasi_snapshot_preview1") {
        return Err(Refusal::PreviewOne);
    }
    if !contains(module, b"component-type") {
        return Err(Refusal::NoContract);
    }
    let encoded = ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode());
    encoded.map_err(|error| invalid(&line_of(&format!("{error:#}"))))
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(bytes, what).is_some()
}

/// Tells a file that ends too early, and memory that ran out, from one that is wrong.
fn invalid(text: &str) -> Refusal {
    if text.contains("unexpected end") || text.contains("is out of bounds (bound") {
        Refusal::Truncated(text.into())
    } else if text.contains("Cannot allocate memory") || text.contains("os error 12") {
        Refusal::CompileMemory(rustix::process::getrlimit(Resource::As).maximum.unwrap_or(u64::MAX))
    } else {
        Refusal::Invalid(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(plugin: &[u8]) -> Result<Vec<u8>, Refusal> {
        super::compile(plugin, Layout::Reserved)
    }

    #[test]
    fn a_file_that_is_no_webassembly_is_told_from_an_unfinished_one() {
        let not = |bytes: &[u8]| match check_beginning(bytes) {
            Err(Refusal::NotWasm(what)) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(check_beginning(b""), Err(Refusal::Empty));
        assert_eq!(not(b"(component)"), "WebAssembly's text format");
        assert_eq!(not(b"import json\n"), "a text file");
        assert_eq!(not(b"\x7fELF\x02\x01"), "a native program");
        assert!(matches!(check_beginning(b"\0as"), Err(Refusal::Truncated(_))));
        assert!(matches!(check_beginning(b"\0asm\x01\0"), Err(Refusal::Truncated(_))));
        assert!(matches!(
            check_beginning(b"\0asm\x0c\0\x01\0"),
            Err(Refusal::Invalid(_))
        ));
        assert_eq!(check_beginning(b"\0asm\x01\0\0\0"), Ok(CORE));
        assert_eq!(check_beginning(b"\0asm\x0d\0\x01\0"), Ok(COMPONENT));
    }

    #[test]
    fn a_core_module_needs_the_contract_inside() {
        let bare = wat::parse_str("(module)").unwrap();
        assert_eq!(compile(&bare), Err(Refusal::NoContract));
        let preview = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))))"#;
        assert_eq!(compile(&wat::parse_str(preview).unwrap()), Err(Refusal::PreviewOne));
    }

    #[test]
    fn a_component_compiles_and_half_of_one_does_not() {
        let whole = wat::parse_str("(component (core module (func (export \"f\"))))").unwrap();
        assert!(compile(&whole).is_ok());
        let half = compile(&whole[..whole.len() - 3]).unwrap_err();
        assert!(matches!(half, Refusal::Truncated(_)), "{half}");
    }
}
