//! Wire formats: one codec per format, both directions, pure. No I/O and no decisions here.

/// The JSON and stream shape of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// OpenAI chat completions.
    OpenAiChat,
}
