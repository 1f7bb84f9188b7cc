//! One compiled plugin, ready to be instantiated: what it imports is known and served, and `decide` has the contract's type.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmtime::Store;
use wasmtime::component::Component;

use super::contract::{PromptPolicy, PromptPolicyPre};
use super::engine::Engine;
use super::guest::Guest;
use super::refusal::Refusal;
use super::version::Input;
use super::wasi;
use crate::config::{Grant, Isolation, PolicyRules};

/// The package of the contract, and the version of it that this gateway speaks.
pub(super) const PACKAGE: &str = "pointsman:policy";
pub(super) const PACKAGE_VERSION: &str = "0.1.0";

/// SHA-256 of a plugin file: the identity of a version. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hash([u8; 32]);

/// A compiled plugin.
pub(super) struct Program {
    pub(super) hash: Hash,
    /// What it imports that an operator must grant.
    needs: Option<Grant>,
    engine: Engine,
    pre: PromptPolicyPre<Guest>,
    /// What its probe measured.
    pub(super) measured: OnceLock<Measured>,
}

/// What a probe found a decision to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// The fastest of several decisions, warmed up.
    pub(super) took: Duration,
    /// How instances were kept apart; it decides most of the time of a large guest.
    pub(super) isolation: Isolation,
}

impl Hash {
    /// Hashes a plugin file.
    pub(super) fn of(plugin: &[u8]) -> Self {
        Self(Sha256::digest(plugin).into())
    }

    /// The first 8 hexadecimal digits, as in `plan-b@1a2b3c4d`.
    pub fn short(&self) -> String {
        format!("{self:.8}")
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(64).min(64);
        self.0
            .iter()
            .take(digits.div_ceil(2))
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// A text that is no hash.
#[derive(Debug, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct NotAHash;

impl TryFrom<String> for Hash {
    type Error = NotAHash;

    fn try_from(text: String) -> Result<Self, NotAHash> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotAHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAHash)?;
        }
        Ok(Self(hash))
    }
}

impl Program {
    /// Links a compiled plugin. Whether it has been granted what it needs is not asked here.
    pub(super) fn link(engine: &Engine, hash: Hash, component: &Component) -> Result<Arc<Self>, Refusal> {
        let ty = component.component_type();
        let imports: Vec<&str> = ty.imports(engine.wasm()).map(|(name, _)| name).collect();
        imports.iter().try_for_each(|import| check_import(import))?;
        if !ty.exports(engine.wasm()).any(|(name, _)| name == "decide") {
            let exports: Vec<&str> = ty.exports(engine.wasm()).map(|(name, _)| name).collect();
            let found = if exports.is_empty() {
                "it exports nothing".into()
            } else {
                format!("it exports {}", quoted(&exports))
            };
            return Err(Refusal::WrongWorld(found));
        }
        let mut linker = engine.linker();
        let misfit = |error: wasmtime::Error| Refusal::Misfit(one_line(&error));
        if imports.iter().any(|import| wasi::names(import)) {
            wasi::add_to_linker(&mut linker, component).map_err(misfit)?;
        }
        let pre = linker
            .instantiate_pre(component)
            .and_then(PromptPolicyPre::new)
            .map_err(misfit)?;
        let needs = imports.contains(&prompt_import().as_str()).then_some(Grant::Prompt);
        Ok(Arc::new(Self {
            hash,
            needs,
            engine: engine.clone(),
            pre,
            measured: OnceLock::new(),
        }))
    }

    /// Checks that the policy `name` has been granted what this program imports.
    pub(super) fn check_grants(&self, name: &str, rules: &PolicyRules) -> Result<(), Refusal> {
        match self.needs {
            Some(grant) if !rules.grants.contains(&grant) => Err(Refusal::NotGranted {
                import: prompt_import(),
                grant: "prompt".into(),
                policy: name.into(),
            }),
            _ => Ok(()),
        }
    }

    /// A new guest. It runs its initialisation, so it has only as long as one decision.
    pub(super) fn instantiate(
        &self,
        rules: &Arc<PolicyRules>,
        input: &Input<'_>,
    ) -> (Store<Guest>, wasmtime::Result<PromptPolicy>) {
        let mut store = Guest::store(&self.engine, rules);
        Guest::begin(&mut store, input);
        let policy = self.pre.instantiate(&mut store);
        (store, policy)
    }
}

fn prompt_import() -> String {
    format!("{PACKAGE}/prompt@{PACKAGE_VERSION}")
}

/// Refuses an import that nobody serves, with what to do about it.
fn check_import(import: &str) -> Result<(), Refusal> {
    if matches!(import, "setting" | "log") || wasi::serves(import) {
        return Ok(());
    }
    let Some((interface, version)) = import.split_once('@') else {
        return Err(Refusal::ForbiddenImport(import.into()));
    };
    match interface.strip_prefix(PACKAGE) {
        Some("/types" | "/prompt") if version == PACKAGE_VERSION => Ok(()),
        Some(_) if version != PACKAGE_VERSION => Err(Refusal::OtherContract {
            found: import.into(),
            ours: PACKAGE_VERSION.into(),
        }),
        _ if interface.starts_with("wasi:http/") => Err(Refusal::Network(import.into())),
        _ => Err(Refusal::ForbiddenImport(import.into())),
    }
}

fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// An error and its causes on one line.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    line_of(&format!("{error:#}"))
}

/// A text on one line, without control characters, cut to a length that fits a log.
pub(super) fn line_of(text: &str) -> String {
    const CHARS: usize = 500;
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_writing_and_reading() {
        let hash = Hash::of(b"plan b");
        assert_eq!(Hash::try_from(hash.to_string()).unwrap(), hash);
        assert_eq!(hash.short(), hash.to_string()[..8]);
        for wrong in ["", "12", "+1", &"g".repeat(64), &"é".repeat(32)] {
            assert!(Hash::try_from(wrong.to_string()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn imports_are_refused_with_what_to_do() {
        assert_eq!(check_import("log"), Ok(()));
        assert_eq!(check_import("pointsman:policy/types@0.1.0"), Ok(()));
        assert_eq!(check_import("wasi:random/random@0.2.6"), Ok(()));
        assert!(matches!(
            check_import("pointsman:policy/types@0.2.0"),
            Err(Refusal::OtherContract { .. })
        ));
        assert!(matches!(
            check_import("pointsman:policy/disk@0.1.0"),
            Err(Refusal::ForbiddenImport(_))
        ));
        assert!(matches!(
            check_import("wasi:http/types@0.2.0"),
            Err(Refusal::Network(_))
        ));
        assert!(matches!(
            check_import("wasi:nn/tensor@0.2.0"),
            Err(Refusal::ForbiddenImport(_))
        ));
        assert!(matches!(check_import("env"), Err(Refusal::ForbiddenImport(_))));
    }
}
