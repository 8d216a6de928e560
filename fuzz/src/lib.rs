//! Helpers shared by the fuzz targets.

pub mod model;
pub mod node;

/// Returns the ends of the reads of `input`, a few positions that are a function of the input. A
/// target compares them with a single read and with reads of one byte: if all results are equal, it
/// does not depend on how bytes arrive.
pub fn cuts(input: &[u8]) -> impl Iterator<Item = usize> {
    // A linear congruential generator: the cuts are arbitrary, but reproducible.
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
