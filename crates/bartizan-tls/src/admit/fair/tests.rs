use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The core, with handshakes named by their order of arrival.
struct Run {
    fair: Fair<usize>,
    ids: Vec<Id>,
}

impl Run {
    fn new(slots: usize) -> Self {
        Self { fair: Fair::new(slots), ids: Vec::new() }
    }

    fn arrive(&mut self, source: u32) -> Vec<Action<usize>> {
        let mut actions = Vec::new();
        let name = self.ids.len();
        self.ids.push(self.fair.arrive(Source::V4(source), name, &mut |a| actions.push(a)));
        actions
    }

    fn leave(&mut self, name: usize) -> Vec<Action<usize>> {
        let mut actions = Vec::new();
        self.fair.leave(self.ids[name], &mut |a| actions.push(a));
        actions
    }

    fn held(&self, source: u32) -> usize {
        self.fair.sources.get(&Source::V4(source)).map_or(0, |queue| queue.holding.len())
    }

    fn is_empty(&self) -> bool {
        self.fair.sources.is_empty()
            && self.fair.holders.is_empty()
            && self.fair.waiters.is_empty()
            && (self.fair.held(), self.fair.waiting()) == (0, 0)
    }
}

use Action::{Displace, Grant};

#[test]
fn one_source_alone_uses_all_slots_and_then_waits_for_its_own() {
    let mut run = Run::new(2);
    assert_eq!(run.arrive(1), [Grant(0)]);
    assert_eq!(run.arrive(1), [Grant(1)]);
    assert_eq!(run.arrive(1), []);
    assert_eq!(run.arrive(1), []);
    assert_eq!(run.leave(1), [Grant(2)]);
    assert_eq!(run.leave(0), [Grant(3)]);
}

#[test]
fn a_source_under_its_share_takes_the_oldest_slot_of_the_one_that_holds_most() {
    let mut run = Run::new(4);
    run.arrive(1);
    for _ in 0..3 {
        run.arrive(2);
    }
    // Three sources: a share is one.
    assert_eq!(run.arrive(3), [Displace(1), Grant(4)]);
    // Two and one and one: the flood holds most still, but the third has its share.
    assert_eq!(run.arrive(3), []);
    assert_eq!((run.held(1), run.held(2), run.held(3)), (1, 2, 1));
}

#[test]
fn of_two_that_hold_most_the_one_with_the_oldest_handshake_loses_it() {
    for first in [1, 2] {
        let mut run = Run::new(4);
        for source in [first, 3 - first, first, 3 - first] {
            run.arrive(source);
        }
        assert_eq!(run.arrive(3), [Displace(0), Grant(4)]);
    }
}

#[test]
fn nobody_is_displaced_for_a_source_at_its_share() {
    let mut run = Run::new(3);
    run.arrive(1);
    run.arrive(1);
    run.arrive(2);
    // A share is one, the first source has two.
    assert_eq!(run.arrive(2), []);
    assert_eq!(run.fair.waiting(), 1);
}

#[test]
fn nobody_is_displaced_where_all_have_their_share() {
    let mut run = Run::new(2);
    run.arrive(1);
    run.arrive(2);
    assert_eq!(run.arrive(3), []);
    assert_eq!(run.leave(0), [Grant(2)]);
}

#[test]
fn a_free_slot_goes_to_who_holds_fewest_and_of_equals_to_who_waited_longest() {
    let mut run = Run::new(3);
    run.arrive(1);
    run.arrive(1);
    run.arrive(2);
    assert_eq!(run.arrive(1), []);
    assert_eq!(run.arrive(2), []);
    // The first source waits longer, but would then hold two again.
    run.arrive(1);
    assert_eq!(run.leave(2), [Grant(4)]);
    assert_eq!(run.leave(0), [Grant(3)]);

    for first in [1, 2] {
        let mut run = Run::new(2);
        run.arrive(3);
        run.arrive(4);
        run.arrive(first);
        run.arrive(3 - first);
        assert_eq!(run.leave(1), [Grant(2)]);
        assert_eq!(run.leave(0), [Grant(3)]);
    }
}

#[test]
fn a_slot_that_becomes_free_goes_to_who_is_under_its_share() {
    let mut run = Run::new(10);
    for _ in 0..10 {
        run.arrive(1);
    }
    run.arrive(2); // 10
    for source in 3..=6 {
        run.arrive(source); // 11 to 14
    }
    run.arrive(2); // 15 waits: six sources, a share is one.
    run.arrive(2);
    assert_eq!((run.held(1), run.held(2)), (5, 1));
    assert_eq!(run.leave(11), [Grant(15)]);
    assert_eq!(run.leave(12), [Grant(16)]);
    assert_eq!(run.fair.waiting(), 0);
}

#[test]
fn who_waits_is_given_all_that_a_grown_share_allows() {
    let mut run = Run::new(10);
    for _ in 0..7 {
        run.arrive(1);
    }
    for source in [2, 2, 3, 2, 2, 2] {
        run.arrive(source);
    }
    // A share of three, of which source 2 has its own, after it took one from source 1.
    assert_eq!((run.held(1), run.held(2), run.held(3), run.fair.waiting()), (6, 3, 1, 2));
    // A share of five: one slot is free, another is taken from source 1.
    assert_eq!(run.leave(9), [Grant(11), Displace(1), Grant(12)]);
}

#[test]
fn a_displaced_handshake_leaves_nothing_when_it_ends() {
    let mut run = Run::new(2);
    run.arrive(1);
    run.arrive(1);
    assert_eq!(run.arrive(2), [Displace(0), Grant(2)]);
    assert_eq!(run.arrive(1), []);
    assert_eq!(run.leave(0), [], "its slot has gone to another");
    assert_eq!(run.fair.held(), 2);
    for name in [1, 2, 3] {
        run.leave(name);
    }
    assert!(run.is_empty());
}

#[test]
fn giving_up_leaves_nothing_and_frees_nothing() {
    let mut run = Run::new(1);
    run.arrive(1);
    run.arrive(1);
    run.arrive(1);
    assert_eq!(run.leave(1), []);
    assert_eq!((run.fair.held(), run.fair.waiting()), (1, 1));
    assert_eq!(run.leave(1), [], "it leaves once");
    assert_eq!((run.fair.held(), run.fair.waiting()), (1, 1));
    assert_eq!(run.leave(0), [Grant(2)]);
    run.leave(2);
    assert!(run.is_empty());
}

#[test]
fn addresses_of_one_subscriber_are_one_source() {
    let source = |address: &str| Source::from(address.parse::<IpAddr>().unwrap());
    assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
    assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
    assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
    assert_ne!(source("0.0.0.1"), source("0:0:0:1::"));
}

/// The same rules, by looking at all handshakes each time.
#[derive(Default)]
struct Model {
    slots: usize,
    /// Name, source, and whether it holds a slot.
    all: Vec<(usize, u32, bool)>,
}

impl Model {
    fn sources(&self) -> BTreeSet<u32> {
        self.all.iter().map(|h| h.1).collect()
    }

    fn share(&self) -> usize {
        (self.slots / self.sources().len().max(1)).max(1)
    }

    fn holding(&self, source: u32) -> usize {
        self.all.iter().filter(|h| h.1 == source && h.2).count()
    }

    /// The place of the oldest handshake of `source` that holds, or waits.
    fn first(&self, source: u32, holds: bool) -> Option<usize> {
        self.all.iter().position(|h| h.1 == source && h.2 == holds)
    }

    fn settle(&mut self) -> Vec<Action<usize>> {
        let mut actions = Vec::new();
        loop {
            let sources = self.sources();
            let next = sources.iter().filter(|s| self.first(**s, false).is_some());
            let next = next.min_by_key(|s| (self.holding(**s), self.first(**s, false)));
            let Some(&next) = next else { return actions };
            if self.all.iter().filter(|h| h.2).count() == self.slots {
                let most = sources.iter().filter(|s| self.first(**s, true).is_some());
                let most = most.max_by_key(|s| (self.holding(**s), Reverse(self.first(**s, true))));
                let most = *most.unwrap();
                if self.holding(next) >= self.share() || self.holding(most) <= self.share() {
                    return actions;
                }
                let place = self.first(most, true).unwrap();
                actions.push(Displace(self.all.remove(place).0));
            }
            let place = self.first(next, false).unwrap();
            self.all[place].2 = true;
            actions.push(Grant(self.all[place].0));
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_arrivals_and_ends_goes_by_the_rules(
        slots in 1..12_usize,
        // A source arrives, or one of all that ever arrived ends.
        steps in vec(prop_oneof![
            3 => (0..6_u32).prop_map(Ok),
            2 => any::<prop::sample::Index>().prop_map(Err),
        ], 1..120),
    ) {
        let mut run = Run::new(slots);
        let mut model = Model { slots, ..Model::default() };
        for step in steps {
            let actions = match step {
                Ok(source) => {
                    model.all.push((run.ids.len(), source, false));
                    run.arrive(source)
                }
                Err(_) if run.ids.is_empty() => continue,
                Err(index) => {
                    let name = index.index(run.ids.len());
                    model.all.retain(|h| h.0 != name);
                    run.leave(name)
                }
            };
            prop_assert_eq!(actions, model.settle());

            let (held, waiting) = (run.fair.held(), run.fair.waiting());
            prop_assert!(held <= slots);
            prop_assert!(held == slots || waiting == 0, "one waits while a slot is free");
            prop_assert_eq!(held, model.all.iter().filter(|h| h.2).count());
            prop_assert_eq!(held + waiting, model.all.len());
            let share = model.share();
            let over = model.sources().iter().any(|s| model.holding(*s) > share);
            let under = model.all.iter().any(|h| !h.2 && model.holding(h.1) < share);
            prop_assert!(!(over && under), "one has more than its share, one waits with less");
        }
        let unique: BTreeSet<Id> = run.ids.iter().copied().collect();
        prop_assert_eq!(unique.len(), run.ids.len());
        for name in 0..run.ids.len() {
            run.leave(name);
        }
        prop_assert!(run.is_empty());
    }
}
