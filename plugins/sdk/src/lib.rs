//! Write a routing policy for the Pointsman gateway: one file, one function.
//!
//! The gateway asks a policy what to do when a request arrives, and again after every attempt that failed. The policy
//! answers with a [`Decision`]: the targets to try, in order, or an error for the client, or no opinion. It is a pure
//! function of what it is given: there are no sockets, files, clocks or random numbers, so it can be tested like any
//! other function.
//!
//! # A whole policy
//!
//! ```
//! //! Keeps short prompts on the small target; the large one takes the rest, and stands in when the small one fails.
//! use pointsman_policy::{Attempt, Decision, Request, Settings, Target, rank, usable};
//!
//! pointsman_policy::policy!(decide);
//!
//! fn decide(request: &Request, targets: &[Target], attempts: &[Attempt], settings: &Settings) -> Decision {
//!     let short = request.input_tokens <= settings.number("short_tokens", 1.., 2_000);
//!     let wanted = if short { "small" } else { "large" };
//!     match usable(request, targets, attempts) {
//!         Ok(mut usable) => {
//!             rank(&mut usable, |target| target.attribute("size") != Some(wanted));
//!             Decision::route(usable, ["for ", wanted, " prompts"].concat())
//!         }
//!         Err(decision) => decision,
//!     }
//! }
//!
//! // Nothing of it needs the gateway to be tested.
//! let small = Target { attributes: vec![("size".into(), "small".into())], ..Target::named("llama") };
//! let targets = [Target::named("gpt"), small];
//! let settings = Settings::from([("short_tokens", "100")]);
//!
//! let decision = decide(&Request { input_tokens: 80, ..Request::default() }, &targets, &[], &settings);
//! assert_eq!(decision.targets(), ["llama", "gpt"]);
//! ```
//!
//! # Building one
//!
//! The crate is a library of `crate-type = ["cdylib"]` (add `"rlib"` to test it natively) and needs no other tool than
//! Cargo:
//!
//! ```toml
//! [package]
//! name = "small-first"
//! edition = "2024"
//!
//! [lib]
//! crate-type = ["cdylib", "rlib"]
//!
//! [dependencies]
//! pointsman-policy = { path = "../pointsman/plugins/sdk" }
//!
//! [profile.release]
//! lto = "fat"
//! panic = "abort"
//! strip = true
//! ```
//!
//! ```sh
//! RUSTFLAGS="-Clink-arg=-zstack-size=16384" cargo build --release --target wasm32-unknown-unknown
//! mv target/wasm32-unknown-unknown/release/small_first.wasm plugins/small-first.wasm
//! ```
//!
//! The flag replaces the default stack of 1 MiB, which the gateway would have to provide for each decision. Prefer `mv`
//! on the same disk to `cp`: the gateway then never sees half a file.
//!
//! # What keeps a decision fast
//!
//! The gateway runs each decision in a fresh instance and pays for the memory that it touched. This crate brings an
//! allocator that uses the least of it. A policy helps by joining text rather than formatting it, as in
//! `["after ", name].concat()`, and by not building large tables.
//!
//! # What a panic does
//!
//! It costs one decision: its place and message go to the gateway's log, and the rest of the request runs on the
//! built-in chain, or is rejected where the route says so.
//!
//! # Reading the prompt
//!
//! With the feature `prompt` there is a module `prompt`. A policy that calls it imports it, and the operator must grant
//! that: `grants = ["prompt"]`. A policy that does not call it does not import it, whatever the features say.

#![deny(missing_docs)]

mod decision;
mod hash;
mod rank;
mod request;
mod settings;
mod target;
mod usable;

// Any target needs the arithmetic for its tests; only a guest makes it its allocator.
#[cfg(any(target_arch = "wasm32", test))]
mod allocator;

pub use bindings::pointsman::policy::types::{
    Action, Attempt, Breaker, Decision, Failure, Health, Level, Pick, Rejection, Request, Target,
};
pub use hash::hash;
pub use rank::rank;
pub use settings::Settings;
pub use usable::usable;

/// What wit-bindgen makes of `wit/policy.wit`. Its documentation is there; this crate exports the types again.
#[doc(hidden)]
#[allow(missing_docs)]
pub mod bindings {
    #[cfg(not(feature = "prompt"))]
    wit_bindgen::generate!({
        path: "../../wit",
        world: "policy",
        additional_derives: [PartialEq],
        pub_export_macro: true,
    });
    #[cfg(feature = "prompt")]
    wit_bindgen::generate!({
        path: "../../wit",
        world: "prompt-policy",
        additional_derives: [PartialEq],
        pub_export_macro: true,
    });
}

/// The text of the prompt. A policy that calls this must be granted it: `grants = ["prompt"]`.
#[cfg(feature = "prompt")]
pub mod prompt {
    pub use crate::bindings::pointsman::policy::prompt::{last_user_text, messages};
}

/// Makes a function the policy of this crate.
///
/// The function is `fn(&Request, &[Target], &[Attempt], &Settings) -> Decision`. See a
/// [whole policy](crate#a-whole-policy).
#[macro_export]
macro_rules! policy {
    ($decide:path) => {
        const _: () = {
            struct Policy;

            impl $crate::bindings::Guest for Policy {
                fn decide(
                    request: $crate::Request,
                    targets: ::std::vec::Vec<$crate::Target>,
                    attempts: ::std::vec::Vec<$crate::Attempt>,
                ) -> $crate::Decision {
                    $crate::log_panics();
                    $decide(&request, &targets, &attempts, &$crate::Settings::of_gateway())
                }
            }

    $crate::bindings::export!(Policy with_types_in $crate::bindings);
        };
    };
}

/// Writes a line to the gateway's log, which names the policy. Natively, as in tests, it goes to standard error.
///
/// The gateway limits the lines and bytes of a decision.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    bindings::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

/// From now on a panic says where and why in the gateway's log; the trap that follows says neither.
#[doc(hidden)]
pub fn log_panics() {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
}
