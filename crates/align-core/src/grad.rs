use tch::{NoGradGuard, Tensor};

use crate::Result;

/// Switches gradient recording off on this thread while the guard lives.
///
/// Bind it to a named variable. The closure form of `tch` does not restore the mode after a caught panic, and
/// the mode belongs to one thread: each worker takes its own guard.
///
/// ```
/// # use align_core::{no_grad, tch::Tensor};
/// let weight = Tensor::from_slice(&[2.0f32]).f_set_requires_grad(true)?;
/// let _guard = no_grad();
/// assert!(!weight.f_mul(&weight)?.requires_grad());
/// # Ok::<(), align_core::Error>(())
/// ```
#[must_use = "the mode is restored when the guard is dropped"]
pub fn no_grad() -> NoGradGuard {
    tch::no_grad_guard()
}

/// Says whether operations on this thread are recorded for a backward pass.
///
/// ```
/// # use align_core::{no_grad, records_gradients};
/// assert!(records_gradients()?);
/// let _guard = no_grad();
/// assert!(!records_gradients()?);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// libtorch refuses.
pub fn records_gradients() -> Result<bool> {
    // The mode itself has no getter that leaves it alone; what it does to a result can be seen.
    let leaf = Tensor::f_from_slice(&[0f32])?.f_set_requires_grad(true)?;
    Ok(leaf.f_neg()?.requires_grad())
}

/// Sets the gradients of leaves to zero where there are any, so that the next backward pass starts anew.
///
/// # Errors
/// libtorch refuses.
pub fn clear_gradients<'a>(leaves: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
    for leaf in leaves {
        let mut gradient = leaf.f_grad()?;
        // `zero_` on an undefined gradient is an error with a C++ trace.
        if gradient.defined() {
            let _ = gradient.f_detach_()?.f_zero_()?;
        }
    }
    Ok(())
}
