//! What the fuzz targets share.

pub mod model;
pub mod node;

/// Where reads of `input` end, in a few cuts that are a function of the input. Together with one
/// read of everything and reads of one byte: a target that sees the same in all of them does not
/// depend on how bytes arrive.
pub fn cuts(input: &[u8]) -> impl Iterator<Item = usize> {
    // A linear congruential generator: any cuts will do, if they can be had again.
    let next = |state: u64| state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e);
    let mut state = next(input.iter().fold(1, |sum, &byte| next(sum ^ u64::from(byte))));
    let (mut end, length) = (0, input.len());
    std::iter::from_fn(move || {
        state = next(state);
        let start = end;
        end = length.min(start + 1 + (state >> 57) as usize);
        (start < length).then_some(end)
    })
}
