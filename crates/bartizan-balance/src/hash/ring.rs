//! A ring of points.

use super::continuum::Continuum;
use super::index::{Entry, Make};
use super::shared::{Core, is_its_core};
use super::{ketama, nth};

/// Consistent hashing on a ring: a key goes to the owner of the first point at or after its place.
///
/// Each backend owns a number of points for each unit of its weight; the place of the point `i` is
/// the low half of output `i` of SplitMix64, seeded with XXH3 of the backend's name, and that of a
/// key the low half of its hash. The order of preference is that of the points around the ring.
///
/// Karger et al., "Consistent Hashing and Random Trees", STOC 1997.
///
/// | setting | default |
/// | --- | --- |
/// | [`points`](Self::points) | 160 per unit of weight |
/// | [`bounded`](Self::bounded) | not bounded |
///
/// **Choose it** for caches and other state that is expensive to move: a backend that is added takes
/// keys from all others and moves none between these, and a changed weight moves the keys of that
/// backend alone. Shares are uneven by about 1 / √points: 8 % with 160.
///
/// **Cost**: a table of buckets finds the point, so a look-up is two loads that may miss the cache,
/// whatever the number of backends. **Memory**: about 9 bytes for each point, and twice that while
/// the table before is kept; 14 MB at 10,000 backends of weight 1. From 8,388,608 points on, their
/// number per unit of weight is halved until they fit, at least one to each backend; a change of
/// membership that crosses such a limit moves about half of all keys, so take fewer points, or
/// smaller weights, where that is near.
///
/// **Making it** takes some 0.1 µs per point, when members or weights change and off the path of
/// requests, if the policy is [prepared](crate::Policy::preparation). Otherwise the first pick for a table
/// makes it, and others wait. Indexes of two tables are kept: give each cluster a policy of its own.
///
/// **Differences.** HAProxy (`hash-type consistent`) has 16 points for each unit of weight, placed by
/// the server's number and hashed with its own functions; nginx (`hash … consistent`) has 160, by
/// CRC-32 of address and port; Envoy (`RING_HASH`) fits the ring to between 1,024 and 8,388,608 points,
/// in proportion to weights, so that any change of weights may move keys anywhere. Their mappings
/// differ from this one and from each other. All of them take dead servers' points out of the ring,
/// which leads to the same backend as passing over them does.
#[derive(Debug, Clone)]
pub struct RingHash {
    core: Core<Points>,
}

impl RingHash {
    /// 160 points for each unit of weight, as nginx.
    pub fn new() -> Self {
        Self { core: Core::new("ring", Points::PerWeight(POINTS)) }
    }

    /// The continuum of libketama: the servers of the same names and weights get the same keys as
    /// with memcached clients that use it, if keys are read by [`KetamaKey`](crate::KetamaKey).
    ///
    /// Name the backends as such clients name their servers, as a rule `10.0.1.1:11211`. Each gets
    /// 40 · n · weight / all weights digests, rounded down, of `name-0`, `name-1`, … by MD5; each
    /// digest gives four points. A change of membership or weights may thus change all numbers of
    /// points by one digest, and moves a little more than the least possible.
    ///
    /// Richard Jones, "libketama", Last.fm, 2007. nginx's `consistent` and spymemcached differ from
    /// it: by CRC-32 the one, without weights the other.
    pub fn ketama() -> Self {
        Self { core: Core::new("ring", Points::Ketama) }
    }

    /// This many points for each unit of weight, at least 1. Ketama's continuum has its own number.
    pub fn points(self, per_weight: u16) -> Self {
        // Not for ketama, whose points nobody else could then find.
        match self.core.maker() {
            Points::PerWeight(_) => {
                Self { core: self.core.make(Points::PerWeight(per_weight.max(1))) }
            }
            Points::Ketama => self,
        }
    }
}

is_its_core!(RingHash);

/// How many points there are, and where.
#[derive(Clone, Copy, Debug)]
enum Points {
    PerWeight(u16),
    Ketama,
}

impl Make for Points {
    type Index = Continuum;

    fn make(&self, entries: &[Entry<'_>]) -> Continuum {
        // Entries are in the order of names.
        let mut ranks = vec![0; entries.iter().map(|e| e.position as usize + 1).max().unwrap_or(0)];
        for (entry, rank) in entries.iter().zip(0_u32..) {
            ranks[entry.position as usize] = rank;
        }
        let rank = |owner: u32| ranks[owner as usize];
        match *self {
            Self::Ketama => Continuum::new(ketama::points(entries), rank),
            Self::PerWeight(points) => {
                let halvings = halvings(entries, points);
                let of = |entry: &Entry<'_>| {
                    let count = (entry.weight * u32::from(points)) >> halvings;
                    let (seed, position) = (entry.seed, entry.position);
                    // Mixed, because XXH3 of short names under small seeds is not: names that differ
                    // in a letter would share their points.
                    (0..u64::from(count.max(1))).map(move |i| (nth(seed, i) as u32, position))
                };
                Continuum::new(entries.iter().flat_map(of), rank)
            }
        }
    }
}

/// How often the number of points has to be halved to fit.
///
/// By halves, and not in proportion: with each change of the sum of all weights, all backends would
/// gain or lose points, and keys.
fn halvings(entries: &[Entry<'_>], points: u16) -> u32 {
    let total: u64 = entries.iter().map(|e| u64::from(e.weight) * u64::from(points)).sum();
    total.div_ceil(MOST).next_power_of_two().ilog2()
}

/// nginx's, and libketama's for servers of the same weight.
const POINTS: u16 = 160;

/// Envoy's limit: 72 MB of points.
const MOST: u64 = 1 << 23;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(weight: u32) -> Entry<'static> {
        Entry { position: 0, name: "a", seed: 0, weight }
    }

    #[test]
    fn points_are_halved_until_they_fit() {
        for (backends, weight, points, expected) in [
            (1, 1, 160, 0),
            (10_000, 1, 160, 0),
            (1, 256, 32_768, 0),
            (2, 256, 32_768, 1),
            (3, 256, 32_768, 2),
            (10_000, 256, 160, 6),
        ] {
            let entries = vec![entry(weight); backends];
            assert_eq!(halvings(&entries, points), expected, "{backends} of weight {weight}");
        }
        assert_eq!(halvings(&[], 160), 0);
    }
}
