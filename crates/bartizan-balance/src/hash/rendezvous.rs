//! Rendezvous hashing.

use super::index::{Entry, Index, Make};
use super::nth;
use super::shared::{Core, is_its_core};
use super::tree::Tree;

/// Rendezvous hashing, or highest random weight: every backend draws a number for the key, and the
/// best one gets it.
///
/// The number of a backend of weight `w` is −ln u ⁄ w, where `u` is made of the hashes of the key and
/// of the backend's name; the order of preference is from the smallest one upwards.
///
/// Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on
/// Networking 6(1), 1998; the weights by Schindelhauer, Schomaker, "Weighted Distributed Hash
/// Tables", SPAA 2005.
///
/// | setting | default |
/// | --- | --- |
/// | [`bounded`](Self::bounded) | not bounded |
///
/// **Choose it** for up to some hundred backends: it has no structure to make, keeps shares exactly
/// to the weights, and moves the least possible on any change, weights included. For more, choose
/// [`tree`](Self::tree), [`RingHash`](crate::RingHash) or [`Maglev`](crate::Maglev).
///
/// **Cost**: O(n), some nanoseconds for each backend; a logarithm is taken for about ln n of them. Twice
/// that, if the first choice cannot be taken. **Memory**: 16 bytes for each backend, and twice that
/// while the table before is kept.
///
/// Names are hashed when members or weights change, off the path of requests, if the policy is
/// [prepared](crate::Policy::preparation). Otherwise the first pick for a table does it, and others wait.
/// Indexes of two tables are kept: give each cluster a policy of its own.
///
/// **Differences.** Caddy's hash policies and Traefik's `hrw` are of this kind, with other hashes.
/// HAProxy, nginx and Envoy do not have it.
#[derive(Debug, Clone)]
pub struct Rendezvous {
    core: Core<Shape>,
}

impl Rendezvous {
    /// Compares all backends.
    pub fn new() -> Self {
        Self { core: Core::new("rendezvous", Shape::All) }
    }

    /// Goes down a binary tree, in O(log n): at each node, the two sides draw for the key, by the sums
    /// of their weights.
    ///
    /// The places of backends in the tree are the hashes of their names, so that a change of
    /// membership leaves the rest of the tree alone. Shares are exactly those of the weights. The
    /// order of preference is that of the leaves which the key's first, second, … hash leads to.
    ///
    /// The price is paid when members or weights change: the sums change all the way down to what
    /// changed, and at each node a few keys change sides, most of them between backends that stay.
    /// About ½ log₂ n times the least possible move: 3 times at 100 backends, 6 times at 10,000. A
    /// change of health moves the least possible, as always.
    ///
    /// **Memory**: 40 bytes for each backend.
    ///
    /// Wang, Ravishankar, "Hash-Based Virtual Hierarchies for Scalable Location Service in Mobile Ad-hoc
    /// Networks", 2009, for the skeleton; with two sides at each node, and weights.
    pub fn tree() -> Self {
        Self { core: Core::new("rendezvous", Shape::Tree) }
    }
}

is_its_core!(Rendezvous);

#[derive(Clone, Copy, Debug)]
enum Shape {
    All,
    Tree,
}

/// What there is beside the roster: nothing, for the comparison of all.
#[derive(Debug)]
struct Skeleton(Option<Tree>);

impl Make for Shape {
    type Index = Skeleton;

    fn make(&self, entries: &[Entry<'_>]) -> Skeleton {
        Skeleton(match self {
            Self::All => None,
            Self::Tree => Some(Tree::new(entries)),
        })
    }
}

impl Index for Skeleton {
    fn preferred(&self, hash: u64) -> impl Iterator<Item = usize> {
        (0..).map_while(move |n| self.0.as_ref()?.leaf(nth(hash, n)))
    }

    fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, Tree::bytes)
    }
}
