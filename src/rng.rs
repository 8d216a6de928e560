//! A seeded pseudo-random number generator (`SplitMix64`, Steele, Lea and Flood 2014).
//!
//! It provides jitter and synthetic data, never secrets. It is written out here, in a few lines,
//! because its sequences must not change: the simulator replays a schedule from a number, and both
//! ends of a benchmark compute a client's location from its number. General-purpose crates such as
//! `fastrand` do not promise the same sequence in every version, and offer no pure hash of a number.

/// A generator. Equal seeds give equal sequences, on every platform and in every version.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose sequence follows from `seed`. Any seed will do, including 0.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        let bits = scramble(self.0);
        self.0 = self.0.wrapping_add(INCREMENT);
        bits
    }

    /// Returns a number less than `end`, which must not be 0. The modulo bias is accepted: it is
    /// negligible for small ranges.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// Returns a number from `low` to `high`, inclusive.
    pub const fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Returns an index into a list of length `len`, which must not be 0.
    pub const fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Returns an element of `list`, which must not be empty.
    pub const fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.index(list.len())]
    }

    /// Returns true with a probability of `percent` %.
    pub const fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns a number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        self.bits() as f64 / u64::MAX as f64
    }
}

/// Returns the first output of a generator with this seed: a hash that spreads consecutive numbers
/// over all 64 bits.
#[must_use]
pub const fn scramble(seed: u64) -> u64 {
    let z = seed.wrapping_add(INCREMENT);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 2⁶⁴ divided by the golden ratio, made odd.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of <https://prng.di.unimi.it/splitmix64.c> for the seed 1234567.
    #[test]
    fn the_sequence_is_that_of_the_reference_implementation() {
        let mut rng = Rng::new(1_234_567);
        for expected in [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ] {
            assert_eq!(rng.bits(), expected);
        }
    }

    #[test]
    fn units_are_between_zero_and_one() {
        let mut rng = Rng::new(0);
        let units: Vec<f64> = (0..1000).map(|_| rng.unit()).collect();
        assert!(units.iter().all(|unit| (0.0..=1.0).contains(unit)));
        let mean = units.iter().sum::<f64>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
    }
}
