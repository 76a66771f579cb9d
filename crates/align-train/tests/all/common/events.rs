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

/// Reads the events of a file; checksums are not looked at.
pub fn parse(bytes: &[u8]) -> Vec<Event> {
    let mut rest = bytes;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        events.push(event(&rest[12..12 + length]));
        rest = &rest[16 + length..];
    }
    events
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
