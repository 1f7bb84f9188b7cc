//! Where the configuration on disk stands towards the one that is live. A file that was refused would not start a gateway: operators
//! should see that before a restart does.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// See the module.
#[derive(Debug, Default)]
pub struct ConfigState(Mutex<Standing>);

/// What operators are shown of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Since when the live configuration is live, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The gateway started with the last configuration that was live, because the one on disk could not be used.
    pub is_last_good: bool,
    /// Why the configuration on disk is not the live one; `None` when it is.
    pub refused: Option<Refused>,
}

/// A configuration that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// All that is wrong, each with file, line and what to write instead.
    pub errors: Vec<String>,
}

impl ConfigState {
    /// How it stands.
    pub fn get(&self) -> Standing {
        self.lock().clone()
    }

    /// A configuration went live. `is_last_good`: not the one on disk.
    pub fn go_live(&self, is_last_good: bool) {
        let mut standing = self.lock();
        standing.since_ms = now_ms();
        standing.is_last_good = is_last_good;
        if !is_last_good {
            standing.refused = None;
        }
    }

    /// What is on disk is what is live. Whether that is news: something else was refused before.
    pub fn agree(&self) -> bool {
        let mut standing = self.lock();
        standing.is_last_good = false;
        standing.refused.take().is_some()
    }

    /// What is on disk cannot be used. Whether that is news.
    pub fn refuse(&self, errors: Vec<String>) -> bool {
        let mut standing = self.lock();
        let is_news = standing.refused.as_ref().is_none_or(|before| before.errors != errors);
        if is_news {
            standing.refused = Some(Refused {
                at_ms: now_ms(),
                errors,
            });
        }
        is_news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_news_once_and_ends_when_the_file_is_mended() {
        let state = ConfigState::default();
        state.go_live(false);
        assert!(!state.agree());
        assert!(state.refuse(vec!["line 1".to_owned()]));
        assert!(!state.refuse(vec!["line 1".to_owned()]));
        assert!(state.refuse(vec!["line 2".to_owned()]));
        assert_eq!(state.get().refused.unwrap().errors, ["line 2"]);
        assert!(state.agree());
        assert_eq!(state.get().refused, None);
    }

    #[test]
    fn the_last_good_configuration_does_not_mend_the_file() {
        let state = ConfigState::default();
        state.refuse(vec!["line 1".to_owned()]);
        state.go_live(true);
        assert!(state.get().is_last_good && state.get().refused.is_some());
        state.go_live(false);
        assert!(!state.get().is_last_good && state.get().refused.is_none());
    }
}
