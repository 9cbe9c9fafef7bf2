//! Deterministic randomness: a mixing function over a seed. The seed is recorded when a run starts, so live and replay
//! draw the same numbers. Not for secrets.

/// Mixes two numbers into one whose bits all depend on both.
///
/// Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), with Stafford's constants.
#[must_use]
pub fn mix(seed: u64, salt: u64) -> u64 {
    let mut z = seed.wrapping_add(salt.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
