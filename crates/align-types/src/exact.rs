//! Numbers in JSON that read back to the same bits: strings, because JSON readers may round a number in its last bit.
//!
//! For `#[serde(with = "align_types::exact")]` on an `f64` and `align_types::exact::list` on a `Vec<f64>`.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes a number.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

/// Reads a number.
///
/// # Errors
/// Text that is no number.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// A list of them.
pub mod list {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the numbers.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| format!("{value:?}")))
    }

    /// Reads the numbers.
    ///
    /// # Errors
    /// Text that is no number.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}
