//! What the fuzz targets share: ways to cut an input into reads.

/// The same input in reads of one byte, in one read, and in a few cuts that are a function of the
/// input. A target that sees the same in all of them does not depend on how bytes arrive.
pub fn splits(input: &[u8]) -> [Vec<&[u8]>; 3] {
    let bytes = input.chunks(1).collect();
    // FNV-1a, then a linear congruential generator: any cuts will do, if they can be had again.
    let hash = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut state = input.iter().fold(0xcbf2_9ce4_8422_2325, hash);
    let mut pieces = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let (piece, behind) = rest.split_at(rest.len().min(1 + (state >> 57) as usize));
        pieces.push(piece);
        rest = behind;
    }
    [vec![input], bytes, pieces]
}
