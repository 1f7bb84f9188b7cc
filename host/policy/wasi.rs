//! The system that WASI guests believe they run on: empty, deterministic, and unable to block.
//!
//! Languages such as Go, Python, JavaScript and C import WASI because their run-time libraries do. They get no files, network,
//! environment or arguments; clocks that stand still at `request.now-ms`; random numbers drawn from `request.seed`; and
//! standard output and error that end in the policy's log. So a decision stays a pure function of what it is given.
//!
//! Here are only functions that have something to answer. Everything else of the served interfaces, such as reading a file,
//! traps when it is called; a guest without a descriptor or a socket has nothing to call it with.
//!
//! This is not `wasmtime-wasi`, because its synchronous functions block on a Tokio runtime, even to drop a stream, and a
//! decision runs on a request's task, where that panics. No code that could open a file for a guest is linked at all.

use wasmtime::bail;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType};

use super::guest::Guest;
use super::log::Stdio;

/// Interfaces that are served, without their version.
const SERVED: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Random bytes of one call, at most.
const RANDOM_BYTES: u64 = 64 << 10;

/// What a stream says it has room for.
const STREAM_ROOM: u64 = 64 << 10;

// What handles point to. There is one of each kind, or none at all, so a handle needs no table behind it.
struct Pollable;
struct IoError;
struct InputStream;
struct OutputStream;
struct Terminal;
struct Descriptor;

/// `wasi:io/streams.stream-error`: the only one that happens here.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[expect(dead_code, reason = "part of the type")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

/// `wasi:clocks/wall-clock.datetime`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// Whether an import is served here.
pub(super) fn serves(import: &str) -> bool {
    split(import).is_some_and(|(interface, version)| version.starts_with("0.2.") && SERVED.contains(&interface))
}

/// Whether an import is WASI's, served or not.
pub(super) fn names(import: &str) -> bool {
    import.starts_with("wasi:")
}

/// Adds every served interface that `component` imports, under the version it imports, and traps for the rest of them.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>, component: &Component) -> wasmtime::Result<()> {
    let ty = component.component_type();
    for (import, item) in ty.imports(component.engine()).filter(|(import, _)| serves(import)) {
        let (Some((interface, _)), ComponentItem::ComponentInstance(ty)) = (split(import), item.ty) else {
            continue;
        };
        let mut root = linker.root();
        let instance = &mut root.instance(import)?;
        for (name, _) in ty
            .exports(component.engine())
            .filter(|(_, item)| matches!(item.ty, ComponentItem::Resource(_)))
        {
            resource(instance, name)?;
        }
        match interface {
            "wasi:cli/environment" => environment(instance)?,
            "wasi:cli/exit" => exit(instance)?,
            "wasi:cli/stdin" => {
                instance.func_wrap("get-stdin", |_, ()| Ok((Resource::<InputStream>::new_own(0),)))?;
            }
            "wasi:cli/stdout" => stdio(instance, "get-stdout", Stdio::Output)?,
            "wasi:cli/stderr" => stdio(instance, "get-stderr", Stdio::Error)?,
            "wasi:cli/terminal-stdin" => no_terminal(instance, "get-terminal-stdin")?,
            "wasi:cli/terminal-stdout" => no_terminal(instance, "get-terminal-stdout")?,
            "wasi:cli/terminal-stderr" => no_terminal(instance, "get-terminal-stderr")?,
            "wasi:clocks/monotonic-clock" => monotonic_clock(instance)?,
            "wasi:clocks/wall-clock" => wall_clock(instance)?,
            "wasi:filesystem/preopens" => {
                instance.func_wrap("get-directories", |_, ()| {
                    Ok((Vec::<(Resource<Descriptor>, String)>::new(),))
                })?;
            }
            "wasi:io/error" => io_error(instance)?,
            "wasi:io/poll" => poll(instance)?,
            "wasi:io/streams" => {
                input_stream(instance)?;
                output_stream(instance)?;
            }
            "wasi:random/random" => random(instance, "get-random-bytes", "get-random-u64")?,
            "wasi:random/insecure" => random(instance, "get-insecure-random-bytes", "get-insecure-random-u64")?,
            "wasi:random/insecure-seed" => {
                instance.func_wrap("insecure-seed", |mut store, ()| {
                    let dice = &mut store.data_mut().dice;
                    Ok(((dice.u64(..), dice.u64(..)),))
                })?;
            }
            _ => {}
        }
    }
    linker.define_unknown_imports_as_traps(component)
}

/// `wasi:io/poll@0.2.3` as `wasi:io/poll` and `0.2.3`.
fn split(import: &str) -> Option<(&str, &str)> {
    import.split_once('@')
}

/// An interface exports the resources that it uses of another one again, so each name means the same everywhere.
fn resource(instance: &mut LinkerInstance<'_, Guest>, name: &str) -> wasmtime::Result<()> {
    let ty = match name {
        "pollable" => ResourceType::host::<Pollable>(),
        "error" => ResourceType::host::<IoError>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "terminal-input" | "terminal-output" => ResourceType::host::<Terminal>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        // Nobody here makes one.
        _ => ResourceType::host::<()>(),
    };
    instance.resource(name, ty, |_, _| Ok(()))
}

fn environment(instance: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    instance.func_wrap("get-environment", |_, ()| Ok((Vec::<(String, String)>::new(),)))?;
    instance.func_wrap("get-arguments", |_, ()| Ok((Vec::<String>::new(),)))?;
    instance.func_wrap("initial-cwd", |_, ()| Ok((None::<String>,)))
}

fn exit(instance: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    instance.func_wrap("exit", |_, (status,): (Result<(), ()>,)| -> wasmtime::Result<()> {
        bail!(
            "the policy ended its program with {}",
            if status.is_ok() { "success" } else { "failure" }
        )
    })
}

/// The handle of a stream is the stream's number.
fn stdio(instance: &mut LinkerInstance<'_, Guest>, function: &str, stream: Stdio) -> wasmtime::Result<()> {
    instance.func_wrap(function, move |_, ()| {
        Ok((Resource::<OutputStream>::new_own(stream as u32),))
    })
}

fn no_terminal(instance: &mut LinkerInstance<'_, Guest>, function: &str) -> wasmtime::Result<()> {
    instance.func_wrap(function, |_, ()| Ok((None::<Resource<Terminal>>,)))
}

fn monotonic_clock(instance: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    instance.func_wrap("now", |store, ()| Ok((store.data().now_ms.saturating_mul(1_000_000),)))?;
    instance.func_wrap("resolution", |_, ()| Ok((1_000_000_u64,)))?;
    instance.func_wrap("subscribe-instant", |_, (_,): (u64,)| {
        Ok((Resource::<Pollable>::new_own(0),))
    })?;
    instance.func_wrap("subscribe-duration", |_, (_,): (u64,)| {
        Ok((Resource::<Pollable>::new_own(0),))
    })
}

fn wall_clock(instance: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    instance.func_wrap("now", |store, ()| {
        let now_ms = store.data().now_ms;
        let nanoseconds = (now_ms % 1000) as u32 * 1_000_000;
        Ok((Datetime {
            seconds: now_ms / 1000,
            nanoseconds,
        },))
    })?;
    instance.func_wrap("resolution", |_, ()| {
        Ok((Datetime {
            seconds: 0,
            nanoseconds: 1_000_000,
        },))
    })
}

fn io_error(instance: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    instance.func_wrap("[method]error.to-debug-string", |_, (_,): (Resource<IoError>,)| {
        Ok((String::new(),))
    })
}

/// Nothing here is ever waited for: everything is ready at once, a sleep included.
fn poll(instance: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    instance.func_wrap("[method]pollable.ready", |_, (_,): (Resource<Pollable>,)| Ok((true,)))?;
    instance.func_wrap("[method]pollable.block", |_, (_,): (Resource<Pollable>,)| Ok(()))?;
    instance.func_wrap("poll", |_, (list,): (Vec<Resource<Pollable>>,)| {
        Ok(((0..list.len() as u32).collect::<Vec<_>>(),))
    })
}

/// Standard input is at its end.
fn input_stream(instance: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Read = (Resource<InputStream>, u64);
    for read in ["[method]input-stream.read", "[method]input-stream.blocking-read"] {
        instance.func_wrap(read, |_, _: Read| Ok((Err::<Vec<u8>, _>(StreamError::Closed),)))?;
    }
    for skip in ["[method]input-stream.skip", "[method]input-stream.blocking-skip"] {
        instance.func_wrap(skip, |_, _: Read| Ok((Err::<u64, _>(StreamError::Closed),)))?;
    }
    instance.func_wrap("[method]input-stream.subscribe", |_, (_,): (Resource<InputStream>,)| {
        Ok((Resource::<Pollable>::new_own(0),))
    })
}

/// Standard output and standard error go to the policy's log.
fn output_stream(instance: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Stream = Resource<OutputStream>;
    type Done = (Result<(), StreamError>,);
    instance.func_wrap("[method]output-stream.check-write", |_, (_,): (Stream,)| {
        Ok((Ok::<_, StreamError>(STREAM_ROOM),))
    })?;
    for write in [
        "[method]output-stream.write",
        "[method]output-stream.blocking-write-and-flush",
    ] {
        instance.func_wrap(
            write,
            |mut store, (stream, bytes): (Stream, Vec<u8>)| -> wasmtime::Result<Done> {
                let stream = if stream.rep() == Stdio::Error as u32 {
                    Stdio::Error
                } else {
                    Stdio::Output
                };
                store.data_mut().log.write(stream, &bytes);
                Ok((Ok(()),))
            },
        )?;
    }
    for flush in ["[method]output-stream.flush", "[method]output-stream.blocking-flush"] {
        instance.func_wrap(flush, |_, (_,): (Stream,)| -> wasmtime::Result<Done> { Ok((Ok(()),)) })?;
    }
    instance.func_wrap("[method]output-stream.subscribe", |_, (_,): (Stream,)| {
        Ok((Resource::<Pollable>::new_own(0),))
    })
}

fn random(instance: &mut LinkerInstance<'_, Guest>, bytes: &str, number: &str) -> wasmtime::Result<()> {
    instance.func_wrap(bytes, |mut store, (count,): (u64,)| {
        if count > RANDOM_BYTES {
            bail!("the policy asked for {count} random bytes at once, at most {RANDOM_BYTES} are given");
        }
        let mut bytes = vec![0_u8; count as usize];
        store.data_mut().dice.fill(&mut bytes);
        Ok((bytes,))
    })?;
    instance.func_wrap(number, |mut store, ()| Ok((store.data_mut().dice.u64(..),)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_second_preview_without_http_is_served() {
        assert!(serves("wasi:io/poll@0.2.3"));
        assert!(!serves("wasi:io/poll@0.3.0"));
        assert!(!serves("wasi:http/types@0.2.0"));
        assert!(!serves("pointsman:policy/prompt@0.1.0"));
    }
}
