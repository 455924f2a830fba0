use proptest::prelude::*;

use super::*;
use crate::policy::tests::{
    backend, cluster, counts, never_picks_what_it_may_not, now, picks, weighed,
};
use crate::{Lease, Limits};

#[test]
fn takes_turns_from_where_it_starts() {
    let web = weighed(&[1; 3]);
    assert_eq!(picks(&RoundRobin::starting_at(5), &web, 4), [2, 0, 1, 2]);
}

#[test]
fn heavy_backends_have_their_turns_spread_out() {
    assert_eq!(picks(&RoundRobin::new(), &weighed(&[5, 1, 1]), 7), [0, 1, 0, 0, 0, 2, 0]);
}

#[test]
fn workers_start_at_different_places_with_weights_too() {
    let web = weighed(&[2, 1, 2, 1]);
    let starts: Vec<_> =
        (0..3).map(|worker| picks(&RoundRobin::starting_at(worker), &web, 4)).collect();
    assert!(
        starts[0] != starts[1] && starts[1] != starts[2] && starts[0] != starts[2],
        "{starts:?}"
    );
}

#[test]
fn passes_over_what_was_tried() {
    let (web, policy) = (weighed(&[1, 1]), RoundRobin::new());
    let tried = [web.table().members()[0].id()];
    let again = PickContext::new(now()).tried(&tried);
    for _ in 0..3 {
        let pick = policy.pick(&web.table(), &again).unwrap();
        assert_eq!(pick.reason, Reason::Turn { position: 1 });
    }
}

#[test]
fn has_nothing_to_pick_in_an_empty_or_dead_cluster() {
    let none = |web| RoundRobin::new().pick(&web, &PickContext::new(now())).is_none();
    assert!(none(Table::clone(&cluster([]).table())));
    assert!(none(Table::clone(&weighed(&[0, 0]).table())));
}

#[test]
fn round_robin_never_picks_what_it_may_not() {
    never_picks_what_it_may_not(RoundRobin::new);
}

#[test]
fn what_a_full_backend_misses_goes_to_nobody_in_particular() {
    let limits = Limits::none().max(1);
    let web = cluster([
        backend(0).with_weight(2).with_limits(limits),
        backend(1).with_weight(2),
        backend(2).with_weight(1),
        backend(3).with_weight(1),
    ]);
    let _full = Lease::new(web.table().members()[0].clone());
    let counts = counts(&picks(&RoundRobin::new(), &web, 400), 4);
    assert_eq!(counts[0], 0);
    assert!(counts[1].abs_diff(200) <= 2 && counts[2].abs_diff(100) <= 2, "{counts:?}");
}

#[test]
fn a_heavy_backend_that_was_tried_leaves_its_turns_to_all_others() {
    let (web, policy) = (weighed(&[256, 1, 1, 1]), RoundRobin::new());
    let tried = [web.table().members()[0].id()];
    let again = PickContext::new(now()).tried(&tried);
    let mut counts = [0; 4];
    for _ in 0..300 {
        let pick = policy.pick(&web.table(), &again).unwrap();
        counts[web.table().position(pick.backend.id()).unwrap()] += 1;
    }
    assert!(counts[1..].iter().all(|count| (80..=120).contains(count)), "{counts:?}");
}

#[test]
fn to_and_from_one_weight_the_turn_goes_on_where_it_was() {
    let (web, policy) = (weighed(&[1; 5]), RoundRobin::new());
    assert_eq!(picks(&policy, &web, 3), [0, 1, 2]);
    web.update(|change| change.set_weight("b0", 3)).unwrap();
    let light: Vec<_> = picks(&policy, &web, 7).into_iter().filter(|i| *i != 0).collect();
    assert_eq!(light, [3, 4, 1, 2]);
    web.update(|change| change.set_weight("b0", 1)).unwrap();
    assert_eq!(picks(&policy, &web, 3), [3, 4, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_round_gives_each_exactly_its_weight(
        weights in prop::collection::vec(0_u16..8, 1..12),
        start in 0_usize..100,
        before in 0_usize..40,
    ) {
        let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        prop_assume!(total > 0);
        let (web, policy) = (weighed(&weights), RoundRobin::starting_at(start));
        picks(&policy, &web, before);
        let counts = counts(&picks(&policy, &web, total), weights.len());
        let expected: Vec<_> = weights.iter().map(|weight| usize::from(*weight)).collect();
        prop_assert_eq!(counts, expected);
    }

    #[test]
    fn of_two_that_stay_eligible_neither_is_ever_ahead_by_more_than_one(
        weight in 1_u16..4,
        mut weights in prop::collection::vec(1_u16..4, 1..8),
        flips in prop::collection::vec((0_usize..8, any::<bool>(), 0_usize..5), 1..40),
    ) {
        // The others come and go between and around the two.
        weights.insert(0, weight);
        let second = weights.len() / 2 + 1;
        weights.insert(second, weight);
        let (web, policy) = (weighed(&weights), RoundRobin::new());
        let mut ahead = 0_isize;
        for (other, up, n) in flips {
            let members = web.table().members().clone();
            let other = other % members.len();
            if other != 0 && other != second {
                web.set_up(&members[other], up);
            }
            for picked in picks(&policy, &web, n) {
                ahead += isize::from(picked == 0) - isize::from(picked == second);
                prop_assert!((-1..=1).contains(&ahead), "{}", ahead);
            }
        }
    }
}
