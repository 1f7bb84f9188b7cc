//! The text of a client's prompt, for policies that may read it: decoded only when one asks.

use bytes::Bytes;

use crate::chat;
use crate::policy::Prompt;
use crate::wire::Format;

/// The prompt of a request, in its body.
pub struct BodyPrompt {
    format: Format,
    body: Bytes,
}

/// Bytes of a prompt's text that a policy can get, the newest: a long prompt must not fill its memory.
const MAX_TEXT: usize = 1024 * 1024;

impl BodyPrompt {
    /// The prompt of a body in a format.
    pub fn new(format: Format, body: Bytes) -> Self {
        Self { format, body }
    }
}

impl Prompt for BodyPrompt {
    fn last_user_text(&self) -> String {
        let users = self.messages().into_iter().rev().find(|(role, _)| role == "user");
        users.map(|(_, text)| text).unwrap_or_default()
    }

    fn messages(&self) -> Vec<(String, String)> {
        let conversation = self.format.decode_request(&self.body);
        let mut messages = conversation.map(|it| chat::texts(&it)).unwrap_or_default();
        let mut left = MAX_TEXT;
        for (role, text) in messages.iter_mut().rev() {
            text.truncate(text.floor_char_boundary(left));
            left = left.saturating_sub(text.len() + role.len());
        }
        messages
    }
}
