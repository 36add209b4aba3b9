//! A segment's file in memory: the one place of the program that is not checked by the compiler.
//!
//! Owns: the mapping, and plain stores into it. Refuses to own: which slot is written when, which
//! is the lane's business, and reading, which everybody else does from the file.
//!
//! Why a mapping: its pages belong to the kernel, so that what was stored outlives a killed
//! process without a system call. Why it does not fault: the file was filled with zeros and
//! synced before it was mapped, so every page has its block on disk (on file systems that write
//! in place; on those that copy on write, a full disk can still end the process with SIGBUS).

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::slot::{
    ADMISSION_BYTES, AdmissionHalf, SENT, SENT_AT, SETTLEMENT_AT, SETTLEMENT_BYTES, SLOT_BYTES, SettlementHalf,
};

/// The slots of a segment, to be written. Its writes take `&mut self`: one writer at a time, for
/// whom the lane's lock stands.
#[derive(Debug)]
pub(super) struct Map {
    raw: MmapRaw,
    header_bytes: usize,
    slots: u32,
}

impl Map {
    /// Maps a file of `header_bytes` and `slots` slots, and has its pages ready to be written.
    ///
    /// # Errors
    /// The kernel does not map it, or the file is shorter than it should be.
    pub(super) fn open(file: &File, header_bytes: usize, slots: u32) -> io::Result<Self> {
        let length = header_bytes + slots as usize * SLOT_BYTES;
        if file.metadata()?.len() < length as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment is shorter than its slots"));
        }
        let raw = MmapOptions::new().len(length).populate().map_raw(file)?;
        // Populating a shared map reads its pages in; this makes them writable as well, so that a
        // worker's first write to a page costs it nothing. Where the file system copies on write,
        // it also finds a full disk here and not as a SIGBUS. Kernels before 5.14 do not know it.
        match raw.advise(Advice::PopulateWrite) {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
            _ => {}
        }
        Ok(Self { raw, header_bytes, slots })
    }

    /// Writes a first half, its CRC last.
    pub(super) fn write_admission(&mut self, slot: u32, half: &AdmissionHalf) {
        self.write(slot, 0, half);
    }

    /// Sets or clears the sent mark.
    #[expect(unsafe_code, reason = "a store into the journal's mapped file")]
    pub(super) fn write_sent(&mut self, slot: u32, sent: bool) {
        let at = self.at(slot, SENT_AT, 1);
        #[cfg(test)]
        if !super::fuse::burn_byte() {
            return;
        }
        // SAFETY: `at` lies within the mapping (see `at`), which lives as long as `self`; nobody
        // else writes to it, because of `&mut self` and the folder's lock, and no reference to
        // its bytes exists.
        unsafe { at.write(if sent { SENT } else { 0 }) };
    }

    /// Writes a second half, its CRC last.
    pub(super) fn write_settlement(&mut self, slot: u32, half: &SettlementHalf) {
        self.write(slot, SETTLEMENT_AT, half);
    }

    /// The first half as it was written: to be copied elsewhere.
    #[expect(unsafe_code, reason = "a read from the journal's mapped file")]
    pub(super) fn admission(&self, slot: u32) -> AdmissionHalf {
        let from = self.at(slot, 0, ADMISSION_BYTES);
        let mut half = [0; ADMISSION_BYTES];
        // SAFETY: as in `write_sent`; `half` is as long as what is read and lies elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), half.as_mut_ptr(), ADMISSION_BYTES) };
        half
    }

    #[expect(unsafe_code, reason = "a store into the journal's mapped file")]
    fn write<const N: usize>(&mut self, slot: u32, offset: usize, half: &[u8; N]) {
        const { assert!(N.is_multiple_of(4) && N <= SLOT_BYTES) };
        let at = self.at(slot, offset, N);
        #[cfg(test)]
        let left = super::fuse::burn(half);
        #[cfg(test)]
        let Some(half) = &left else { return };
        let crc = u32::from_ne_bytes(*half.last_chunk().expect("a half is longer than its CRC"));
        // SAFETY: as in `write_sent`, for `N` bytes from `at`. The CRC's address is a multiple of
        // four: the mapping begins at a page, and header, slot, half and `N` are such multiples.
        // The release store keeps the compiler and the processor from storing it any earlier.
        unsafe {
            std::ptr::copy_nonoverlapping(half.as_ptr(), at, N - 4);
            #[expect(clippy::cast_ptr_alignment, reason = "aligned, as said above")]
            AtomicU32::from_ptr(at.add(N - 4).cast::<u32>()).store(crc, Ordering::Release);
        }
    }

    /// Where `length` bytes of a slot begin.
    ///
    /// # Panics
    /// They do not lie within the slots: a fault of this program, and better shown than written.
    #[expect(unsafe_code, reason = "an address within the journal's mapped file")]
    fn at(&self, slot: u32, offset: usize, length: usize) -> *mut u8 {
        assert!(slot < self.slots && offset + length <= SLOT_BYTES, "slot {slot} lies outside its segment");
        let at = self.header_bytes + slot as usize * SLOT_BYTES + offset;
        // SAFETY: by the assertion and by `open`, `at + length` is not past the mapping's end.
        unsafe { self.raw.as_mut_ptr().add(at) }
    }
}

const _: () = assert!(SETTLEMENT_AT.is_multiple_of(4) && SETTLEMENT_AT + SETTLEMENT_BYTES <= SLOT_BYTES);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use uuid::Uuid;

    use super::super::double::{admission, settlement};
    use super::super::slot::{Seal, Sent, Slot, admission_half, settlement_half};
    use super::*;
    use crate::model::usage::Outcome;

    #[test]
    fn what_is_stored_in_the_map_is_read_from_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096 + 2 * SLOT_BYTES as u64).unwrap();
        let mut map = Map::open(&file, 4096, 2).unwrap();
        let seal = Seal::new(Uuid::from_u128(5), 1);
        let read = || {
            let mut bytes = [0; SLOT_BYTES];
            file.read_exact_at(&mut bytes, 4096 + SLOT_BYTES as u64).unwrap();
            Slot::read(seal, 1, &bytes)
        };
        assert_eq!(read(), Slot::Empty);
        map.write_admission(1, &admission_half(seal, 1, &admission(1)));
        assert_eq!(read(), Slot::Open(admission(1), Sent::No));
        map.write_sent(1, true);
        assert_eq!(read(), Slot::Open(admission(1), Sent::Yes));
        map.write_sent(1, false);
        assert_eq!(read(), Slot::Open(admission(1), Sent::No));
        assert_eq!(map.admission(1), admission_half(seal, 1, &admission(1)));
        map.write_settlement(1, &settlement_half(seal, 1, &settlement(Outcome::Complete)));
        assert_eq!(read(), Slot::Settled(admission(1), settlement(Outcome::Complete)));
    }

    #[test]
    fn a_file_shorter_than_its_slots_is_not_mapped() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert_eq!(Map::open(&file, 4096, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    #[should_panic(expected = "outside its segment")]
    fn a_slot_outside_the_segment_is_not_written() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096 + SLOT_BYTES as u64).unwrap();
        Map::open(&file, 4096, 1).unwrap().write_sent(1, true);
    }
}
