use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use twox_hash::XxHash3_64;

use super::*;
use crate::policy::tests::never_picks_but_the_full;
use crate::{
    Backend, BackendId, Cluster, ClusterBuilder, Key, KeyOf, Lease, Limits, PickContext, Policy,
    Reason, SlowStart, Table, Why, key_fn,
};

/// Each kind of policy, small enough to be made often.
fn policies() -> [(&'static str, Box<dyn Policy>); 5] {
    [
        ("ring", Box::new(RingHash::new())),
        ("ketama", Box::new(RingHash::ketama())),
        ("maglev", Box::new(Maglev::new())),
        ("rendezvous", Box::new(Rendezvous::new())),
        ("tree", Box::new(Rendezvous::tree())),
    ]
}

fn bounded(factor: BalanceFactor) -> [(&'static str, Box<dyn Policy>); 5] {
    [
        ("ring", Box::new(RingHash::new().bounded(factor))),
        ("ketama", Box::new(RingHash::ketama().bounded(factor))),
        ("maglev", Box::new(Maglev::new().bounded(factor))),
        ("rendezvous", Box::new(Rendezvous::new().bounded(factor))),
        ("tree", Box::new(Rendezvous::tree().bounded(factor))),
    ]
}

fn backend(i: usize, weight: u16) -> Backend {
    Backend::new(format!("web{i}"), "127.0.0.1:1".parse().unwrap()).with_weight(weight)
}

fn builder(weights: &[u16]) -> ClusterBuilder {
    let backends = weights.iter().enumerate().map(|(i, weight)| backend(i, *weight));
    backends.fold(Cluster::builder("web"), |web, backend| web.add(backend))
}

fn cluster(weights: &[u16]) -> Cluster {
    builder(weights).build().unwrap()
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn hash(key: usize) -> u64 {
    XxHash3_64::oneshot(format!("key{key}").as_bytes())
}

fn pick(policy: &dyn Policy, table: &Table, hash: u64) -> Option<Arc<Backend>> {
    Some(policy.pick(table, &PickContext::new(now()).hash(Some(hash)))?.backend)
}

/// The names that the first `keys` keys lead to.
fn mapping(policy: &dyn Policy, cluster: &Cluster, keys: usize) -> Vec<Arc<str>> {
    let table = cluster.table();
    let name = |key| Arc::clone(pick(policy, &table, hash(key)).unwrap().name());
    (0..keys).map(name).collect()
}

/// A key's order of preference, found out by having one backend after the other fail.
fn order(policy: &dyn Policy, table: &Table, hash: u64) -> Vec<BackendId> {
    let mut tried = Vec::new();
    let context = PickContext::new(now()).hash(Some(hash));
    while let Some(pick) = policy.pick(table, &context.tried(&tried)) {
        tried.push(pick.backend.id());
    }
    tried
}

fn numbers(names: &[Arc<str>]) -> Vec<usize> {
    names.iter().map(|name| name["web".len()..].parse().unwrap()).collect()
}

#[test]
fn the_same_names_and_weights_map_alike_everywhere() {
    // By a program in Python that follows the definitions, with its own XXH3. For the ring:
    //
    //     points = sorted((splitmix64(xxh3_64(name), i) % 2**32, name)
    //                     for name, w in weights for i in range(160 * w))
    //     next((name for at, name in points if at >= xxh3_64(key) % 2**32), points[0][1])
    let expected = [
        ("ring", [5, 5, 0, 2, 5, 2, 5, 4, 0, 0, 2, 3]),
        ("maglev", [4, 2, 4, 6, 1, 0, 0, 5, 5, 0, 2, 2]),
        ("rendezvous", [2, 6, 2, 5, 5, 2, 1, 5, 2, 5, 2, 0]),
        ("tree", [2, 5, 4, 5, 3, 2, 1, 1, 1, 4, 3, 0]),
    ];
    let web = cluster(&[1, 2, 3, 1, 2, 3, 1]);
    for (name, policy) in policies() {
        let Some((_, expected)) = expected.iter().find(|(other, _)| *other == name) else {
            continue;
        };
        assert_eq!(numbers(&mapping(&policy, &web, 12)), expected, "{name}");
    }
}

#[test]
fn nobody_is_picked_who_may_not_whatever_happens_to_the_cluster() {
    never_picks_but_the_full(RingHash::new);
    never_picks_but_the_full(RingHash::ketama);
    never_picks_but_the_full(|| Maglev::new().entries(1_009));
    never_picks_but_the_full(Rendezvous::new);
    never_picks_but_the_full(Rendezvous::tree);
}

#[test]
fn short_names_that_hardly_differ_share_as_evenly_as_others() {
    for names in [["a", "b", "c", "d"], ["b1", "b2", "b3", "b4"], ["b11", "b12", "b13", "b14"]] {
        let web = names
            .iter()
            .fold(Cluster::builder("web"), |web, name| web.backend(name, "127.0.0.1:1"));
        let web = web.build().unwrap();
        for (name, policy) in policies() {
            let keys = mapping(&policy, &web, 4_000);
            for backend in names {
                let count = keys.iter().filter(|name| ***name == *backend).count();
                assert!((700..1_300).contains(&count), "{name}: {backend} of {names:?}: {count}");
            }
        }
    }
}

#[test]
fn ketama_finds_the_servers_that_libketama_finds() {
    // By a program in Python that follows libketama's source:
    //
    //     for name, w in weights:
    //         for i in range(int(float32(float32(w) / float32(13)) * 40.0 * 7)):
    //             d = md5(f"{name}-{i}")
    //             points += [(int.from_bytes(d[j:j + 4], "little"), name) for j in (0, 4, 8, 12)]
    //     h = int.from_bytes(md5(key)[:4], "little")
    //     next((name for at, name in sorted(points) if at >= h), min(points)[1])
    let web = cluster(&[1, 2, 3, 1, 2, 3, 1]);
    let table = web.table();
    let key = KetamaKey::new(key_fn(|key: &String| Some(Key::Bytes(key.as_bytes().into()))));
    let policy = RingHash::ketama();
    let found = (0..12).map(|i| {
        let hash = KeyOf::hash(&key, &format!("key{i}")).unwrap();
        Arc::clone(pick(&policy, &table, hash).unwrap().name())
    });
    let expected = [0, 5, 2, 4, 6, 5, 5, 4, 5, 0, 4, 5];
    assert_eq!(numbers(&found.collect::<Vec<_>>()), expected);
}

#[test]
fn ketama_hashes_addresses_as_texts() {
    let text = KetamaKey::new(key_fn(|_: &()| Some(Key::Bytes(b"192.0.2.7".into()))));
    let ip = KetamaKey::new(key_fn(|_: &()| Some(Key::Ip([192, 0, 2, 7].into()))));
    // MD5 of "192.0.2.7" begins with these bytes, from the end.
    assert_eq!(KeyOf::hash(&ip, &()), KeyOf::hash(&text, &()));
    assert_eq!(KeyOf::hash(&KetamaKey::new(key_fn(|_: &()| None)), &()), None);
}

#[test]
fn the_order_in_which_backends_were_added_does_not_matter() {
    let web = cluster(&[1, 2, 3, 1, 2, 3, 1]);
    let turned = cluster(&[1, 2, 3, 1, 2, 3, 1]);
    turned.update(|change| change.members_mut().reverse()).unwrap();
    for (name, policy) in policies() {
        assert_eq!(mapping(&policy, &web, 300), mapping(&policy, &turned, 300), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_flip_moves_the_keys_of_who_flipped_and_no_others(
        backends in prop::collection::vec((0_u16..4, any::<bool>()), 2..16),
        flips in any::<prop::sample::Index>(),
    ) {
        let weights: Vec<_> = backends.iter().map(|(weight, _)| *weight).collect();
        let web = cluster(&weights);
        let members = Arc::clone(web.table().members());
        for (member, (_, up)) in members.iter().zip(&backends) {
            web.set_up(member, *up);
        }
        let flips = flips.get(&members);
        web.set_up(flips, true);
        prop_assume!(web.table().eligible_count() > usize::from(flips.weight() > 0));
        for (name, policy) in policies() {
            let with = mapping(&policy, &web, 100);
            web.set_up(flips, false);
            let without = mapping(&policy, &web, 100);
            web.set_up(flips, true);
            for (with, without) in with.iter().zip(&without) {
                prop_assert_ne!(without, flips.name(), "{}", name);
                prop_assert!(with == without || with == flips.name(), "{}: {} to {}", name, with, without);
            }
            prop_assert_eq!(mapping(&policy, &web, 100), with, "{}", name);
        }
    }

    #[test]
    fn what_is_picked_may_be_picked_and_nothing_is_only_if_nothing_may(
        backends in prop::collection::vec((0_u16..3, any::<bool>(), any::<bool>(), 0_usize..3), 0..12),
        key in 0_usize..1_000,
    ) {
        let weights: Vec<_> = backends.iter().map(|(weight, ..)| *weight).collect();
        let web = cluster(&weights);
        let members = Arc::clone(web.table().members());
        let mut tried = Vec::new();
        let mut leases = Vec::new();
        for (member, (_, up, fails, load)) in members.iter().zip(&backends) {
            web.set_up(member, *up);
            tried.extend(fails.then_some(member.id()));
            leases.extend((0..*load).map(|_| Lease::new(Arc::clone(member))));
        }
        let table = web.table();
        let may: HashSet<_> = (0..members.len())
            .filter(|position| table.is_eligible(*position))
            .map(|position| members[position].id())
            .filter(|id| !tried.contains(id))
            .collect();
        let context = PickContext::new(now()).hash(Some(hash(key))).tried(&tried);
        // Nobody tells the bound of the leases, so that all backends are over it.
        for (name, policy) in policies().into_iter().chain(bounded(BalanceFactor::percent(125))) {
            let picked = policy.pick(&table, &context).map(|pick| pick.backend.id());
            prop_assert_eq!(picked.is_some(), !may.is_empty(), "{}", name);
            prop_assert!(picked.is_none_or(|id| may.contains(&id)), "{}", name);
        }
    }
}

#[test]
fn a_backend_that_leaves_or_comes_moves_only_its_own_keys() {
    let web = cluster(&[2; 40]);
    let policies: [(_, Box<dyn Policy>); 3] = [
        ("ring", Box::new(RingHash::new())),
        ("ketama", Box::new(RingHash::ketama())),
        ("rendezvous", Box::new(Rendezvous::new())),
    ];
    let with = policies.each_ref().map(|(_, policy)| mapping(policy, &web, 2_000));
    web.update(|change| change.remove("web7")).unwrap();
    for ((name, policy), with) in policies.iter().zip(with) {
        let without = mapping(policy, &web, 2_000);
        let moved = with.iter().zip(&without).filter(|(with, without)| with != without);
        assert!(moved.clone().all(|(with, _)| &**with == "web7"), "{name}");
        assert!((25..80).contains(&moved.count()), "{name}");
    }
}

#[test]
fn maglev_and_the_tree_move_few_keys_more_than_that() {
    let web = cluster(&[2; 64]);
    let policies: [(_, Box<dyn Policy>, _); 2] = [
        ("maglev", Box::new(Maglev::new()), 1.0..2.0),
        ("tree", Box::new(Rendezvous::tree()), 2.0..5.0),
    ];
    let keys = 6_400;
    let with = policies.each_ref().map(|(_, policy, _)| mapping(policy, &web, keys));
    web.update(|change| change.remove("web7")).unwrap();
    for ((name, policy, factor), with) in policies.iter().zip(with) {
        let without = mapping(policy, &web, keys);
        let moved = with.iter().zip(&without).filter(|(with, without)| with != without).count();
        // The least possible is the share of the one that left.
        let least = with.iter().filter(|name| &***name == "web7").count();
        let measured = moved as f64 / least as f64;
        assert!(factor.contains(&measured), "{name}: {measured} times the least possible");
    }
}

#[test]
fn a_weight_that_grows_takes_keys_and_moves_none_between_others() {
    let web = cluster(&[4; 20]);
    let policies: [(_, Box<dyn Policy>); 2] =
        [("ring", Box::new(RingHash::new())), ("rendezvous", Box::new(Rendezvous::new()))];
    let before = policies.each_ref().map(|(_, policy)| mapping(policy, &web, 1_000));
    web.update(|change| change.set_weight("web3", 8)).unwrap();
    for ((name, policy), before) in policies.iter().zip(before) {
        let after = mapping(policy, &web, 1_000);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        assert!(moved.clone().all(|(_, after)| &**after == "web3"), "{name}");
        assert!((25..75).contains(&moved.count()), "{name}");
    }
}

#[test]
fn shares_are_those_of_the_weights() {
    let weights = [1, 2, 0, 4, 9];
    let web = cluster(&weights);
    for (name, policy) in policies() {
        let mut counts = [0_u32; 5];
        let keys = 8_000;
        numbers(&mapping(&policy, &web, keys)).iter().for_each(|i| counts[*i] += 1);
        for (count, weight) in counts.iter().zip(weights) {
            let expected = keys as f64 * f64::from(weight) / 16.0;
            let off = (f64::from(*count) - expected).abs() / expected.max(1.0);
            // What chance does to 100 points, and to 500 keys.
            let tolerance = if matches!(name, "ring" | "ketama") { 0.25 } else { 0.12 };
            assert!(off < tolerance, "{name}: {count} for a weight of {weight}, not {expected}");
        }
    }
}

#[test]
fn full_backends_are_picked_because_their_keys_wait_for_them() {
    let full = |i| backend(i, 1).with_limits(Limits::none().max(1));
    let web = Cluster::builder("web").add(full(0)).add(full(1)).build().unwrap();
    let _leases: Vec<_> = web.table().members().iter().cloned().map(Lease::new).collect();
    for (name, policy) in policies() {
        assert_eq!(HashSet::<_>::from_iter(mapping(&policy, &web, 50)).len(), 2, "{name}");
        let without_key = policy.pick(&web.table(), &PickContext::new(now()));
        assert!(without_key.is_none(), "{name}: without a key, it waits for whoever is free");
    }
}

#[test]
fn requests_without_a_key_take_turns() {
    let web = cluster(&[1; 3]);
    for (name, policy) in policies() {
        for position in [0, 1, 2, 0] {
            let pick = policy.pick(&web.table(), &PickContext::new(now())).unwrap();
            assert_eq!(pick.reason, Reason::Turn { position }, "{name}");
        }
    }
}

#[test]
fn tells_who_was_passed_over_and_why() {
    let web = cluster(&[1; 5]);
    let factor = BalanceFactor::percent(125);
    for ((name, policy), (_, unbounded)) in bounded(factor).into_iter().zip(policies()) {
        let table = web.table();
        let (order, hash) = (order(&unbounded, &table, hash(1)), hash(1));
        let member = |nth: usize| &table.members()[table.position(order[nth]).unwrap()];
        web.set_up(member(0), false);
        let _lease = Lease::new(Arc::clone(member(2)));
        let tried = [order[1]];
        let context = PickContext::new(now()).hash(Some(hash)).tried(&tried);
        let pick = policy.pick(&web.table(), &context).unwrap();
        assert_eq!(pick.backend.id(), order[3], "{name}");
        assert_eq!((pick.rank, pick.reason), (3, Reason::Key { hash }), "{name}");
        let whys: Vec<_> = pick.rejected.iter().map(|r| (r.backend, r.why)).collect();
        let expected = [Why::Ineligible, Why::Tried, Why::OverBound];
        assert_eq!(whys, order.iter().copied().zip(expected).collect::<Vec<_>>(), "{name}");
        let known = if name == "ketama" { "ring" } else { name };
        assert_eq!(pick.policy, if name == "tree" { "rendezvous" } else { known });
        web.set_up(member(0), true);
    }
}

#[test]
fn the_order_is_one_even_where_it_is_cut_short() {
    let web = cluster(&[1; 150]);
    let members = Arc::clone(web.table().members());
    for (name, policy) in policies() {
        let order = order(&policy, &web.table(), hash(5));
        assert_eq!(HashSet::<_>::from_iter(&order).len(), 150, "{name}: all, once each");
        // All others go down at once, where before one failed after the other.
        for last in [3, 70, 149] {
            let id = order[last];
            members.iter().for_each(|member| _ = web.set_up(member, member.id() == id));
            let pick = policy.pick(&web.table(), &PickContext::new(now()).hash(Some(hash(5))));
            let pick = pick.unwrap();
            assert_eq!((pick.backend.id(), pick.rank as usize), (id, last), "{name}");
            assert_eq!(pick.rejected.count() as usize, last, "{name}");
        }
        members.iter().for_each(|member| _ = web.set_up(member, true));
    }
}

/// HAProxy's rule with its own arithmetic: whether a server may have one more.
fn haproxy_is_eligible(table: &Table, position: usize, served: usize, factor: u32) -> bool {
    let weight = |p: usize| table.share(p) as usize;
    let usable = |p: &usize| table.is_eligible(*p);
    let total: usize = (0..table.members().len()).filter(usable).map(weight).sum();
    let before: usize = (0..position).filter(usable).map(weight).sum();
    let slots_total = ((served + 1) * factor as usize).div_ceil(100);
    let (each, rest) = (slots_total / total, slots_total % total);
    let slots = weight(position) * each + (before + weight(position)) * rest / total
        - before * rest / total;
    table.members()[position].in_flight() < slots.max(1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn bounded_loads_follow_haproxys_rule_over_any_sequence(
        weights in prop::collection::vec(1_u16..5, 2..7),
        factor in 101_u16..300,
        steps in prop::collection::vec((0_usize..6, any::<prop::sample::Index>(), 0_u8..8), 60),
    ) {
        let web = cluster(&weights);
        let bounded = bounded(BalanceFactor::percent(factor)).into_iter();
        for ((name, policy), (_, unbounded)) in bounded.zip(policies()) {
            let observer = policy.observer().unwrap();
            let mut leases = Vec::new();
            for (key, any, what) in &steps {
                // A few keys, so that some are hot; a flip now and then; and what ends.
                if *what == 0 && !leases.is_empty() {
                    let lease: Lease = leases.swap_remove(any.index(leases.len()));
                    observer.finished(lease.backend());
                    continue;
                }
                let member = Arc::clone(any.get(web.table().members()));
                if *what == 1 && (!member.is_up() || web.table().eligible_count() > 1) {
                    web.set_up(&member, !member.is_up());
                }
                let table = web.table();
                let mut order = order(&unbounded, &table, hash(*key)).into_iter();
                let takes = |id: &BackendId| {
                    let position = table.position(*id).unwrap();
                    haproxy_is_eligible(&table, position, leases.len(), factor.into())
                };
                let expected = order.find(takes);
                let picked = pick(&policy, &table, hash(*key)).unwrap();
                prop_assert_eq!(Some(picked.id()), expected, "{}", name);
                observer.more(&picked);
                observer.started(&picked);
                leases.push(Lease::new(picked));
            }
            drop(leases);
            web.table().members().iter().for_each(|member| _ = web.set_up(member, true));
        }
    }
}

#[test]
fn no_backend_gets_more_than_its_bound_of_one_hot_key() {
    let web = cluster(&[1, 1, 2]);
    for (name, policy) in bounded(BalanceFactor::percent(150)) {
        let observer = policy.observer().unwrap();
        let mut leases = Vec::new();
        for n in 1..=400 {
            let backend = pick(&policy, &web.table(), hash(1)).unwrap();
            observer.started(&backend);
            leases.push(Lease::new(Arc::clone(&backend)));
            let fair = f64::from(n) * f64::from(backend.weight()) / 4.0;
            let most = (1.5 * fair).ceil() + 1.0;
            assert!(backend.in_flight() as f64 <= most, "{name}: {n} in all, {backend:?}");
        }
        let home = leases.iter().filter(|lease| lease.backend().in_flight() >= 149).count();
        assert!(home > 0, "{name}: the key stays at home as far as the bound allows");
        drop(leases);
    }
}

#[test]
fn what_ends_before_anybody_counted_leaves_a_slot_to_everybody() {
    let web = cluster(&[1; 2]);
    let policy = RingHash::new().bounded(BalanceFactor::percent(125));
    policy.observer().unwrap().finished(&web.table().members()[0]);
    assert_eq!(mapping(&policy, &web, 50), mapping(&RingHash::new(), &web, 50));
}

#[test]
fn factors_are_in_range_whatever_is_asked_for() {
    for (asked, got) in
        [(0, 101), (100, 101), (101, 101), (125, 125), (1_000, 1_000), (9_999, 1_000)]
    {
        assert_eq!(BalanceFactor::percent(asked).get(), got);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_start_gives_keys_back_by_degrees_and_moves_no_others() {
    let ramp = SlowStart::new(Duration::from_secs(100));
    let web = builder(&[16; 6]).slow_start(ramp).build().unwrap();
    let back = Arc::clone(&web.table().members()[2]);
    let keys = 1_200;
    for (name, policy) in policies() {
        let home = mapping(&policy, &web, keys);
        web.set_up(&back, false);
        let away = mapping(&policy, &web, keys);
        web.set_up(&back, true);
        let mut returned = HashSet::new();
        let mut shares = Vec::new();
        for _ in 0..11 {
            web.step(now());
            let here = mapping(&policy, &web, keys);
            for key in 0..keys {
                let is_home = here[key] == home[key];
                assert!(is_home || here[key] == away[key], "{name}: neither here nor there");
                assert!(is_home || !returned.contains(&key), "{name}: away again");
                if is_home && home[key] == *back.name() {
                    returned.insert(key);
                }
            }
            shares.push(returned.len());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        let own = home.iter().filter(|name| *name == back.name()).count();
        assert_eq!(shares[10], own, "{name}: all are back");
        let half = shares[5] as f64 / own as f64;
        assert!(
            shares[0] < own / 10 && (0.35..0.65).contains(&half),
            "{name}: {shares:?} of {own}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_all_refuse_go_to_the_first_that_may_take_them() {
    let ramp = SlowStart::new(Duration::from_secs(100));
    let web = builder(&[16; 4]).slow_start(ramp).build().unwrap();
    let homes = policies().map(|(_, policy)| mapping(&policy, &web, 50));
    for member in Arc::clone(web.table().members()).iter() {
        web.set_up(member, false);
        web.set_up(member, true);
    }
    for ((name, policy), home) in policies().into_iter().zip(homes) {
        let table = web.table();
        for (key, home) in home.iter().enumerate() {
            let pick = policy.pick(&table, &PickContext::new(now()).hash(Some(hash(key)))).unwrap();
            let warming = pick.rejected.iter().all(|rejection| rejection.why == Why::Warming);
            assert!(warming && (pick.rank > 0 || pick.backend.name() == home), "{name}: {pick}");
        }
    }
}

#[test]
fn indexes_are_made_before_tables_are_published_and_not_for_changes_of_health() {
    let web = cluster(&[1; 3]);
    let indexes = Arc::new(index::Indexes::new(Probe::default()));
    let preparation: Arc<dyn crate::Prepare> = Arc::clone(&indexes) as _;
    web.prepare(&preparation);
    assert_eq!(indexes.maker().made(), 1);
    let a = Arc::clone(&web.table().members()[0]);
    web.set_up(&a, false);
    indexes.for_table(&web.table());
    assert_eq!(indexes.maker().made(), 1, "a flip");
    let before = web.table();
    web.update(|change| change.set_weight("web1", 2)).unwrap();
    assert_eq!(indexes.maker().made(), 2, "a weight");
    indexes.for_table(&web.table());
    indexes.for_table(&before);
    assert_eq!(indexes.maker().made(), 2, "a reader that has the table before");
    web.update(|change| change.remove("web2")).unwrap();
    assert_eq!(indexes.maker().made(), 3, "members");
    // Another cluster's table has the same numbers.
    let other = cluster(&[1; 3]);
    other.update(|change| change.set_weight("web1", 2)).unwrap();
    other.update(|change| change.remove("web2")).unwrap();
    assert_eq!(other.table().weighing(), web.table().weighing());
    indexes.for_table(&other.table());
    assert_eq!(indexes.maker().made(), 4, "another cluster");
}

#[test]
fn a_reader_with_an_old_table_gets_what_that_has() {
    let web = cluster(&[1; 6]);
    for (name, policy) in policies() {
        web.prepare(&policy.preparation().unwrap());
        let old = web.table();
        let first = mapping(&policy, &web, 40);
        for _ in 0..3 {
            web.update(|change| change.members_mut().rotate_left(1)).unwrap();
            let again: Vec<_> = (0..40)
                .map(|key| Arc::clone(pick(&policy, &old, hash(key)).unwrap().name()))
                .collect();
            assert_eq!(again, first, "{name}");
        }
    }
}

#[test]
fn clones_share_indexes_and_counts() {
    let web = cluster(&[1; 3]);
    let policy = Maglev::new().entries(1).bounded(BalanceFactor::percent(125));
    let clone = policy.clone();
    assert_eq!(clone.memory(), 0);
    pick(&policy, &web.table(), 1);
    assert!(clone.memory() >= 65_537 * 4);
    let ends = |policy: &Maglev| Arc::as_ptr(&policy.observer().unwrap()).cast::<()>();
    assert_eq!(ends(&policy), ends(&clone));
    assert!(RingHash::new().observer().is_none(), "nothing to count without a bound");
}

#[test]
fn the_number_of_points_can_be_set_except_for_ketama() {
    let web = cluster(&[1; 4]);
    let memory = |policy: RingHash| {
        pick(&policy, &web.table(), 1);
        policy.memory()
    };
    assert!(memory(RingHash::new().points(320)) > memory(RingHash::new()));
    assert_eq!(memory(RingHash::ketama().points(320)), memory(RingHash::ketama()));
}

/// Counts how many indexes it makes.
#[derive(Debug, Default)]
struct Probe(AtomicUsize);

impl Probe {
    fn made(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl index::Make for Probe {
    type Index = Nothing;

    fn make(&self, _: &[index::Entry<'_>]) -> Nothing {
        self.0.fetch_add(1, Ordering::Relaxed);
        Nothing
    }
}

#[derive(Debug)]
struct Nothing;

impl index::Index for Nothing {
    fn preferred(&self, _: u64) -> impl Iterator<Item = usize> {
        std::iter::empty()
    }

    fn bytes(&self) -> usize {
        0
    }
}
