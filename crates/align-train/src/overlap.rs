use align_core::{Parameter, tch::Tensor};

/// The bytes between the first and the last number of a tensor.
struct Extent<'a> {
    name: &'a str,
    written: bool,
    start: usize,
    end: usize,
}

/// Finds a parameter that shares memory with another parameter or with a gradient, and names both.
///
/// Gradients are only read and may share memory with each other. Sorting makes it O(n log n). Tensors whose
/// numbers lie between each other's without sharing one count as overlapping as well.
pub(crate) fn find<'a>(
    parameters: &'a [Parameter],
    gradients: &[Option<Tensor>],
) -> Option<(&'a str, String)> {
    let weights = parameters.iter().filter_map(|p| extent(&p.tensor, &p.name, true));
    let pairs = parameters.iter().zip(gradients);
    let gradients = pairs.filter_map(|(p, gradient)| extent(gradient.as_ref()?, &p.name, false));
    let mut extents: Vec<Extent<'a>> = weights.chain(gradients).collect();
    extents.sort_by_key(|extent| extent.start);
    // Of what begins before: what reaches furthest among all, and among what is written.
    let mut furthest: Option<&Extent<'a>> = None;
    let mut furthest_written: Option<&Extent<'a>> = None;
    for extent in &extents {
        let before = if extent.written { furthest } else { furthest_written };
        if let Some(before) = before.filter(|before| before.end > extent.start) {
            return Some((before.name, describe(extent)));
        }
        let further = |best: Option<&Extent<'a>>| best.is_none_or(|best| extent.end > best.end);
        if further(furthest) {
            furthest = Some(extent);
        }
        if extent.written && further(furthest_written) {
            furthest_written = Some(extent);
        }
    }
    None
}

fn describe(extent: &Extent<'_>) -> String {
    if extent.written { extent.name.to_owned() } else { format!("the gradient of {}", extent.name) }
}

/// Returns `None` for a tensor without numbers of its own in one piece of memory.
fn extent<'a>(tensor: &Tensor, name: &'a str, written: bool) -> Option<Extent<'a>> {
    if !tensor.defined() || tensor.is_sparse() || tensor.numel() == 0 {
        return None;
    }
    let sizes = tensor.size();
    let last: i64 = sizes.iter().zip(tensor.stride()).map(|(size, stride)| (size - 1) * stride).sum();
    let start = tensor.data_ptr() as usize;
    let bytes = (usize::try_from(last).ok()? + 1) * tensor.kind().elt_size_in_bytes();
    Some(Extent { name, written, start, end: start + bytes })
}
