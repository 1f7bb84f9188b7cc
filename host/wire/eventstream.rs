#![allow(missing_docs)]
use super::{Malformed, sse};
use bytes::Bytes;
#[derive(Default)]
pub struct Splitter;
impl Splitter {
    pub fn push(&mut self, b: Bytes) -> Bytes {
        b
    }
    pub fn pending(&self) -> usize {
        0
    }
    pub fn finish(&mut self) -> Bytes {
        Bytes::new()
    }
}
pub fn split_first(_: &[u8]) -> Result<Option<(sse::Event<'_>, &[u8])>, Malformed> {
    unimplemented!()
}
