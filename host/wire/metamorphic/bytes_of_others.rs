//! Bytes that nobody who speaks a format would send.

use super::*;
