//! The optimiser's moments on disk: a safetensors file with PyTorch's names of them.

use std::path::Path;

use align_core::{
    Parameter,
    tch::{Device, Tensor},
};
use safetensors::{SafeTensorError, SafeTensors};

use crate::adamw::{AdamW, Moments, Slot};
use crate::weights_file::{self, Numbers};
use crate::{Error, Result};

const FIRST: &str = "exp_avg";
const SECOND: &str = "exp_avg_sq";
const STEP: &str = "step";

impl AdamW {
    /// Writes the moments to a safetensors file, bit for bit: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step`
    /// for every parameter that had a gradient.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut on_cpu: Vec<(&str, u64, Tensor, Tensor)> = Vec::new();
        for slot in &self.slots {
            let Some(moments) = &slot.moments else { continue };
            let copy = |t: &Tensor| t.f_to_device(Device::Cpu);
            on_cpu.push((&slot.name, moments.step, copy(&moments.first)?, copy(&moments.second)?));
        }
        let mut entries = Vec::new();
        for (name, step, first, second) in &on_cpu {
            for (part, tensor) in [(FIRST, first), (SECOND, second)] {
                // SAFETY: moments are only written by `step`, which needs this optimiser exclusively.
                entries.push((format!("{name}.{part}"), unsafe { Numbers::of(tensor) }?));
            }
            entries.push((format!("{name}.{STEP}"), Numbers::Count(*step)));
        }
        weights_file::write(entries, path)
    }

    /// Reads the moments back; `parameters` say on which device they are to live.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file is not one of [`Self::save`] or belongs to other parameters.
    pub fn load(&mut self, path: &Path, parameters: &[Parameter]) -> Result<()> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::checkpoint(path, error))?;
        let mut known = 0;
        for (slot, parameter) in self.slots.iter_mut().zip(parameters) {
            slot.moments = read_slot(&file, slot, parameter.tensor.device())
                .map_err(|why| Error::checkpoint(path, format!("{}: {why}", slot.name)))?;
            known += if slot.moments.is_some() { 3 } else { 0 };
        }
        if known != file.len() {
            let of_model = |name: &str| self.slots.iter().any(|s| name.starts_with(&format!("{}.", s.name)));
            let stranger = file.names().into_iter().find(|name| !of_model(name)).unwrap_or("?");
            return Err(Error::checkpoint(
                path,
                format!("it holds {stranger}, which the model does not have"),
            ));
        }
        Ok(())
    }
}

fn read_slot(file: &SafeTensors<'_>, slot: &Slot, device: Device) -> Result<Option<Moments>, String> {
    let named = |part: &str| file.tensor(&format!("{}.{part}", slot.name));
    if matches!(named(STEP), Err(SafeTensorError::TensorNotFound(_))) {
        return Ok(None);
    }
    let text = |error: SafeTensorError| error.to_string();
    let step = named(STEP).map_err(text)?;
    let step = <[u8; 8]>::try_from(step.data()).map_err(|_| "its step is not one 64-bit number")?;
    let moment = |part: &str| weights_file::read(file, &format!("{}.{part}", slot.name), &slot.shape, device);
    Ok(Some(Moments { step: u64::from_le_bytes(step), first: moment(FIRST)?, second: moment(SECOND)? }))
}
