//! Direct access to the numbers of tensors, for the optimiser and for checkpoints.
//!
//! This is the one place where tensor storage is seen as a Rust slice.

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Says whether a tensor's storage can be seen as a slice of `f32`: on the CPU, float32, contiguous.
pub fn is_plain_f32(tensor: &Tensor) -> bool {
    tensor.defined()
        && tensor.device() == Device::Cpu
        && tensor.kind() == Kind::Float
        && tensor.is_contiguous()
}

fn checked(tensor: &Tensor) -> Result<(*mut f32, usize)> {
    if !is_plain_f32(tensor) {
        return Err(Error::input("tensor storage", "only contiguous float32 tensors on the CPU are slices"));
    }
    Ok((tensor.data_ptr().cast(), tensor.numel()))
}

/// Sees a tensor as a slice.
///
/// # Safety
/// Nobody writes to the storage while the slice lives: no operation in place on this tensor or on a tensor
/// that shares its storage, on any thread.
///
/// # Errors
/// [`Error::Input`] when the tensor is not [`is_plain_f32`].
pub unsafe fn f32_slice(tensor: &Tensor) -> Result<&[f32]> {
    let (start, len) = checked(tensor)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: contiguous float32 storage of `len` numbers; it lives as long as the tensor that is borrowed.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// Sees a tensor as a mutable slice.
///
/// Writing through it leaves autograd's version counter alone: a graph recorded before must not be used for a
/// backward pass after.
///
/// # Safety
/// Nobody else reads or writes the storage while the slice lives, on any thread and through any alias.
///
/// # Errors
/// [`Error::Input`] when the tensor is not [`is_plain_f32`].
pub unsafe fn f32_slice_mut(tensor: &mut Tensor) -> Result<&mut [f32]> {
    let (start, len) = checked(tensor)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as above, and the caller promises that no alias is in use.
    Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_see_what_is_written() {
        let mut tensor = Tensor::from_slice(&[1.0f32, 2.0]);
        let alias = tensor.detach();
        // SAFETY: the alias is not used while the slice lives.
        unsafe { f32_slice_mut(&mut tensor) }.unwrap()[1] = 5.0;
        assert_eq!(Vec::<f32>::try_from(alias).unwrap(), [1.0, 5.0]);
    }

    #[test]
    fn other_storage_is_refused() {
        let doubles = Tensor::from_slice(&[1.0f64]);
        // SAFETY: nobody else holds the tensor.
        assert!(unsafe { f32_slice(&doubles) }.is_err());
        let transposed = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).reshape([2, 2]).tr();
        // SAFETY: nobody else holds the tensor.
        assert!(unsafe { f32_slice(&transposed) }.is_err());
    }
}
