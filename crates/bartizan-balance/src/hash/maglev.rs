//! Google's table.

use super::index::{Entry, Index, Make};
use super::shared::{Core, is_its_core};
use super::{nth, onto};

/// Maglev hashing: a key goes to what its entry of a table says, one load away.
///
/// Each backend has its own permutation of the entries, made of two hashes of its name. In turns they
/// take the first entry of theirs that is still free, until none is; a backend of half the weight of
/// the heaviest takes every other turn. The order of preference of a key is that of the entries its
/// first, second, … hash leads to.
///
/// Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4.
///
/// | setting | default |
/// | --- | --- |
/// | [`entries`](Self::entries) | at least 65,537, and 100 for each backend |
/// | [`bounded`](Self::bounded) | not bounded |
///
/// **Choose it** for the evenest load and the fastest look-up: shares differ by 1 % or so from what
/// the weights say. A change of membership moves more than the least possible, and the more, the fewer
/// entries there are for each backend: when one of 100 backends leaves, 1.6 times as many keys move
/// as it had, and 9 times as many when one of 10,000 does. The default size
/// grows with the number of backends, and a table of another size is another mapping: almost all
/// keys move where it grows. Set a size where the number of backends crosses such a limit (655;
/// 1,310; 2,621; …), and a mapping is to survive that.
///
/// **Cost**: one load that may miss the cache, whatever the number of backends. **Memory**: 4 bytes
/// for each entry, 4 MB at 10,000 backends, and twice that while the table before is kept.
///
/// **Making it** takes a fraction of a second at 10,000 backends, when members or weights change and
/// off the path of requests, if the policy is [prepared](crate::Policy::preparation). Otherwise the first
/// pick for a table makes it, and others wait. Indexes of two tables are kept: give each cluster a
/// policy of its own.
///
/// **Differences.** Envoy (`MAGLEV`) has 65,537 entries unless told otherwise, weighs in the same
/// way, hashes with XXH64, and makes the table anew, from the healthy hosts only, whenever one of
/// them changes: keys of healthy ones move as well then. HAProxy and nginx do not have it.
#[derive(Debug, Clone)]
pub struct Maglev {
    core: Core<Size>,
}

impl Maglev {
    /// At least 65,537 entries, and 100 for each backend.
    pub fn new() -> Self {
        Self { core: Core::new("maglev", Size(None)) }
    }

    /// At least this many entries, whatever the number of backends: the next of 65,537, 131,101,
    /// 262,147, 524,309, 1,048,583, 2,097,169, 4,194,319 and 5,000,011; above counts as the last.
    pub fn entries(self, at_least: u32) -> Self {
        Self { core: self.core.make(Size(Some(at_least as usize))) }
    }
}

is_its_core!(Maglev);

/// The number of entries, if it does not follow that of the backends.
#[derive(Clone, Copy, Debug)]
struct Size(Option<usize>);

/// Positions of backends; empty if there is none.
#[derive(Debug)]
struct Entries(Box<[u32]>);

impl Make for Size {
    type Index = Entries;

    fn make(&self, backends: &[Entry<'_>]) -> Entries {
        let Some(heaviest) = backends.iter().map(|backend| u64::from(backend.weight)).max() else {
            return Entries([].into());
        };
        let size = prime(self.0.unwrap_or_else(|| backends.len().saturating_mul(PER_BACKEND)));
        let mut table = vec![FREE; size];
        let mut takers: Vec<_> = backends.iter().map(|backend| Taker::new(backend, size)).collect();
        let mut free = size;
        for round in 1.. {
            for (taker, backend) in takers.iter_mut().zip(backends) {
                // It is its turn when its weight has added up to another one of the heaviest's.
                if round * u64::from(backend.weight) < taker.due {
                    continue;
                }
                taker.due += heaviest;
                let entry = taker.next_free(&table);
                table[entry] = backend.position;
                free -= 1;
                if free == 0 {
                    return Entries(table.into());
                }
            }
        }
        Entries(table.into())
    }
}

impl Index for Entries {
    fn preferred(&self, hash: u64) -> impl Iterator<Item = usize> {
        (0..).map_while(move |n| {
            let entry = self.0.get(onto(nth(hash, n), self.0.len()))?;
            Some(*entry as usize)
        })
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// A backend on its way through its permutation.
struct Taker {
    at: usize,
    skip: usize,
    due: u64,
}

impl Taker {
    fn new(backend: &Entry<'_>, size: usize) -> Self {
        let again = nth(backend.seed, 0);
        // The size is prime, so every step but 0 comes to all entries.
        Self { at: onto(backend.seed, size), skip: 1 + onto(again, size - 1), due: 0 }
    }

    fn next_free(&mut self, table: &[u32]) -> usize {
        loop {
            let at = self.at;
            self.at += self.skip;
            if self.at >= table.len() {
                self.at -= table.len();
            }
            if table[at] == FREE {
                return at;
            }
        }
    }
}

/// The first size of at least this.
fn prime(at_least: usize) -> usize {
    PRIMES.into_iter().find(|prime| *prime >= at_least).unwrap_or(PRIMES[PRIMES.len() - 1])
}

/// The paper's first choice and its largest, as Envoy's, and the first primes above powers of two.
const PRIMES: [usize; 8] =
    [65_537, 131_101, 262_147, 524_309, 1_048_583, 2_097_169, 4_194_319, 5_000_011];

/// Shares are then within 1 % of each other (the paper, 5.3).
const PER_BACKEND: usize = 100;

/// No position is as high.
const FREE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sizes_are_prime() {
        for prime in PRIMES {
            let divisor = (2..).take_while(|n| n * n <= prime).find(|n| prime % n == 0);
            assert_eq!(divisor, None, "{prime}");
        }
        assert!(PRIMES.is_sorted());
        for (at_least, expected) in [(0, 65_537), (65_538, 131_101), (usize::MAX, 5_000_011)] {
            assert_eq!(prime(at_least), expected);
        }
    }

    #[test]
    fn entries_are_shared_out_by_weight() {
        let names = ["a", "b", "c", "d"];
        let weights = [4, 4, 2, 1];
        let backends: Vec<_> = names
            .iter()
            .zip(weights)
            .zip(0..)
            .map(|((name, weight), position)| Entry {
                position,
                name,
                seed: super::super::roster::seed(name),
                weight,
            })
            .collect();
        let entries = Size(None).make(&backends);
        for (position, weight) in (0..).zip(weights) {
            let count = entries.0.iter().filter(|entry| **entry == position).count();
            let expected = 65_537 * weight as usize / 11;
            assert!(count.abs_diff(expected) <= 2, "{position}: {count}, not {expected}");
        }
    }
}
