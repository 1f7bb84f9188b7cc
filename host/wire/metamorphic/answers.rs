//! Answers, whole and as streams.

use super::*;
