//! The optimiser's moments on disk: a safetensors file with PyTorch's names of them.

use std::borrow::Cow;
use std::path::Path;

use align_core::{
    Parameter,
    storage::f32_slice,
    tch::{Device, Kind, Tensor},
};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use crate::adamw::{AdamW, Moments, Slot};
use crate::{Error, Result};

const FIRST: &str = "exp_avg";
const SECOND: &str = "exp_avg_sq";
const STEP: &str = "step";

/// Numbers of one tensor on their way to the file; they become bytes only while they are written.
enum Numbers<'a> {
    Floats(Vec<usize>, &'a [f32]),
    Count(u64),
}

impl View for Numbers<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Floats(..) => Dtype::F32,
            Self::Count(_) => Dtype::U64,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(shape, _) => shape,
            Self::Count(_) => &[],
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Floats(_, values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::Count(count) => count.to_le_bytes().to_vec().into(),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Floats(_, values) => size_of_val(*values),
            Self::Count(_) => size_of::<u64>(),
        }
    }
}

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
                let shape = tensor.size().iter().map(|n| *n as usize).collect();
                // SAFETY: moments are only written by `step`, which needs this optimiser exclusively.
                let values = unsafe { f32_slice(tensor) }?;
                entries.push((format!("{name}.{part}"), Numbers::Floats(shape, values)));
            }
            entries.push((format!("{name}.{STEP}"), Numbers::Count(*step)));
        }
        safetensors::serialize_to_file(entries, None, path).map_err(|error| match error {
            SafeTensorError::IoError(error) => Error::io("write", path)(error),
            other => Error::checkpoint(path, other),
        })
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
    let moment = |part: &str| -> Result<Tensor, String> {
        let view = named(part).map_err(text)?;
        let shape: Vec<i64> = view.shape().iter().map(|n| *n as i64).collect();
        if view.dtype() != Dtype::F32 || shape != slot.shape {
            return Err(format!("{part} is {:?} {shape:?}, expected F32 {:?}", view.dtype(), slot.shape));
        }
        let values: Vec<f32> =
            view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Tensor::f_from_slice(&values)
            .and_then(|flat| flat.f_reshape(&slot.shape)?.f_to_device(device)?.f_to_kind(Kind::Float))
            .map_err(|error| error.to_string())
    };
    Ok(Some(Moments { step: u64::from_le_bytes(step), first: moment(FIRST)?, second: moment(SECOND)? }))
}
