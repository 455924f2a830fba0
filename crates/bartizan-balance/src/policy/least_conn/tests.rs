use proptest::prelude::*;

use super::tree::{OUT, Tree};
use super::*;
use crate::policy::tests::{backend, cluster, never_picks_what_it_may_not, now, picks, weighed};
use crate::{Cluster, Lease, Limits};

/// HAProxy's tree, as a list: by key, and those of one key in the order in which they came.
struct Model {
    queue: Vec<(u32, usize)>,
}

impl Model {
    fn new(web: &Cluster) -> Self {
        let mut model = Self { queue: Vec::new() };
        (0..web.table().members().len()).for_each(|i| model.requeue(web, i, true));
        model
    }

    /// Moves a backend to where it belongs; if its key is the same, only if `always`.
    fn requeue(&mut self, web: &Cluster, i: usize, always: bool) {
        let table = web.table();
        let (served, weight) = (table.members()[i].in_flight() as u64, u64::from(table.share(i)));
        let key = if served == 0 { 0 } else { ((served + 1) * 4096 / weight.max(1)) as u32 };
        if !always && self.queue.contains(&(key, i)) {
            return;
        }
        self.queue.retain(|(_, other)| *other != i);
        if table.is_eligible(i) {
            self.queue.insert(self.queue.partition_point(|(other, _)| *other <= key), (key, i));
        }
    }

    fn pick(&self, web: &Cluster, tried: &[crate::BackendId]) -> Option<usize> {
        let (table, context) = (web.table(), PickContext::new(now()).tried(tried));
        self.queue.iter().map(|(_, i)| *i).find(|i| table.check(*i, &context).is_ok())
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Pick { tried: Option<usize> },
    Release(usize),
    Up(usize, bool),
    Weight(usize, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::option::weighted(0.2, 0..9_usize).prop_map(|tried| Step::Pick { tried }),
        4 => (0..30_usize).prop_map(Step::Release),
        1 => (0..9_usize, any::<bool>()).prop_map(|(i, up)| Step::Up(i, up)),
        1 => (0..9_usize, 0..6_u16).prop_map(|(i, weight)| Step::Weight(i, weight)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_is_that_of_haproxy(
        members in prop::collection::vec((0..6_u16, 0..4_u32), 1..9),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let web = cluster(members.iter().enumerate().map(|(i, (weight, max))| {
            backend(i).with_weight(*weight).with_limits(Limits::none().max(*max))
        }));
        let (policy, mut model, mut leases) = (LeastConn::new(), Model::new(&web), Vec::new());
        let (observer, all) = (policy.observer().unwrap(), web.table().members().clone());
        let prepare = policy.preparation().unwrap();
        prepare.prepare(&web.table());
        for step in steps {
            match step {
                Step::Pick { tried } => {
                    let tried: Vec<_> = tried.iter().map(|i| all[i % all.len()].id()).collect();
                    let context = PickContext::new(now()).tried(&tried);
                    let pick = policy.pick(&web.table(), &context);
                    let position = pick.and_then(|pick| web.table().position(pick.backend.id()));
                    prop_assert_eq!(position, model.pick(&web, &tried));
                    let Some(i) = position else { continue };
                    leases.push((i, Lease::new(all[i].clone())));
                    observer.more(&all[i]);
                    model.requeue(&web, i, false);
                }
                Step::Release(lease) => {
                    if lease < leases.len() {
                        let (i, lease) = leases.remove(lease);
                        drop(lease);
                        observer.less(&all[i]);
                        model.requeue(&web, i, false);
                    }
                }
                Step::Up(i, up) => {
                    if web.set_up(&all[i % all.len()], up) {
                        model.requeue(&web, i % all.len(), true);
                    }
                }
                Step::Weight(i, weight) => {
                    let i = i % all.len();
                    if all[i].weight() != weight {
                        web.update(|change| change.set_weight(all[i].name(), weight)).unwrap();
                        model.requeue(&web, i, true);
                    }
                }
            }
            prepare.prepare(&web.table());
        }
    }

    #[test]
    fn the_least_of_the_tree_is_the_least_of_its_leaves(
        len in 1_usize..20,
        changes in prop::collection::vec((0_usize..20, prop::option::of(0_u32..4)), 0..60),
        number in prop_oneof![Just(0), Just(u32::MAX / 2 - 20)],
    ) {
        let mut tree = Tree::new(len);
        tree.set_number(number);
        let mut queue: Vec<(u32, usize)> = Vec::new();
        for (position, key) in changes {
            let position = position % len;
            queue.retain(|(_, other)| *other != position);
            tree.renumber();
            match key {
                Some(key) => {
                    let at = queue.partition_point(|(other, _)| *other <= key);
                    queue.insert(at, (key, position));
                    tree.queue(position, key);
                }
                None => tree.put(position, OUT),
            }
            prop_assert_eq!(tree.least(), queue.first().map(|(_, position)| *position));
        }
    }
}

#[test]
fn numbers_start_again_before_they_run_out() {
    let mut tree = Tree::new(3);
    tree.set_number(u32::MAX - 3);
    [2, 0, 1].into_iter().for_each(|position| tree.queue(position, 7));
    tree.renumber();
    tree.queue(2, 7);
    assert_eq!((tree.least(), tree.leaf(0)), (Some(0), 7 << 32 | 1));
}

#[test]
fn least_conn_never_picks_what_it_may_not() {
    never_picks_what_it_may_not(LeastConn::new);
}

#[test]
fn those_who_pick_at_once_choose_differently() {
    let (web, policy) = (weighed(&[1, 1, 1]), LeastConn::new());
    let clone = policy.clone();
    // Nobody has a lease yet.
    assert_eq!(picks(&policy, &web, 2), [0, 1]);
    assert_eq!(picks(&clone, &web, 2), [2, 0], "a clone knows");
}

#[test]
fn what_somebody_else_sends_is_noticed() {
    let (web, policy) = (weighed(&[1, 1]), LeastConn::new());
    policy.preparation().unwrap().prepare(&web.table());
    let _silent = Lease::new(web.table().members()[0].clone());
    let pick = policy.pick(&web.table(), &PickContext::new(now())).unwrap();
    assert_eq!(pick.reason, Reason::Least { load: 0, weight: 16 });
    assert_eq!(&**pick.backend.name(), "b1");
}

#[test]
fn an_old_table_is_served_by_what_is_known_of_a_newer_one() {
    let (web, policy) = (weighed(&[1, 1]), LeastConn::new());
    let old = Table::clone(&web.table());
    web.set_up(&old.members()[0], false);
    policy.preparation().unwrap().prepare(&web.table());
    let pick = policy.pick(&old, &PickContext::new(now())).unwrap();
    assert_eq!(&**pick.backend.name(), "b1");
    assert!(!web.table().is_eligible(0));
}

#[test]
fn who_stays_in_a_cluster_keeps_the_place_in_the_order() {
    let (web, policy) = (weighed(&[1, 1, 1]), LeastConn::new());
    let observer = policy.observer().unwrap();
    let leases: Vec<_> = [0, 1].map(|i| Lease::new(web.table().members()[i].clone())).into();
    assert_eq!(picks(&policy, &web, 1), [2]);
    for lease in leases.into_iter().rev() {
        let backend = lease.backend().clone();
        drop(lease);
        observer.less(&backend);
    }
    // Now 1 came before 0.
    web.update(|change| change.add(backend(3))).unwrap();
    assert_eq!(picks(&policy, &web, 4), [1, 0, 2, 3]);
}

#[test]
fn what_was_tried_and_would_have_been_chosen_is_told() {
    let (web, policy) = (weighed(&[1, 1]), LeastConn::new());
    let tried = [web.table().members()[0].id(); 2];
    let pick = policy.pick(&web.table(), &PickContext::new(now()).tried(&tried)).unwrap();
    assert_eq!((pick.rank, &**pick.backend.name()), (1, "b1"));
    assert_eq!(picks(&policy, &web, 1), [0], "it is back in its place");
}
