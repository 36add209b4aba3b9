//! A fuse for the simulation: after so many stores into mapped files, this thread's process is
//! "killed": the store that blows it is torn, and none after it happens.
//!
//! Built into tests only; a program that serves has no trace of it.

use std::cell::Cell;

thread_local! {
    /// Stores left, and what tears the last one. None: no fuse.
    static LEFT: Cell<Option<(u32, u64)>> = const { Cell::new(None) };
    static BLOWN: Cell<bool> = const { Cell::new(false) };
}

/// Sets the fuse: `stores` happen, the next one is torn as `tear` says. None: all happen.
pub(super) fn set(stores: Option<u32>, tear: u64) {
    LEFT.set(stores.map(|stores| (stores, tear)));
    BLOWN.set(false);
}

/// No store happens from now on.
pub(super) fn blow() {
    BLOWN.set(true);
}

/// Whether the process is dead.
pub(super) fn is_blown() -> bool {
    BLOWN.get()
}

/// What becomes of a store of one byte: whether it happens.
pub(super) fn burn_byte() -> bool {
    match next() {
        Fate::Whole => true,
        Fate::Torn(tear) => tear & 1 == 1,
        Fate::None => false,
    }
}

/// What a store of a half leaves: of a torn one any of its words (the processor may have stored
/// them in any order) and never the CRC, which is stored behind a barrier; none when nothing.
pub(super) fn burn<const N: usize>(half: &[u8; N]) -> Option<[u8; N]> {
    let mut left = *half;
    match next() {
        Fate::Whole => {}
        Fate::Torn(tear) => {
            left[N - 4..].fill(0);
            let words = left[..N - 4].chunks_mut(4).enumerate();
            words.filter(|(word, _)| tear & (1 << (word % 64)) == 0).for_each(|(_, bytes)| bytes.fill(0));
        }
        Fate::None => return None,
    }
    Some(left)
}

enum Fate {
    Whole,
    Torn(u64),
    None,
}

fn next() -> Fate {
    if BLOWN.get() {
        return Fate::None;
    }
    match LEFT.get() {
        None => Fate::Whole,
        Some((0, tear)) => {
            BLOWN.set(true);
            Fate::Torn(tear)
        }
        Some((stores, tear)) => {
            LEFT.set(Some((stores - 1, tear)));
            Fate::Whole
        }
    }
}
