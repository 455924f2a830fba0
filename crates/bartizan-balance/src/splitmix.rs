//! SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).

/// Mixes all bits with all others: its finalizer, with Stafford's constants.
#[inline]
pub(crate) fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// 2^64 by the golden ratio, odd: its multiples, which the state goes through, are spread over all of
/// 64 bits.
pub(crate) const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
