//! The one place of this crate with `unsafe`: kernels compiled for several instruction sets, and lanes seen as
//! numbers.

use super::attend::{self, Many, One};
use super::lanes::{self, Lane, WIDTH};
use super::product::{self, Product};

/// An instruction set that this machine has.
///
/// Only [`Instructions::available`] makes values of this type, and only after the processor was asked: that is what
/// makes calling the kernels sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instructions(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Instructions {
    /// Lists what this machine has, the fastest first; the last needs nothing.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let narrow = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if narrow && wide {
                sets.push(Self(Set::Avx512));
            }
            if narrow {
                sets.push(Self(Set::Avx2));
            }
        }
        sets.push(Self(Set::Portable));
        sets
    }

    /// Returns the fastest set of this machine.
    pub fn best() -> Self {
        Self::available().first().copied().unwrap_or(Self(Set::Portable))
    }

    /// Names the set: `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            Set::Portable => "portable",
        }
    }
}

/// Compiles one generic function for each instruction set and calls the one that was chosen.
macro_rules! kernel {
    ($module:ident :: $name:ident ( $($arg:ident : $ty:ty),* ) $(-> $result:ty)?) => {
        impl Instructions {
            #[doc = concat!("See [`", stringify!($module), "::", stringify!($name), "`].")]
            pub(crate) fn $name(self, $($arg: $ty),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                    fn wide($($arg: $ty),*) $(-> $result)? {
                        $module::$name::<lanes::Wide>($($arg),*)
                    }
                    #[target_feature(enable = "avx2,fma")]
                    fn narrow($($arg: $ty),*) $(-> $result)? {
                        $module::$name::<lanes::Narrow>($($arg),*)
                    }
                    match self.0 {
                        // SAFETY: `Set::Avx512` exists only after each of these features was detected.
                        Set::Avx512 => return unsafe { wide($($arg),*) },
                        // SAFETY: `Set::Avx2` exists only after both features were detected.
                        Set::Avx2 => return unsafe { narrow($($arg),*) },
                        Set::Portable => {}
                    }
                }
                $module::$name::<lanes::Portable>($($arg),*)
            }
        }
    };
}

kernel!(product::product(product: Product<'_>));
kernel!(attend::one(one: One<'_>));
kernel!(attend::many(many: Many<'_>));
kernel!(lanes::norm_rows(x: &[Lane], stride: usize, width: usize, weight: &[Lane], eps: f32, out: &mut [Lane]));
kernel!(lanes::norm_head(head: &mut [f32], weight: &[f32], eps: f32));
kernel!(lanes::rotate(head: &mut [f32], cos: &[f32], sin: &[f32]));
kernel!(lanes::largest(row: &[Lane]) -> Option<f32>);
kernel!(lanes::exponentials(logits: &[Lane], largest: f32, inverse_temperature: f32, weights: &mut [Lane], sums: &mut [f64]));

/// Sees lanes as numbers.
#[inline(always)]
pub(crate) fn floats(lanes: &[Lane]) -> &[f32] {
    // SAFETY: a `Lane` is `repr(C)` with one array of 16 `f32`, 64 bytes without padding, aligned more strictly than
    // `f32`; the length cannot overflow because the bytes are in memory.
    unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * WIDTH) }
}

/// Sees lanes as numbers that can be written.
#[inline(always)]
pub(crate) fn floats_mut(lanes: &mut [Lane]) -> &mut [f32] {
    // SAFETY: as in `floats`; the exclusive borrow goes over to the result.
    unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * WIDTH) }
}
