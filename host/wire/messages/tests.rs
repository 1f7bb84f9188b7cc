//! What is read and written is compared byte for byte with what Anthropic's SDKs send and take.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::answer::{Finish, Piece, Reason};
use crate::conversation::{Block, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn};
use crate::wire::{Dialect, Format, PLAIN, signature, sse};

mod answers;
mod requests;

fn asked() -> Asked {
    Asked {
        id: "r1".into(),
        created: 1,
        model: "smart".into(),
        body: Bytes::new(),
    }
}

/// The files of the recorded traffic whose path holds a text and ends with another; `None` when it is not there.
fn recorded(part: &str, suffix: &str) -> Option<Vec<PathBuf>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let Some(folder) = std::env::var_os("POINTSMAN_CORPUS") else {
        println!("skipped: POINTSMAN_CORPUS is not set");
        return None;
    };
    let mut found = Vec::new();
    walk(Path::new(&folder), &mut found);
    let wanted = |path: &PathBuf| {
        path.to_str()
            .is_some_and(|path| path.contains(part) && path.ends_with(suffix))
    };
    found.retain(wanted);
    found.sort();
    assert!(!found.is_empty(), "{part}");
    Some(found)
}
