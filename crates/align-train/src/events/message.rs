//! The two messages of TensorBoard that scalars need (`event.proto`, `summary.proto`), in protobuf's wire format.

/// What the first record of a file says of the file.
const VERSION: &str = "brain.Event:2";

/// Field numbers of `Event`.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
/// Field number of `Summary`.
const VALUE: u64 = 1;
/// Field numbers of `Summary.Value`.
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;

/// Wire types.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const BYTES: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// The first event of a file; `wall_time` in seconds since 1970.
pub fn version(wall_time: f64) -> Vec<u8> {
    let mut event = begin(wall_time);
    put_bytes(&mut event, FILE_VERSION, VERSION.as_bytes());
    event
}

/// The event of a step: one value per metric, as 32-bit floats, which is what TensorBoard keeps of scalars.
pub fn scalars(wall_time: f64, step: u64, metrics: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, number) in metrics {
        let mut value = Vec::new();
        put_bytes(&mut value, TAG, name.as_bytes());
        put_key(&mut value, SIMPLE_VALUE, FOUR_BYTES);
        value.extend((*number as f32).to_le_bytes());
        put_bytes(&mut summary, VALUE, &value);
    }
    let mut event = begin(wall_time);
    put_key(&mut event, STEP, VARINT);
    put_varint(&mut event, step);
    put_bytes(&mut event, SUMMARY, &summary);
    event
}

/// Reads the step of an event: 0 where it has none, as the first of a file; `None` where the bytes are no event.
pub fn step_of(mut event: &[u8]) -> Option<u64> {
    let mut step = 0;
    while !event.is_empty() {
        let key = take_varint(&mut event)?;
        match (key >> 3, key & 7) {
            (STEP, VARINT) => step = take_varint(&mut event)?,
            (_, VARINT) => _ = take_varint(&mut event)?,
            (_, EIGHT_BYTES) => event = event.get(8..)?,
            (_, FOUR_BYTES) => event = event.get(4..)?,
            (_, BYTES) => {
                let length = usize::try_from(take_varint(&mut event)?).ok()?;
                event = event.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(step)
}

fn begin(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_key(&mut event, WALL_TIME, EIGHT_BYTES);
    event.extend(wall_time.to_le_bytes());
    event
}

fn put_key(to: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(to, field << 3 | wire_type);
}

fn put_bytes(to: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(to, field, BYTES);
    put_varint(to, bytes.len() as u64);
    to.extend(bytes);
}

/// Seven bits per byte, the lowest first; the eighth bit says that more follow.
fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of protobuf's page on its encoding: 150 is 96 01.
    #[test]
    fn numbers_have_seven_bits_per_byte() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, 150);
        assert_eq!(bytes, [0x96, 0x01]);
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            let mut rest = bytes.as_slice();
            assert_eq!((take_varint(&mut rest), rest.len()), (Some(number), 0));
            assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None, "{number}");
        }
        assert_eq!(take_varint(&mut [0xff; 11].as_slice()), None, "more bits than a number has");
    }

    #[test]
    fn only_events_have_a_step() {
        assert_eq!(step_of(&version(1.5)), Some(0));
        let event = scalars(1.5, 300, &[("loss".into(), 0.5)]);
        assert_eq!(step_of(&event), Some(300));
        // Fields of later versions are passed over.
        let mut more = event.clone();
        put_bytes(&mut more, 10, b"somebody");
        put_key(&mut more, 11, FOUR_BYTES);
        more.extend([0; 4]);
        put_key(&mut more, 12, VARINT);
        more.push(7);
        assert_eq!(step_of(&more), Some(300));
        for junk in [&b"\xff"[..], b"\x0b", b"\x2a\x7fshort", b"\x09\0\0"] {
            assert_eq!(step_of(junk), None, "{junk:?}");
        }
    }
}
