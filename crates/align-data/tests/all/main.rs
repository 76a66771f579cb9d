//! The tests of the crate from outside, as one program: linking one takes as long as compiling many.

mod common;
mod conformance;
mod csv;
mod doctor;
mod kinds;
mod load;
mod masks;
mod mix;
mod order;
mod parquet;
mod reader;
mod real_data;
mod sentencepiece;
mod templates;
mod tokenise;
mod tokenizer;
