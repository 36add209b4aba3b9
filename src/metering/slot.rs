//! One slot: 256 bytes that hold one entry, in two halves that are written once each.
//!
//! Owns the bytes and what they mean. Refuses to own where they are: `mapped` writes them to
//! memory, `segment` reads them from a file.
//!
//! | bytes | first half, *admission* |
//! |--:|---|
//! | 0..16 | event id; never nil |
//! | 16..32 | client id |
//! | 32..48 | key's row id; nil when none |
//! | 48..64 | token id; nil when none |
//! | 64..80 | of an interim record, the request's event id; else nil |
//! | 80..88 | admitted at, microseconds since the epoch, signed |
//! | 88..92 | units |
//! | 92..94 | route, an index into the segment's table of names |
//! | 94 | method, as `CountedMethod` numbers it |
//! | 95 | kind: zero is *request*; 1 is *stream*, an interim record; 2 is *delegated* |
//! | 96 | length of the request id |
//! | 97..100 | zero |
//! | 100..164 | request id, padded with zeros |
//! | 164..168 | CRC-32 |
//! | **bytes** | **between the halves, under neither CRC** |
//! | 168 | the *sent* mark: `0xFF` when set. More bits set than clear count as set, so that one flipped bit does not move it |
//! | 169..176 | zero |
//! | **bytes** | **second half, *settlement*** |
//! | 176..184 | duration in microseconds |
//! | 184..192 | bytes in |
//! | 192..200 | bytes out |
//! | 200..202 | status; zero when nothing was sent |
//! | 202 | outcome, as `Outcome` numbers it, or `0xFE`: moved to another slot |
//! | 203 | reason, as `CutReason` numbers it; zero is none |
//! | 204..208 | units, where the upstream said what the request cost |
//! | 208 | whether it did: one or zero |
//! | 209..212 | zero |
//! | 212..216 | CRC-32 |
//! | 216..256 | zero |
//!
//! Numbers are little-endian. A CRC covers its half, seeded with the segment's identity; while it
//! is computed, its own four bytes hold the slot's number and which half it is. So bytes copied to
//! another slot, another half, another segment or another folder do not pass. The CRC is stored
//! last: a half whose writer was killed does not pass either, and is seen as what it is.
//!
//! An interim record is whole or nothing: its second half is written first, and a first half of it
//! that stands alone is torn.
//!
//! Format 1 knew no interim records, format 2 no delegated requests: their slots are read as they are.

use jiff::Timestamp;
use uuid::Uuid;

use crate::model::id::{ApiKeyId, ClientId, EventId, RequestId, TokenId};
use crate::model::usage::{Admission, CountedMethod, CutReason, EventKind, Outcome, Settlement};

/// The size of a slot.
pub(super) const SLOT_BYTES: usize = 256;
/// The size of the first half; it begins the slot.
pub(super) const ADMISSION_BYTES: usize = 168;
/// Where the sent mark stands.
pub(super) const SENT_AT: usize = 168;
/// Where the second half begins.
pub(super) const SETTLEMENT_AT: usize = 176;
/// The size of the second half.
pub(super) const SETTLEMENT_BYTES: usize = 40;

/// The sent mark when it is set.
pub(super) const SENT: u8 = 0xFF;

/// What stands for an outcome when the entry went on in another slot.
const MOVED: u8 = 0xFE;

/// The kind of an interim record.
const STREAM: u8 = 1;
/// The kind of a request that another proxy forwards.
const DELEGATED: u8 = 2;

/// What tells the CRC of a second half from that of a first one.
const SECOND_HALF: u32 = 1 << 31;

/// The bytes of a first half, sealed.
pub(super) type AdmissionHalf = [u8; ADMISSION_BYTES];
/// The bytes of a second half, sealed.
pub(super) type SettlementHalf = [u8; SETTLEMENT_BYTES];

/// A segment's identity, as the seed of its slots' CRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal(u32);

impl Seal {
    /// The seal of a folder's segment.
    pub(super) fn new(folder: Uuid, segment: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(folder.as_bytes());
        hasher.update(&segment.to_le_bytes());
        Self(hasher.finalize())
    }

    /// Puts the CRC into the last four bytes of a half.
    fn close<const N: usize>(self, half: &mut [u8; N], mark: u32) {
        half[N - 4..].copy_from_slice(&mark.to_le_bytes());
        let crc = self.crc(half);
        half[N - 4..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Whether a half is whole, and is the one that was written here.
    fn holds<const N: usize>(self, half: &[u8; N], mark: u32) -> bool {
        let mut copy = *half;
        copy[N - 4..].copy_from_slice(&mark.to_le_bytes());
        self.crc(&copy).to_le_bytes() == half[N - 4..]
    }

    fn crc(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Never written.
    Empty,
    /// Something, but no whole first half: a writer that was killed, or damage.
    Torn,
    /// Admitted, not settled.
    Open(Admission, Sent),
    /// Admitted, and gone on in another slot.
    Moved(Admission, Sent),
    /// Over.
    Settled(Admission, Settlement),
}

/// Whether something left for the upstream, as far as the slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sent {
    /// Nothing did.
    No,
    /// Something may have.
    Yes,
}

impl Slot {
    /// Reads a slot of the segment that `seal` stands for.
    pub(super) fn read(seal: Seal, slot: u32, bytes: &[u8; SLOT_BYTES]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Empty;
        }
        let Some(admission) = read_admission(seal, slot, array(bytes, 0)) else { return Self::Torn };
        let sent = if bytes[SENT_AT].count_ones() > 4 { Sent::Yes } else { Sent::No };
        match read_settlement(seal, slot, array(bytes, SETTLEMENT_AT)) {
            Some(Second::Settled(settlement)) => Self::Settled(admission, settlement),
            Some(Second::Moved) => Self::Moved(admission, sent),
            None if admission.kind.parent().is_some() => Self::Torn,
            None => Self::Open(admission, sent),
        }
    }

    /// The better of two copies of one slot: what says more wins, and of two that say the same,
    /// this one. Something that may have been sent by either copy may have been sent.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Open(admission, sent), Self::Open(_, other_sent)) => Self::Open(admission, sent.max(other_sent)),
            (this, other) if other.rank() > this.rank() => other,
            (this, _) => this,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Torn => 1,
            Self::Open(..) => 2,
            Self::Moved(..) => 3,
            Self::Settled(..) => 4,
        }
    }
}

/// The first half of an entry.
pub(super) fn admission_half(seal: Seal, slot: u32, admission: &Admission) -> AdmissionHalf {
    let mut half = [0; ADMISSION_BYTES];
    half[0..16].copy_from_slice(admission.id.0.as_bytes());
    half[16..32].copy_from_slice(admission.client_id.0.as_bytes());
    half[32..48].copy_from_slice(admission.api_key_id.0.as_bytes());
    half[48..64].copy_from_slice(admission.token_id.0.as_bytes());
    match admission.kind {
        EventKind::Request => {}
        EventKind::Stream(parent) => {
            half[64..80].copy_from_slice(parent.0.as_bytes());
            half[95] = STREAM;
        }
        EventKind::Delegated => half[95] = DELEGATED,
    }
    half[80..88].copy_from_slice(&admission.occurred_at.as_microsecond().to_le_bytes());
    half[88..92].copy_from_slice(&admission.units.to_le_bytes());
    half[92..94].copy_from_slice(&admission.route.to_le_bytes());
    half[94] = admission.method as u8;
    let request_id = admission.request_id.as_bytes();
    half[96] = u8::try_from(request_id.len()).expect("a request id has at most 64 bytes");
    half[100..100 + request_id.len()].copy_from_slice(request_id);
    seal.close(&mut half, slot);
    half
}

/// The second half of an entry.
pub(super) fn settlement_half(seal: Seal, slot: u32, settlement: &Settlement) -> SettlementHalf {
    let mut half = [0; SETTLEMENT_BYTES];
    half[0..8].copy_from_slice(&settlement.duration_us.to_le_bytes());
    half[8..16].copy_from_slice(&settlement.bytes_in.to_le_bytes());
    half[16..24].copy_from_slice(&settlement.bytes_out.to_le_bytes());
    half[24..26].copy_from_slice(&settlement.status.unwrap_or(0).to_le_bytes());
    half[26] = settlement.outcome as u8;
    half[27] = settlement.reason.map_or(0, |reason| reason as u8);
    half[28..32].copy_from_slice(&settlement.units.unwrap_or(0).to_le_bytes());
    half[32] = settlement.units.is_some().into();
    seal.close(&mut half, slot | SECOND_HALF);
    half
}

/// The second half of an entry that goes on in another slot.
pub(super) fn moved_half(seal: Seal, slot: u32) -> SettlementHalf {
    let mut half = [0; SETTLEMENT_BYTES];
    half[26] = MOVED;
    seal.close(&mut half, slot | SECOND_HALF);
    half
}

/// The first half of an entry, for another slot than the one it was written for.
pub(super) fn resealed(half: &AdmissionHalf, seal: Seal, slot: u32) -> AdmissionHalf {
    let mut copy = *half;
    seal.close(&mut copy, slot);
    copy
}

fn read_admission(seal: Seal, slot: u32, half: &AdmissionHalf) -> Option<Admission> {
    let id = EventId(uuid(half, 0));
    if id.is_nil() || !seal.holds(half, slot) {
        return None;
    }
    let length = usize::from(half[96]).min(RequestId::MAX_LENGTH);
    Some(Admission {
        id,
        request_id: RequestId::parse(&half[100..100 + length])?,
        client_id: ClientId(uuid(half, 16)),
        api_key_id: ApiKeyId(uuid(half, 32)),
        token_id: TokenId(uuid(half, 48)),
        occurred_at: Timestamp::from_microsecond(i64::from_le_bytes(*array(half, 80))).ok()?,
        route: u16::from_le_bytes(*array(half, 92)),
        method: CountedMethod::from_byte(half[94]),
        units: u32::from_le_bytes(*array(half, 88)),
        kind: match half[95] {
            STREAM => EventKind::Stream(EventId(uuid(half, 64))),
            DELEGATED => EventKind::Delegated,
            _ => EventKind::Request,
        },
    })
}

enum Second {
    Settled(Settlement),
    Moved,
}

fn read_settlement(seal: Seal, slot: u32, half: &SettlementHalf) -> Option<Second> {
    if !seal.holds(half, slot | SECOND_HALF) {
        return None;
    }
    if half[26] == MOVED {
        return Some(Second::Moved);
    }
    let status = u16::from_le_bytes(*array(half, 24));
    Some(Second::Settled(Settlement {
        status: (status != 0).then_some(status),
        outcome: Outcome::from_byte(half[26])?,
        reason: CutReason::from_byte(half[27]),
        duration_us: u64::from_le_bytes(*array(half, 0)),
        bytes_in: u64::from_le_bytes(*array(half, 8)),
        bytes_out: u64::from_le_bytes(*array(half, 16)),
        units: (half[32] == 1).then(|| u32::from_le_bytes(*array(half, 28))),
    }))
}

fn uuid(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes(*array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("every field lies within its half")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::double::{admission, part, settlement};
    use super::*;

    const FOLDER: Uuid = Uuid::from_u128(0x11);

    fn bytes(first: Option<AdmissionHalf>, sent: u8, second: Option<SettlementHalf>) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        if let Some(first) = first {
            bytes[..ADMISSION_BYTES].copy_from_slice(&first);
        }
        bytes[SENT_AT] = sent;
        if let Some(second) = second {
            bytes[SETTLEMENT_AT..SETTLEMENT_AT + SETTLEMENT_BYTES].copy_from_slice(&second);
        }
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let seal = Seal::new(FOLDER, 7);
        let (admitted, settled) = (admission(1), settlement(Outcome::Cut));
        let first = Some(admission_half(seal, 3, &admitted));
        let second = Some(settlement_half(seal, 3, &settled));
        let moved = Some(moved_half(seal, 3));
        let part = part(2, admitted.id);
        let part_first = Some(admission_half(seal, 3, &part));
        let delegated = Admission { kind: EventKind::Delegated, ..admission(3) };
        let delegated_first = Some(admission_half(seal, 3, &delegated));
        for (bytes, expected) in [
            (bytes(None, 0, None), Slot::Empty),
            (bytes(None, SENT, None), Slot::Torn),
            (bytes(None, 0, second), Slot::Torn),
            (bytes(first, 0, None), Slot::Open(admitted, Sent::No)),
            (bytes(first, SENT, None), Slot::Open(admitted, Sent::Yes)),
            (bytes(first, SENT, second), Slot::Settled(admitted, settled)),
            (bytes(first, SENT, moved), Slot::Moved(admitted, Sent::Yes)),
            (bytes(part_first, 0, second), Slot::Settled(part, settled)),
            (bytes(part_first, 0, None), Slot::Torn),
            (bytes(delegated_first, 0, second), Slot::Settled(delegated, settled)),
            (bytes(delegated_first, 0, None), Slot::Open(delegated, Sent::No)),
        ] {
            assert_eq!(Slot::read(seal, 3, &bytes), expected);
        }
    }

    #[test]
    fn a_half_passes_only_where_it_was_written() {
        let seal = Seal::new(FOLDER, 7);
        let written = bytes(Some(admission_half(seal, 3, &admission(1))), SENT, None);
        for (elsewhere, slot) in
            [(seal, 4), (Seal::new(FOLDER, 8), 3), (Seal::new(Uuid::from_u128(0x12), 7), 3), (seal, 3 | SECOND_HALF)]
        {
            assert_eq!(Slot::read(elsewhere, slot, &written), Slot::Torn);
        }
        let moved = resealed(&admission_half(seal, 3, &admission(1)), Seal::new(FOLDER, 8), 9);
        let moved = bytes(Some(moved), 0, None);
        assert_eq!(Slot::read(Seal::new(FOLDER, 8), 9, &moved), Slot::Open(admission(1), Sent::No));
    }

    #[test]
    fn any_single_flipped_bit_leaves_the_entry_as_it_was_or_shows() {
        let seal = Seal::new(FOLDER, 7);
        let (admitted, settled) = (admission(1), settlement(Outcome::Complete));
        let first = Some(admission_half(seal, 3, &admitted));
        for (second, whole) in [
            (None, Slot::Open(admitted, Sent::Yes)),
            (Some(settlement_half(seal, 3, &settled)), Slot::Settled(admitted, settled)),
        ] {
            for bit in 0..SLOT_BYTES * 8 {
                let mut damaged = bytes(first, SENT, second);
                damaged[bit / 8] ^= 1 << (bit % 8);
                let read = Slot::read(seal, 3, &damaged);
                let expected = match bit / 8 {
                    0..ADMISSION_BYTES => Slot::Torn,
                    SETTLEMENT_AT..216 => Slot::Open(admitted, Sent::Yes),
                    _ => whole,
                };
                assert_eq!(read, expected, "bit {bit}");
            }
        }
    }

    #[test]
    fn of_two_copies_the_one_that_says_more_wins() {
        let (admitted, settled) = (admission(1), settlement(Outcome::Complete));
        let rising = [
            Slot::Empty,
            Slot::Torn,
            Slot::Open(admitted, Sent::No),
            Slot::Moved(admitted, Sent::No),
            Slot::Settled(admitted, settled),
        ];
        for (less, lesser) in rising.iter().enumerate() {
            for greater in &rising[less..] {
                assert_eq!(lesser.or(*greater), *greater);
                assert_eq!(greater.or(*lesser), *greater);
            }
        }
        let sent = Slot::Open(admitted, Sent::Yes);
        assert_eq!(sent.or(Slot::Open(admitted, Sent::No)), sent);
        assert_eq!(Slot::Open(admitted, Sent::No).or(sent), sent);
    }

    proptest! {
        #[test]
        fn any_bytes_are_empty_or_torn(noise in proptest::collection::vec(any::<u8>(), SLOT_BYTES)) {
            let noise: [u8; SLOT_BYTES] = noise.try_into().unwrap();
            let read = Slot::read(Seal::new(FOLDER, 1), 0, &noise);
            prop_assert!(matches!(read, Slot::Empty | Slot::Torn));
        }
    }
}
