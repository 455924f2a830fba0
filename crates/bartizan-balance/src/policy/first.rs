//! The first backend with room.

use super::passed::Passed;
use crate::{Pick, PickContext, Policy, Reason, Table};

/// Takes the first backend with [room](Table::has_room), so that as few backends as possible are in
/// use, and the last ones can be shut down when load is low.
///
/// The order is that of [`Table::members`]; weights are ignored. Without [`Limits`](crate::Limits)
/// the first backend takes everything. This is HAProxy's `first`, which goes by the server's id
/// instead; nginx has nothing like it, and Envoy's `pick_first` moves on only when a connection
/// fails, not when the backend is full.
///
/// Cost: a few nanoseconds, and a few more for each full backend before the one that is chosen. No
/// state, so workers that share nothing choose alike.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct First;

impl First {
    /// The policy; there is nothing to set.
    pub fn new() -> Self {
        Self
    }
}

impl Policy for First {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let mut passed = Passed::default();
        for position in table.eligible_from(0) {
            match table.check(position, context) {
                Ok(()) => {
                    let backend = table.members().get(position)?.clone();
                    let pick = Pick::new(backend, "first", Reason::First { position });
                    return Some(pick.rejected(passed.into_rejected()));
                }
                Err(why) => passed.better(table, position, why),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{backend, cluster, never_picks_what_it_may_not, now};
    use crate::{Lease, Limits};

    #[test]
    fn fills_one_backend_before_it_takes_the_next() {
        let web = cluster((0..3).map(|i| backend(i).with_limits(Limits::none().max(2))));
        let mut leases = Vec::new();
        for expected in [0, 0, 1, 1, 2, 2] {
            let pick = First::new().pick(&web.table(), &PickContext::new(now())).unwrap();
            assert_eq!(pick.reason, Reason::First { position: expected });
            assert_eq!(pick.rank as usize, expected, "all before it were full");
            leases.push(Lease::new(pick.backend));
        }
        assert!(First::new().pick(&web.table(), &PickContext::new(now())).is_none());
        drop(leases.remove(0));
        let pick = First::new().pick(&web.table(), &PickContext::new(now())).unwrap();
        assert_eq!(pick.reason, Reason::First { position: 0 });
    }

    #[test]
    fn first_never_picks_what_it_may_not() {
        never_picks_what_it_may_not(First::new);
    }
}
