//! The instructions that a dictionary of tensors needs, and no other.
//!
//! A pickle is a program: it names functions of Python and calls them. `torch.save` writes one of protocol 2 that puts
//! tensors together out of storages. This machine knows the instructions of such programs and the handful of names in
//! them; it records what they would build. Everything else is refused by name and place.
//!
//! Values are copies of a few bytes: what is compound lies in lists of the machine and is referred to by index. So
//! nothing is copied, nested or freed recursively however a hostile program is written, and memory is a small multiple
//! of the program's length, which is bounded.

mod opcodes;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::bytes::Bytes;
use crate::{Error, Result};
use opcodes as op;
pub(super) use values::TensorRecord;
use values::{Global, StorageRef, Value};

/// The longest program that is read: 16 MiB, of which a tensor takes about 200 bytes.
pub(super) const LONGEST: u64 = 16 << 20;

/// The most values that a program may hold or remember.
const MOST_VALUES: usize = 1 << 20;

/// The deepest nesting of open tuples and dictionaries; `torch.save` needs 4.
const DEEPEST: usize = 64;

/// The longest name of a module or function of Python.
const LONGEST_NAME: usize = 256;

/// The longest text, the name of a tensor for example.
const LONGEST_TEXT: usize = 1 << 12;

/// The most tensors and storages of one file.
const MOST_TENSORS: usize = 1 << 17;

/// The longest name of a storage; they are numbers.
const LONGEST_KEY: usize = 64;

/// The most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;

/// Reads the tensors, by name, that a pickle would put together.
pub(super) fn read(path: &Path, program: &[u8]) -> Result<Vec<(String, TensorRecord)>> {
    let mut machine = Machine { bytes: Bytes::new(program), ..Machine::default() };
    loop {
        let at = machine.bytes.at();
        let refuse = |why: String| Error::Pickle { path: path.to_owned(), at, why };
        match machine.step() {
            Ok(None) => {}
            Ok(Some(result)) => return machine.tensors(result).map_err(refuse),
            Err(why) => return Err(refuse(why)),
        }
    }
}

type Step<T> = Result<T, String>;

#[derive(Default)]
struct Machine<'a> {
    bytes: Bytes<'a>,
    stack: Vec<Value>,
    /// Lengths of the stack at open marks.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value>,
    texts: Vec<&'a str>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<StorageRef>,
    tensors: Vec<TensorRecord>,
}

impl<'a> Machine<'a> {
    /// Follows one instruction; the last one gives the result.
    fn step(&mut self) -> Step<Option<Value>> {
        let code = self.bytes.u8().ok_or("the pickle ends without STOP: it is truncated")?;
        match code {
            op::PROTO => match taken(self.bytes.u8())? {
                2 => {}
                other => return Err(format!("pickle protocol {other}; torch.save writes protocol 2")),
            },
            op::STOP => return Ok(Some(self.pop()?)),
            op::MARK => {
                if self.marks.len() >= DEEPEST {
                    return Err(format!("more than {DEEPEST} things are nested"));
                }
                self.marks.push(self.stack.len());
            }
            op::NONE => self.push(Value::None)?,
            op::NEWTRUE | op::NEWFALSE => self.push(Value::Bool)?,
            op::BININT => {
                let number = taken(self.bytes.i32())?;
                self.push(Value::Int(number.into()))?;
            }
            op::BININT1 => {
                let number = taken(self.bytes.u8())?;
                self.push(Value::Int(number.into()))?;
            }
            op::BININT2 => {
                let number = taken(self.bytes.u16())?;
                self.push(Value::Int(number.into()))?;
            }
            op::LONG1 => self.long()?,
            op::BINUNICODE => self.text()?,
            op::EMPTY_DICT => self.push_dict()?,
            op::EMPTY_TUPLE => self.push_tuple(Vec::new())?,
            op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                let items = self.pop_many(usize::from(code - op::TUPLE1) + 1)?;
                self.push_tuple(items)?;
            }
            op::TUPLE => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items)?;
            }
            op::SETITEM => {
                let pair = self.pop_many(2)?;
                self.set_items(pair)?;
            }
            op::SETITEMS => {
                let pairs = self.pop_to_mark()?;
                self.set_items(pairs)?;
            }
            op::BINPUT => {
                let place = taken(self.bytes.u8())?;
                self.remember(place.into())?;
            }
            op::LONG_BINPUT => {
                let place = taken(self.bytes.u32())?;
                self.remember(place)?;
            }
            op::BINGET => {
                let place = taken(self.bytes.u8())?;
                self.recall(place.into())?;
            }
            op::LONG_BINGET => {
                let place = taken(self.bytes.u32())?;
                self.recall(place)?;
            }
            op::GLOBAL => self.global()?,
            op::BINPERSID => self.storage()?,
            op::REDUCE => self.call()?,
            op::BUILD => self.build()?,
            other => {
                let name = op::name(other).unwrap_or("no instruction of pickles");
                return Err(format!(
                    "instruction {other:#04x} ({name}) has no place in a file of tensors; nothing was executed"
                ));
            }
        }
        Ok(None)
    }

    fn push(&mut self, value: Value) -> Step<()> {
        bounded(self.stack.len())?;
        self.stack.push(value);
        Ok(())
    }

    /// Takes the last value, but none from before the last open mark.
    fn pop(&mut self) -> Step<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| "takes a value where there is none".to_owned())
    }

    fn pop_many(&mut self, count: usize) -> Step<Vec<Value>> {
        let mut values = (0..count).map(|_| self.pop()).collect::<Step<Vec<_>>>()?;
        values.reverse();
        Ok(values)
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or("closes what was not opened")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Step<()> {
        bounded(self.tuples.len())?;
        self.tuples.push(items);
        self.push(Value::Tuple(self.tuples.len() - 1))
    }

    fn push_dict(&mut self) -> Step<()> {
        bounded(self.dicts.len())?;
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    /// A whole number of up to eight bytes, in two's complement.
    fn long(&mut self) -> Step<()> {
        let count = taken(self.bytes.u8())?;
        let bytes = taken(self.bytes.take(count.into()))?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide.get_mut(..bytes.len())
            .ok_or_else(|| format!("a whole number of {count} bytes; 8 are the most that are read"))?
            .copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self) -> Step<()> {
        let length = taken(self.bytes.u32())? as usize;
        if length > LONGEST_TEXT {
            return Err(format!("a text of {length} bytes; {LONGEST_TEXT} are the most that are read"));
        }
        let text = std::str::from_utf8(taken(self.bytes.take(length))?);
        let text = text.map_err(|_| "a text that is not UTF-8".to_owned())?;
        bounded(self.texts.len())?;
        self.texts.push(text);
        self.push(Value::Text(self.texts.len() - 1))
    }

    fn set_items(&mut self, items: Vec<Value>) -> Step<()> {
        let Some(Value::Dict(dict)) = self.stack.last().copied() else {
            return Err("sets items of something that is no dictionary".into());
        };
        let dict = self.dicts.get_mut(dict).ok_or("sets items of no dictionary")?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a key has no value".into());
        }
        bounded(dict.len() + pairs.len())?;
        dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Step<()> {
        let value = self.stack.last().copied().ok_or("remembers a value where there is none")?;
        bounded(self.memo.len())?;
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Step<()> {
        let value = self.memo.get(&place).copied();
        self.push(value.ok_or_else(|| format!("recalls value {place}, which was never remembered"))?)
    }

    /// A name of Python: only those that files of tensors use.
    fn global(&mut self) -> Step<()> {
        let mut word = || -> Step<&'a str> {
            let line = taken(self.bytes.line())?;
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._<>".contains(byte);
            let word = std::str::from_utf8(line).ok();
            let word = word.filter(|word| word.len() <= LONGEST_NAME && word.as_bytes().iter().all(plain));
            word.ok_or_else(|| "names something that is no name of Python".to_owned())
        };
        let (module, name) = (word()?, word()?);
        let global = Global::find(module, name).ok_or_else(|| {
            format!("the pickle wants to call {module}.{name}: only tensors are read, nothing was executed")
        })?;
        self.push(Value::Global(global))
    }

    /// A reference to a storage: ("storage", type, key, device, numbers).
    fn storage(&mut self) -> Step<()> {
        let id = self.pop()?;
        let described = match self.items(id) {
            Some(
                [
                    Value::Text(kind),
                    Value::Global(Global::Storage(numbers)),
                    Value::Text(key),
                    _,
                    Value::Int(count),
                ],
            ) if self.texts.get(*kind) == Some(&"storage") => {
                Some((*numbers, self.texts.get(*key).copied(), u64::try_from(*count)))
            }
            _ => None,
        };
        let Some((numbers, Some(key), Ok(count))) = described else {
            return Err("refers to something outside the file that is no storage".into());
        };
        if key.len() > LONGEST_KEY || self.storages.len() >= MOST_TENSORS {
            return Err(format!(
                "a storage beyond {MOST_TENSORS}, or a name of it beyond {LONGEST_KEY} bytes"
            ));
        }
        self.storages.push(StorageRef { numbers, key: key.to_owned(), count });
        self.push(Value::Storage(self.storages.len() - 1))
    }

    fn items(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Tuple(tuple) => self.tuples.get(tuple).map(Vec::as_slice),
            _ => None,
        }
    }

    /// A call of one of the known names.
    fn call(&mut self) -> Step<()> {
        let (arguments, called) = (self.pop()?, self.pop()?);
        let Value::Global(global) = called else {
            return Err("calls something that is no function".into());
        };
        let arguments = self.items(arguments).ok_or("calls a function without a list of arguments")?;
        match (global, arguments) {
            (Global::OrderedDict, []) => self.push_dict(),
            // Tensor, whether it is trained, hooks.
            (Global::Parameter, [tensor @ Value::Tensor(_), _, _]) => {
                let tensor = *tensor;
                self.push(tensor)
            }
            // Storage, offset, sizes, strides, whether it is trained, hooks, and since torch 2.1 further settings.
            (
                Global::Tensor,
                [storage, offset, sizes, strides, _, _] | [storage, offset, sizes, strides, _, _, _],
            ) => {
                let record = self.record(*storage, *offset, *sizes, *strides)?;
                if self.tensors.len() >= MOST_TENSORS {
                    return Err(format!("more than {MOST_TENSORS} tensors"));
                }
                self.tensors.push(record);
                self.push(Value::Tensor(self.tensors.len() - 1))
            }
            _ => {
                Err(format!("the pickle calls {} with other arguments than torch.save writes", global.name()))
            }
        }
    }

    fn record(&self, storage: Value, offset: Value, sizes: Value, strides: Value) -> Step<TensorRecord> {
        let (Value::Storage(storage), Value::Int(offset)) = (storage, offset) else {
            return Err("a tensor without a storage or an offset".into());
        };
        let storage = self.storages.get(storage).cloned().ok_or("a tensor without a storage")?;
        let (sizes, strides) = (self.numbers(sizes, "sizes")?, self.numbers(strides, "strides")?);
        let offset = u64::try_from(offset).map_err(|_| format!("a tensor at offset {offset}"))?;
        if sizes.len() != strides.len() {
            return Err(format!("a tensor of {} sizes and {} strides", sizes.len(), strides.len()));
        }
        let record = TensorRecord { storage, offset, sizes, strides };
        record.check()?;
        Ok(record)
    }

    fn numbers(&self, value: Value, what: &str) -> Step<Vec<u64>> {
        let items = self.items(value).ok_or_else(|| format!("a tensor without {what}"))?;
        if items.len() > MOST_DIMENSIONS {
            return Err(format!("a tensor of {} dimensions; {MOST_DIMENSIONS} are the most", items.len()));
        }
        let number = |value: &Value| match value {
            Value::Int(number) => {
                u64::try_from(*number).map_err(|_| format!("a tensor whose {what} have {number} in them"))
            }
            _ => Err(format!("a tensor whose {what} are no numbers")),
        };
        items.iter().map(number).collect()
    }

    /// The attributes of a dictionary, which say nothing about tensors (`_metadata`).
    fn build(&mut self) -> Step<()> {
        let state = self.pop()?;
        match (self.stack.last(), state) {
            (Some(Value::Dict(_)), Value::Dict(_)) => Ok(()),
            _ => Err("sets attributes (BUILD) of something that is no dictionary".into()),
        }
    }

    /// Reads the result: a dictionary of tensors by name.
    fn tensors(&self, result: Value) -> Step<Vec<(String, TensorRecord)>> {
        let Value::Dict(dict) = result else {
            return Err("the file holds no dictionary of tensors".into());
        };
        let mut names = BTreeSet::new();
        let mut tensors = Vec::new();
        for (key, value) in self.dicts.get(dict).into_iter().flatten() {
            let Value::Text(key) = key else {
                return Err("a tensor's name is no text".into());
            };
            let name = self.texts.get(*key).copied().unwrap_or_default();
            let record = match value {
                Value::Tensor(tensor) => self.tensors.get(*tensor).cloned(),
                _ => None,
            };
            let record = record.ok_or_else(|| {
                format!(
                    "{name:?} is no tensor; a checkpoint of a training run holds its weights deeper inside"
                )
            })?;
            if !names.insert(name) {
                return Err(format!("{name:?} comes twice"));
            }
            tensors.push((name.to_owned(), record));
        }
        Ok(tensors)
    }
}

fn taken<T>(value: Option<T>) -> Step<T> {
    value.ok_or_else(|| "the pickle ends in the middle of an instruction: it is truncated".to_owned())
}

fn bounded(held: usize) -> Step<()> {
    match held < MOST_VALUES {
        true => Ok(()),
        false => Err(format!("more than {MOST_VALUES} values: this is no file of tensors")),
    }
}
