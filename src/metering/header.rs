//! The header of a segment: all that its slots refer to, so that the file can be read alone.
//!
//! | bytes | what |
//! |--:|---|
//! | 0..8 | `OCTROIJ` and a zero |
//! | 8..12 | format version: 3. Formats 1 and 2 are read too: they differ only in what their slots never say |
//! | 12..16 | bytes of the header: a multiple of 4 KiB; the slots follow |
//! | 16..20 | bytes of a slot |
//! | 20..24 | slots |
//! | 24..40 | the folder's uuid |
//! | 40..48 | the segment's number, unique in its folder |
//! | 48..52 | bytes of the table, *T* |
//! | 52..52+*T* | the table: node, count of routes (4 bytes), each route; a text is its length (4 bytes) and its UTF-8 |
//! | then | CRC-32 of all before; the rest of the header is zero |
//!
//! Numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use uuid::Uuid;

use super::slot::{SLOT_BYTES, Seal};

/// How a header begins.
const MAGIC: &[u8; 8] = b"OCTROIJ\0";
/// The format that this program writes. 2 added interim records, 3 delegated requests, which a program
/// that does not know them would take for requests of its own.
const FORMAT: u32 = 3;
/// The oldest format that it reads.
const FORMAT_READ: u32 = 1;
/// A header is a multiple of this: a page, so that slots never share one with it.
pub(super) const PAGE_BYTES: usize = 4096;
/// Where the table begins.
const TABLE_AT: usize = 52;
/// No header is longer; what says so is damage.
const HEADER_BYTES_MAX: usize = 16 << 20;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) node: String,
    pub(super) folder: Uuid,
    pub(super) number: u64,
    pub(super) slots: u32,
    pub(super) routes: Vec<String>,
    /// The bytes it takes; the slots follow.
    pub(super) bytes: usize,
}

/// Why a header was not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The disk did not give it.
    #[error("the header could not be read")]
    Unreadable(#[from] io::Error),
    /// It is not what was written.
    #[error("the header is damaged")]
    Damaged,
    /// It is of another version of the format.
    #[error("the segment has format {0}, and this version reads {FORMAT_READ} to {FORMAT}")]
    OtherFormat(u32),
}

impl Header {
    /// The header of a segment that is `segment_bytes` long in all; none when the names leave
    /// no room for slots.
    pub(super) fn fit(node: &str, folder: Uuid, number: u64, routes: &[String], segment_bytes: u64) -> Option<Self> {
        let bytes = (TABLE_AT + table(node, routes).len() + 4).next_multiple_of(PAGE_BYTES);
        let room = segment_bytes.checked_sub(bytes as u64)? / SLOT_BYTES as u64;
        let slots = u32::try_from(room).unwrap_or(u32::MAX >> 1).min(u32::MAX >> 1);
        let fits = slots > 0 && bytes <= HEADER_BYTES_MAX;
        fits.then(|| Self { node: node.to_owned(), folder, number, slots, routes: routes.to_vec(), bytes })
    }

    /// Where the slot begins, in the file.
    pub(super) fn offset(&self, slot: u32) -> u64 {
        self.bytes as u64 + u64::from(slot) * SLOT_BYTES as u64
    }

    /// What seals this segment's slots.
    pub(super) fn seal(&self) -> Seal {
        Seal::new(self.folder, self.number)
    }

    /// The bytes of the header.
    pub(super) fn encode(&self) -> Vec<u8> {
        let table = table(&self.node, &self.routes);
        let mut bytes = Vec::with_capacity(self.bytes);
        bytes.extend_from_slice(MAGIC);
        for number in [FORMAT, length(self.bytes), length(SLOT_BYTES), self.slots] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.folder.as_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&length(table.len()).to_le_bytes());
        bytes.extend_from_slice(&table);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.resize(self.bytes, 0);
        bytes
    }

    /// Reads the header of a segment's file.
    pub(super) fn read(file: &File) -> Result<Self, HeaderError> {
        let start = read_up_to(file, TABLE_AT)?;
        if start.len() < TABLE_AT || !start.starts_with(MAGIC) {
            return Err(HeaderError::Damaged);
        }
        let format = number(&start, 8);
        let bytes = number(&start, 12) as usize;
        let content_bytes = TABLE_AT + number(&start, 48) as usize;
        if content_bytes + 4 > bytes || bytes > HEADER_BYTES_MAX || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(HeaderError::Damaged);
        }
        let header = read_up_to(file, content_bytes + 4)?;
        if header.len() < content_bytes + 4
            || crc32fast::hash(&header[..content_bytes]) != number(&header, content_bytes)
        {
            return Err(HeaderError::Damaged);
        }
        if !(FORMAT_READ..=FORMAT).contains(&format) || number(&header, 16) as usize != SLOT_BYTES {
            return Err(HeaderError::OtherFormat(format));
        }
        let (node, routes) = read_table(&header[TABLE_AT..content_bytes]).ok_or(HeaderError::Damaged)?;
        Ok(Self {
            node,
            folder: Uuid::from_slice(&header[24..40]).expect("sixteen bytes are a uuid"),
            number: u64::from_le_bytes(*header[40..48].first_chunk().expect("eight bytes")),
            slots: number(&header, 20),
            routes,
            bytes,
        })
    }
}

fn table(node: &str, routes: &[String]) -> Vec<u8> {
    let mut table = Vec::new();
    push_text(&mut table, node);
    table.extend_from_slice(&length(routes.len()).to_le_bytes());
    for route in routes {
        push_text(&mut table, route);
    }
    table
}

fn push_text(table: &mut Vec<u8>, text: &str) {
    table.extend_from_slice(&length(text.len()).to_le_bytes());
    table.extend_from_slice(text.as_bytes());
}

fn read_table(mut table: &[u8]) -> Option<(String, Vec<String>)> {
    let node = take_text(&mut table)?;
    let count = take_number(&mut table)?;
    let routes = (0..count).map(|_| take_text(&mut table)).collect::<Option<Vec<_>>>()?;
    Some((node, routes))
}

fn take_text(table: &mut &[u8]) -> Option<String> {
    let length = take_number(table)? as usize;
    let (text, rest) = table.split_at_checked(length)?;
    *table = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn take_number(table: &mut &[u8]) -> Option<u32> {
    let (number, rest) = table.split_first_chunk()?;
    *table = rest;
    Some(u32::from_le_bytes(*number))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("names and headers are far below 4 GiB")
}

/// The first bytes of a file: fewer when it ends before.
fn read_up_to(file: &File, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn header(routes: &[String]) -> Header {
        Header::fit("node-a", Uuid::from_u128(9), 3, routes, 64 << 10).unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read() {
        for routes in [vec![], vec!["orders".to_owned(), String::new(), "Überall".to_owned()], vec!["r".repeat(5000)]]
        {
            let header = header(&routes);
            let bytes = header.encode();
            assert_eq!(bytes.len(), header.bytes);
            assert_eq!(u64::from(header.slots) * 256 + bytes.len() as u64, 64 << 10);
            assert_eq!(Header::read(&file(&bytes)).unwrap(), header);
        }
    }

    #[test]
    fn names_that_leave_no_room_for_slots_do_not_fit() {
        assert_eq!(Header::fit("node", Uuid::nil(), 1, &["r".repeat(5000)], 8192), None);
        assert_eq!(Header::fit("node", Uuid::nil(), 1, &[], 0), None);
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_shows() {
        let bytes = header(&["orders".to_owned()]).encode();
        let written = TABLE_AT + 4 + 6 + 4 + 4 + 6 + 4;
        for at in 0..written {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x41;
            assert!(Header::read(&file(&damaged)).is_err(), "byte {at}");
            assert!(Header::read(&file(&bytes[..at])).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_format_is_named_and_not_called_damage() {
        let mut bytes = header(&[]).encode();
        bytes[8] = 4;
        let end = TABLE_AT + number(&bytes, 48) as usize;
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(Header::read(&file(&bytes)), Err(HeaderError::OtherFormat(4))));
    }
}
