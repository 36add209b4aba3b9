//! Changes to bytes, the same for the same seed on every machine.

/// Numbers that parsers stumble over.
const INTERESTING: [&[u8]; 12] =
    [b"\0", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"\xFF", b"0", b"18446744073709551616", b"%2e"];

/// Splitmix64: one seed, one sequence.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`; zero where there is nothing below.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).expect("less than a usize")
    }

    /// One to six changes to `bytes`; what is put in is taken from `others`, too.
    pub(super) fn mutate(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        for _ in 0..=self.below(6) {
            self.change(bytes, others);
        }
    }

    fn change(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(16)).min(bytes.len());
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                let value = INTERESTING[self.below(INTERESTING.len())].to_vec();
                bytes.splice(at..at, value);
            }
            4 => {
                let other = &others[self.below(others.len())];
                let from = self.below(other.len() + 1);
                let piece = other[from..(from + self.below(32)).min(other.len())].to_vec();
                bytes.splice(at..end, piece);
            }
            _ if at < bytes.len() => match self.below(3) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = u8::try_from(self.below(256)).expect("a byte"),
                _ => bytes[at] = bytes[at].wrapping_add(1),
            },
            _ => bytes.push(u8::try_from(self.below(256)).expect("a byte")),
        }
    }
}
