//! Short numbers that stand for a configuration or for weights.

use align_core::{
    Parameter,
    storage::{f32_slice, is_plain_f32},
    tch::{Device, Kind},
};

use crate::Result;

/// FNV-1a with 64 bits over words; it guards against mistakes, not against an adversary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        // Multiplication only carries upwards; without this a word's high bits would never reach the low ones.
        self.0 ^= self.0 >> 32;
    }

    pub fn text(&mut self, text: &str) {
        self.word(text.len() as u64);
        text.bytes().for_each(|byte| self.word(u64::from(byte)));
    }

    pub fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Computes a number that stands for the names, shapes and exact values of parameters.
pub(crate) fn of_weights(parameters: &[Parameter]) -> Result<String> {
    let mut fingerprint = Fingerprint::new();
    for parameter in parameters {
        fingerprint.text(&parameter.name);
        parameter.tensor.size().iter().for_each(|n| fingerprint.word(*n as u64));
        let copied;
        let plain = if is_plain_f32(&parameter.tensor) {
            &parameter.tensor
        } else {
            copied = parameter
                .tensor
                .f_detach()?
                .f_to_device(Device::Cpu)?
                .f_to_kind(Kind::Float)?
                .f_contiguous()?;
            &copied
        };
        // SAFETY: weights are only written by the optimiser's step, which does not run now.
        unsafe { f32_slice(plain) }?.iter().for_each(|value| fingerprint.word(u64::from(value.to_bits())));
    }
    Ok(fingerprint.hex())
}
