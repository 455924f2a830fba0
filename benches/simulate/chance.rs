//! Chance that is the same in every run.

use bartizan_balance::Key;

/// SplitMix64 (Steele, Lea, Flood, 2014): every seed gives a sequence of its own, the same for ever
/// and on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// From 0, which it may be, to 1, which it is not.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `count`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Exponentially distributed.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// How much work a request is, in relation to the mean.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Exponentially distributed.
    Exponential,
    /// One in twenty takes 21 times as long as the others: a page beside its report.
    HeavyTail,
}

impl Work {
    pub(crate) fn draw(self, chance: &mut Chance) -> f64 {
        match self {
            Self::Exponential => chance.exponential(1.0),
            Self::HeavyTail if chance.below(20) == 0 => 10.5,
            Self::HeavyTail => 0.5,
        }
    }
}

/// Keys of which the `k`-th is asked for in proportion to `1 / k`, as names of hosts, pages and
/// customers are (Zipf's law).
#[derive(Debug)]
pub(crate) struct Zipf {
    // Up to and including each key.
    cumulated: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(keys: usize) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=keys).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self { cumulated: cumulated.collect() }
    }

    /// The hash of a key.
    pub(crate) fn draw(&self, chance: &mut Chance) -> u64 {
        let at = chance.unit() * self.cumulated.last().copied().unwrap_or(0.0);
        hash_of(self.cumulated.partition_point(|sum| *sum <= at))
    }
}

/// The hash of the key with this number.
pub(crate) fn hash_of(key: usize) -> u64 {
    Key::Bytes(format!("key-{key}").into_bytes().into()).hash()
}
