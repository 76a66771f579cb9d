//! A reader of event files, from the description of the format and apart from the writer.

use std::path::Path;

/// What an event file says: the step and its numbers, as 32-bit floats; the first event has no step.
pub type Event = (u64, Vec<(String, f32)>);

/// Reads the events of all files of a run folder in the order of their names, without the first of each.
pub fn of_run(folder: &Path) -> Vec<Event> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().contains(".tfevents."));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let mut events = parse(&std::fs::read(file).unwrap());
        assert_eq!(events.remove(0), (0, vec![]), "the first event names the version");
        all.extend(events);
    }
    all
}

/// Reads the events of a file: records of TFRecord, each a length in eight bytes, its checksum, the content and its
/// checksum.
pub fn parse(bytes: &[u8]) -> Vec<Event> {
    let mut rest = bytes;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let length = checked(&mut rest, 8);
        let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
        events.push(event(checked(&mut rest, length)));
    }
    events
}

/// Takes some bytes and the checksum behind them, which must be theirs.
fn checked<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (content, behind) = rest.split_at(length);
    let (checksum, behind) = behind.split_at(4);
    assert_eq!(u32::from_le_bytes(checksum.try_into().unwrap()), masked(crc32c(content)), "a checksum");
    *rest = behind;
    content
}

/// Masks a checksum as the records have it: one of bytes that hold checksums themselves would say little.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Computes CRC-32C bit by bit (RFC 3720, appendix B.4: the polynomial 0x1EDC6F41, here with its bits reversed).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

fn event(bytes: &[u8]) -> Event {
    let mut event = (0, Vec::new());
    for (field, content) in fields(bytes) {
        match (field, content) {
            (2, Content::Number(step)) => event.0 = step,
            (5, Content::Bytes(summary)) => {
                event.1 = fields(summary).into_iter().map(|(_, value)| scalar(value)).collect();
            }
            _ => {}
        }
    }
    event
}

fn scalar(value: Content<'_>) -> (String, f32) {
    let Content::Bytes(value) = value else { panic!("a value is a message") };
    let mut fields = fields(value);
    let (Content::Four(number), Content::Bytes(tag)) = (fields.pop().unwrap().1, fields.pop().unwrap().1)
    else {
        panic!("a scalar is a tag and a float");
    };
    (String::from_utf8(tag.to_vec()).unwrap(), f32::from_le_bytes(number))
}

enum Content<'a> {
    Number(u64),
    Eight,
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Content<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        let length = match key & 7 {
            1 => 8,
            2 => number(&mut bytes) as usize,
            5 => 4,
            _ => 0,
        };
        let content = match key & 7 {
            0 => Content::Number(number(&mut bytes)),
            1 => Content::Eight,
            2 => Content::Bytes(&bytes[..length]),
            5 => Content::Four(bytes[..4].try_into().unwrap()),
            other => panic!("wire type {other}"),
        };
        bytes = &bytes[length..];
        fields.push((key >> 3, content));
    }
    fields
}

fn number(bytes: &mut &[u8]) -> u64 {
    let length = 1 + bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
    let (mine, rest) = bytes.split_at(length);
    *bytes = rest;
    mine.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
}
