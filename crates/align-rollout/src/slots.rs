//! Moves of single sequences inside a cache.
//!
//! A slot is overwritten in place when the next sequence enters, and the last slot moves into a gap when none
//! waits: both copy one sequence's tokens, never the whole cache.

use align_core::{Error, KvCache, LayerCache, Result, tch::Tensor};

fn held(cache: &KvCache, slot: usize) -> Result<usize> {
    cache
        .lengths
        .get(slot)
        .copied()
        .ok_or_else(|| Error::input("cache slot", format!("{slot} of {}", cache.slots())))
}

/// Returns the first `len` tokens of a slot, a view.
fn tokens_of(tensor: &Tensor, slot: usize, len: usize) -> Result<Tensor> {
    Ok(tensor.f_narrow(0, slot as i64, 1)?.f_narrow(2, 0, len as i64)?)
}

fn copy_tokens(from: &LayerCache, source: usize, to: &LayerCache, target: usize, len: usize) -> Result<()> {
    for (from, to) in [(&from.keys, &to.keys), (&from.values, &to.values)] {
        tokens_of(to, target, len)?.f_copy_(&tokens_of(from, source, len)?)?;
    }
    Ok(())
}

/// Replaces what a slot holds by the only sequence of another cache.
pub(crate) fn put(cache: &mut KvCache, slot: usize, from: &KvCache) -> Result<()> {
    let len = held(from, 0)?;
    held(cache, slot)?;
    if len > cache.capacity {
        return Err(Error::input("cache slot", format!("{len} tokens into {}", cache.capacity)));
    }
    for (from, to) in from.layers.iter().zip(&cache.layers) {
        copy_tokens(from, 0, to, slot, len)?;
    }
    if let Some(length) = cache.lengths.get_mut(slot) {
        *length = len;
    }
    Ok(())
}

/// Removes a slot; the last one takes its place, as in `Vec::swap_remove`.
pub(crate) fn swap_remove(cache: &mut KvCache, slot: usize) -> Result<()> {
    held(cache, slot)?;
    let last = cache.slots().saturating_sub(1);
    let len = held(cache, last)?;
    for layer in &mut cache.layers {
        if slot != last {
            copy_tokens(layer, last, layer, slot, len)?;
        }
        layer.keys = layer.keys.f_narrow(0, 0, last as i64)?;
        layer.values = layer.values.f_narrow(0, 0, last as i64)?;
    }
    cache.lengths.swap_remove(slot);
    Ok(())
}

/// Counts the bytes that one token of one slot takes.
pub(crate) fn bytes_per_token(cache: &KvCache) -> usize {
    let tokens = cache.slots().max(1) * cache.capacity.max(1);
    let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
    cache.layers.iter().map(|layer| bytes(&layer.keys) + bytes(&layer.values)).sum::<usize>() / tokens
}

#[cfg(test)]
mod tests {
    use align_core::tch::{Device, Kind};

    use super::*;

    /// A cache of one layer, one head of size 2, whose slot s holds the number s everywhere.
    fn numbered(slots: i64, lengths: &[usize]) -> KvCache {
        let mut cache = KvCache::new(&[(1, 2)], slots as usize, 4, Kind::Float, Device::Cpu).unwrap();
        let fill = Tensor::arange(slots, (Kind::Float, Device::Cpu)).reshape([-1, 1, 1, 1]);
        cache.layers[0].keys = fill.expand([slots, 1, 4, 2], false).contiguous();
        cache.layers[0].values = &cache.layers[0].keys + 100.0;
        cache.lengths = lengths.to_vec();
        cache
    }

    fn row(tensor: &Tensor, slot: i64) -> Vec<f32> {
        Vec::try_from(tensor.select(0, slot).reshape([-1])).unwrap()
    }

    #[test]
    fn the_last_slot_fills_the_gap() {
        let mut cache = numbered(3, &[1, 2, 3]);
        swap_remove(&mut cache, 0).unwrap();
        assert_eq!(cache.lengths, [3, 2]);
        assert_eq!(cache.layers[0].keys.size(), [2, 1, 4, 2]);
        // Three tokens of slot 2 moved; the fourth position is free, whatever it holds.
        assert_eq!(row(&cache.layers[0].keys, 0)[..6], [2.0; 6]);
        assert_eq!(row(&cache.layers[0].values, 0)[..6], [102.0; 6]);
        assert_eq!(row(&cache.layers[0].keys, 1), [1.0; 8]);
        swap_remove(&mut cache, 1).unwrap();
        swap_remove(&mut cache, 0).unwrap();
        assert_eq!((cache.slots(), cache.layers[0].keys.size()[0]), (0, 0));
        assert!(swap_remove(&mut cache, 0).is_err());
    }

    #[test]
    fn a_prompt_enters_one_slot_and_leaves_the_others_alone() {
        let mut cache = numbered(3, &[4, 4, 4]);
        let prompt = numbered(1, &[2]);
        put(&mut cache, 1, &prompt).unwrap();
        assert_eq!(cache.lengths, [4, 2, 4]);
        assert_eq!(row(&cache.layers[0].keys, 1)[..4], [0.0; 4]);
        assert_eq!(row(&cache.layers[0].values, 1)[..4], [100.0; 4]);
        assert_eq!(row(&cache.layers[0].keys, 0), [0.0; 8]);
        assert_eq!(row(&cache.layers[0].keys, 2), [2.0; 8]);
        assert!(put(&mut cache, 3, &prompt).is_err());
        assert!(put(&mut cache, 0, &numbered(1, &[5])).is_err());
    }

    #[test]
    fn bytes_count_keys_and_values_of_all_layers() {
        let cache = KvCache::new(&[(2, 8), (1, 4)], 3, 5, Kind::Float, Device::Cpu).unwrap();
        assert_eq!(bytes_per_token(&cache), (2 * 8 + 4) * 2 * 4);
    }
}
