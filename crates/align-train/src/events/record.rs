//! TFRecord framing: length, checksum of the length, payload, checksum of the payload, all little-endian.

/// The Castagnoli polynomial, its bits reversed (RFC 3720, section 12.1).
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Added to a rotated checksum, so that a checksum of data that holds checksums stays one worth having.
const MASK: u32 = 0xa282_ead8;
const LENGTH: usize = size_of::<u64>();
const CHECKSUM: usize = size_of::<u32>();

/// Computes CRC-32C bit by bit: a record has some hundred bytes, a table would save nothing that one could measure.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift))
}

fn masked(bytes: &[u8]) -> [u8; CHECKSUM] {
    crc32c(bytes).rotate_right(15).wrapping_add(MASK).to_le_bytes()
}

/// Puts a payload between its length and its checksums.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), payload, &masked(payload)].concat()
}

/// Takes the payload of the first record and what follows it; `None` where no whole, undamaged record begins.
pub fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let (checksum, rest) = rest.split_first_chunk::<CHECKSUM>()?;
    if *checksum != masked(length) {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (checksum, rest) = rest.split_first_chunk::<CHECKSUM>()?;
    (*checksum == masked(payload)).then_some((payload, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4, and the check value of the catalogue of parametrised CRCs.
    #[test]
    fn checksums_are_those_of_the_standard() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        let mut read_command = [0; 48];
        for (place, byte) in
            [(0, 0x01), (1, 0xc0), (16, 0x14), (22, 0x04), (27, 0x14), (31, 0x18), (32, 0x28), (40, 0x02)]
        {
            read_command[place] = byte;
        }
        for (bytes, expected) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
            (&falling, 0x113f_db5c),
            (&read_command, 0xd996_3a56),
            (b"123456789", 0xe306_9283),
            (b"", 0),
        ] {
            assert_eq!(crc32c(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_record_that_is_cut_or_changed_is_none() {
        let record = frame(b"payload");
        assert_eq!(split(&record), Some((&b"payload"[..], &b""[..])));
        for end in 0..record.len() {
            assert_eq!(split(&record[..end]), None, "{end} bytes");
        }
        for bit in 0..8 * record.len() {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(split(&damaged), None, "bit {bit}");
        }
        // A length that no memory holds, with a checksum that says it is right.
        let length = u64::MAX.to_le_bytes();
        assert_eq!(split(&[&length[..], &masked(&length), b"rest"].concat()), None);
    }
}
