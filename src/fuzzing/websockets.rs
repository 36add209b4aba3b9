//! The frames of a tunnel: whether one may be put in depends on all bytes, not on their pieces.

use crate::wire::websocket::Frames;

/// The first byte says where the rest is cut; that passes through the tunnel.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let (seed, data) = super::split(data);
    let (mut whole, mut cut) = (Frames::default(), Frames::default());
    whole.passed(data);
    super::pieces(seed, data).for_each(|piece| cut.passed(piece));
    assert_eq!(whole.takes_one(), cut.takes_one(), "{}", data.escape_ascii());
    assert_eq!(whole.takes_one(), is_between_frames(data), "{}", data.escape_ascii());
}

/// By RFC 6455 §5.2: whether the bytes are whole frames, and none of them closes.
fn is_between_frames(mut bytes: &[u8]) -> bool {
    while let Some((first, rest)) = bytes.split_first() {
        let Some((second, rest)) = rest.split_first() else { return false };
        let extended = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((length, rest)) = rest.split_at_checked(extended) else { return false };
        let length = length.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        let length = if extended == 0 { u128::from(second & 0x7F) } else { length };
        let mask = u128::from(second >> 7) * 4;
        let Ok(skipped) = usize::try_from(mask + length) else { return false };
        if first & 0x0F == 8 || skipped > rest.len() {
            return false;
        }
        bytes = &rest[skipped..];
    }
    true
}
