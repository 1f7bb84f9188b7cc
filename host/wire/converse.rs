#![allow(missing_docs)]
pub fn error_type(_: u16) -> &'static str {
    ""
}
