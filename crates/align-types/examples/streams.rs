//! Shows that random streams are functions of four numbers.
//!
//! ```text
//! cargo run --release -p align-types --example streams
//! ```
//! prints the order of five rows in two epochs, and the same again.

use align_types::{Purpose, RngStream};

fn main() {
    for epoch in [0, 1, 0, 1] {
        let mut rows = [1, 2, 3, 4, 5];
        RngStream::new(0, Purpose::DataOrder, epoch, 0).shuffle(&mut rows);
        println!("epoch {epoch}: {rows:?}");
    }
}
