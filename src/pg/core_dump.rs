//! Core dumps of a process that has held keys: without its private memory, where they are and where copies of them may be left.

use std::{cell::Cell, fs};

/// Which mappings a core dump of this process has, as bits (core(5)). There is none but on Linux.
const FILTER: &str = "/proc/self/coredump_filter";

/// Private anonymous mappings, ordinary ones and huge pages: heap and stack.
const PRIVATE: u32 = 1 << 0 | 1 << 5;

thread_local! {
    static DONE: Cell<bool> = const { Cell::new(false) };
}

/// Leaves this process's own memory out of core dumps from now on. Called before it holds a key; an administrator who has to debug it may set the
/// filter back from outside.
pub(super) fn leave_keys_out() {
    if DONE.replace(true) {
        return;
    }
    let filter = fs::read_to_string(FILTER).ok().and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
    if let Some(filter) = filter {
        // A sandbox may forbid it; no call fails for that.
        drop(fs::write(FILTER, format!("{:#x}", filter & !PRIVATE)));
    }
}
