//! The one place of this crate with `unsafe`: kernels compiled for several instruction sets, and lanes seen as
//! numbers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as x86;

use super::attend::{self, Many, One};
use super::lanes::{self, Lane, Level, WIDTH, fma};
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
                        $module::$name::<Wide>($($arg),*)
                    }
                    #[target_feature(enable = "avx2,fma")]
                    fn narrow($($arg: $ty),*) $(-> $result)? {
                        $module::$name::<Narrow>($($arg),*)
                    }
                    match self.0 {
                        // SAFETY: `Set::Avx512` exists only after each of these features was detected.
                        Set::Avx512 => return unsafe { wide($($arg),*) },
                        // SAFETY: `Set::Avx2` exists only after both features were detected.
                        Set::Avx2 => return unsafe { narrow($($arg),*) },
                        Set::Portable => {}
                    }
                }
                $module::$name::<Portable>($($arg),*)
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

/// 32 registers of 16 numbers.
#[cfg(target_arch = "x86_64")]
struct Wide;

/// 16 registers of 8 numbers.
#[cfg(target_arch = "x86_64")]
struct Narrow;

/// What the target has at least.
struct Portable;

// The vectors of `Wide` and `Narrow` are made by the kernels above alone, which run only where the features are: the
// two types are private to this file and named nowhere else.

#[cfg(target_arch = "x86_64")]
impl Level for Wide {
    const FUSED: bool = true;
    const ROWS: usize = 12;
    type Vector = x86::__m512;

    #[inline(always)]
    fn load(lane: &Lane) -> Self::Vector {
        // SAFETY: a lane is 64 bytes aligned to 64; AVX-512F was detected, see above.
        unsafe { x86::_mm512_load_ps(lane.0.as_ptr()) }
    }

    #[inline(always)]
    fn store(vector: Self::Vector) -> Lane {
        let mut lane = Lane::default();
        // SAFETY: as in `load`.
        unsafe { x86::_mm512_store_ps(lane.0.as_mut_ptr(), vector) };
        lane
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Vector {
        // SAFETY: AVX-512F was detected, see above; so for the three below.
        unsafe { x86::_mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as in `splat`.
        unsafe { x86::_mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // SAFETY: as in `splat`.
        unsafe { x86::_mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as in `splat`.
        unsafe { x86::_mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn prefetch(lane: &Lane) {
        // SAFETY: a prefetch reads nothing that the program sees; every x86-64 has it.
        unsafe { x86::_mm_prefetch::<{ x86::_MM_HINT_T0 }>(lane.0.as_ptr().cast()) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Level for Narrow {
    const FUSED: bool = true;
    const ROWS: usize = 3;
    type Vector = [x86::__m256; 2];

    #[inline(always)]
    fn load(lane: &Lane) -> Self::Vector {
        let start = lane.0.as_ptr();
        // SAFETY: both halves of a lane are 32 bytes aligned to 32; AVX2 was detected, see above.
        unsafe { [x86::_mm256_load_ps(start), x86::_mm256_load_ps(start.add(8))] }
    }

    #[inline(always)]
    fn store(vector: Self::Vector) -> Lane {
        let mut lane = Lane::default();
        let start = lane.0.as_mut_ptr();
        let [low, high] = vector;
        // SAFETY: as in `load`.
        unsafe {
            x86::_mm256_store_ps(start, low);
            x86::_mm256_store_ps(start.add(8), high);
        }
        lane
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Vector {
        // SAFETY: AVX2 and FMA were detected, see above; so for the three below.
        unsafe { [x86::_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as in `splat`.
        unsafe { [x86::_mm256_mul_ps(a[0], b[0]), x86::_mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // SAFETY: as in `splat`.
        unsafe { [x86::_mm256_fmadd_ps(a[0], b[0], c[0]), x86::_mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as in `splat`.
        unsafe { [x86::_mm256_max_ps(a[0], b[0]), x86::_mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn prefetch(lane: &Lane) {
        Wide::prefetch(lane);
    }
}

impl Level for Portable {
    const FUSED: bool = cfg!(target_arch = "aarch64");
    const ROWS: usize = if cfg!(target_arch = "aarch64") { 3 } else { 1 };
    type Vector = [f32; WIDTH];

    #[inline(always)]
    fn load(lane: &Lane) -> Self::Vector {
        lane.0
    }

    #[inline(always)]
    fn store(vector: Self::Vector) -> Lane {
        Lane(vector)
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Vector {
        [x; WIDTH]
    }

    #[inline(always)]
    fn mul(mut a: Self::Vector, b: Self::Vector) -> Self::Vector {
        for c in 0..WIDTH {
            a[c] *= b[c];
        }
        a
    }

    #[inline(always)]
    fn mul_add(a: Self::Vector, b: Self::Vector, mut c: Self::Vector) -> Self::Vector {
        for i in 0..WIDTH {
            c[i] = fma::<Self>(a[i], b[i], c[i]);
        }
        c
    }

    #[inline(always)]
    fn max(a: Self::Vector, mut b: Self::Vector) -> Self::Vector {
        for c in 0..WIDTH {
            b[c] = if a[c] > b[c] { a[c] } else { b[c] };
        }
        b
    }

    #[inline(always)]
    fn prefetch(_: &Lane) {}
}

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
