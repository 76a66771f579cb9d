//! Named float32 tensors in a safetensors file, bit for bit.

use std::borrow::Cow;
use std::path::Path;

use align_core::{
    Parameter, no_grad,
    storage::f32_slice,
    tch::{Device, Kind, Tensor},
};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use crate::{Error, Result};

/// Numbers of one tensor on their way to the file; they become bytes only while they are written.
pub(crate) enum Numbers<'a> {
    Floats(Vec<usize>, &'a [f32]),
    Count(u64),
}

impl<'a> Numbers<'a> {
    /// Sees a float32 tensor on the CPU.
    ///
    /// # Safety
    /// As [`f32_slice`]: nobody writes to the tensor while this lives.
    pub unsafe fn of(tensor: &'a Tensor) -> Result<Self> {
        let shape = tensor.size().iter().map(|n| *n as usize).collect();
        // SAFETY: the caller promises it.
        Ok(Self::Floats(shape, unsafe { f32_slice(tensor) }?))
    }
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

/// Writes tensors with their names.
pub(crate) fn write(entries: Vec<(String, Numbers<'_>)>, path: &Path) -> Result<()> {
    safetensors::serialize_to_file(entries, None, path).map_err(|error| match error {
        SafeTensorError::IoError(error) => Error::io("write", path)(error),
        other => Error::checkpoint(path, other),
    })
}

/// Reads a float32 tensor of a known shape; the error says what is wrong with it.
pub(crate) fn read(
    file: &SafeTensors<'_>,
    name: &str,
    shape: &[i64],
    device: Device,
) -> Result<Tensor, String> {
    let view = file.tensor(name).map_err(|error| error.to_string())?;
    let found: Vec<i64> = view.shape().iter().map(|n| *n as i64).collect();
    if view.dtype() != Dtype::F32 || found != shape {
        return Err(format!("{name} is {:?} {found:?}, expected F32 {shape:?}", view.dtype()));
    }
    let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Tensor::f_from_slice(&values)
        .and_then(|flat| flat.f_reshape(shape)?.f_to_device(device)?.f_to_kind(Kind::Float))
        .map_err(|error| error.to_string())
}

/// Writes weights by their names.
///
/// # Errors
/// Weights that are not float32; the file cannot be written.
pub(crate) fn save(weights: &[Parameter], path: &Path) -> Result<()> {
    let mut on_cpu = Vec::with_capacity(weights.len());
    for weight in weights {
        on_cpu.push((&weight.name, weight.tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?));
    }
    let mut entries = Vec::with_capacity(on_cpu.len());
    for (name, tensor) in &on_cpu {
        // SAFETY: weights are only written between steps, and a checkpoint is written between them, too.
        entries.push(((*name).clone(), unsafe { Numbers::of(tensor) }?));
    }
    write(entries, path)
}

/// Writes what [`save`] wrote back into the same weights, in place.
///
/// # Errors
/// [`Error::Checkpoint`] names the file where it is not one of [`save`], or one of other weights; none are changed then.
pub(crate) fn load(weights: &[Parameter], path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::checkpoint(path, error))?;
    if file.len() != weights.len() {
        let why = format!("it holds {} tensors instead of {}", file.len(), weights.len());
        return Err(Error::checkpoint(path, why));
    }
    let mut tensors = Vec::with_capacity(weights.len());
    for weight in weights {
        let tensor = read(&file, &weight.name, &weight.tensor.size(), weight.tensor.device());
        tensors.push(tensor.map_err(|why| Error::checkpoint(path, why))?);
    }
    let _guard = no_grad();
    for (weight, tensor) in weights.iter().zip(&tensors) {
        weight.tensor.f_detach()?.f_copy_(tensor)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, values: &[f32]) -> Parameter {
        let tensor = Tensor::from_slice(values).set_requires_grad(true);
        Parameter { name: name.into(), tensor, decay: true }
    }

    fn bits(parameter: &Parameter) -> Vec<u32> {
        let values = Vec::<f32>::try_from(parameter.tensor.detach()).unwrap();
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn weights_come_back_in_place_and_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("objective.safetensors");
        let written = [parameter("b", &[0.1, -0.0, f32::MIN_POSITIVE / 8.0]), parameter("a", &[3.0])];
        save(&written, &path).unwrap();
        let read = [parameter("b", &[9.0; 3]), parameter("a", &[9.0])];
        let alias = read[0].tensor.detach();
        load(&read, &path).unwrap();
        assert!(written.iter().zip(&read).all(|(w, r)| bits(w) == bits(r)));
        assert_eq!(alias.double_value(&[0]) as f32, 0.1, "who shares the storage sees them");
    }

    #[test]
    fn other_files_are_refused_by_name_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("objective.safetensors");
        let mine = [parameter("a", &[1.0, 2.0]), parameter("b", &[3.0])];
        for (other, why) in [
            (vec![parameter("a", &[5.0, 6.0])], "1 tensors instead of 2"),
            (vec![parameter("a", &[5.0, 6.0]), parameter("c", &[7.0])], "b"),
            (
                vec![parameter("a", &[5.0, 6.0]), parameter("b", &[7.0, 8.0])],
                "b is F32 [2], expected F32 [1]",
            ),
        ] {
            save(&other, &path).unwrap();
            let error = load(&mine, &path).unwrap_err().to_string();
            assert!(error.contains("objective.safetensors") && error.contains(why), "{error}");
        }
        save(&mine, &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 7, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = load(&mine, &path).unwrap_err().to_string();
            assert!(error.contains("objective.safetensors"), "{error}");
        }
        assert_eq!(bits(&mine[0]), [1.0f32.to_bits(), 2.0f32.to_bits()]);
    }
}
