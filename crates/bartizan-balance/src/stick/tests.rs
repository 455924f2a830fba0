use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::Backend;

mod sharing;
mod ties;

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn backend(name: &str) -> Arc<Backend> {
    Arc::new(Backend::new(name, "127.0.0.1:1".parse().unwrap()))
}

fn id() -> BackendId {
    backend("web1").id()
}

fn ip(i: u32) -> Key<'static> {
    Key::Ip(std::net::Ipv4Addr::from_bits(i).into())
}

fn text(key: &str) -> Key<'_> {
    Key::Bytes(key.as_bytes().into())
}

#[test]
fn a_match_refreshes_and_a_look_does_not() {
    let (table, web, start) = (StickTable::new(10, ms(100)), id(), now());
    assert!(table.is_empty());
    assert!(table.set(&ip(1), web, start));
    assert_eq!(table.get(&ip(1), start + ms(60)).unwrap().expires_in, Some(ms(40)));
    assert_eq!(table.find(&ip(1), start + ms(99)), Some(web));
    assert_eq!(table.get(&ip(1), start + ms(198)).unwrap().expires_in, Some(ms(1)));
    assert_eq!(table.find(&ip(1), start + ms(199)), None, "expired");
    assert_eq!(table.len(), 0, "found expired, it is removed");
}

#[test]
fn a_match_right_after_a_refresh_does_not_refresh_again() {
    let (table, web, start) = (StickTable::new(10, ms(4_096)), id(), now());
    table.set(&ip(1), web, start);
    let soon = start + ms(1) - Duration::from_nanos(1);
    assert_eq!(table.find(&ip(1), soon), Some(web));
    assert_eq!(table.get(&ip(1), soon).unwrap().expires_in, Some(start + ms(4_096) - soon));
    assert_eq!(table.find(&ip(1), start + ms(1)), Some(web));
    assert_eq!(table.get(&ip(1), start + ms(1)).unwrap().expires_in, Some(ms(4_096)));
}

#[test]
fn without_expiry_an_entry_stays() {
    let (table, web, start) = (StickTable::new(10, None), id(), now());
    table.set(&ip(1), web, start);
    let later = start + Duration::from_secs(10_000_000);
    assert_eq!(table.find(&ip(1), later), Some(web));
    assert_eq!(table.get(&ip(1), later).unwrap().expires_in, None);
    assert_eq!(table.expire_some(later, 10), 0);
}

#[test]
fn a_full_table_evicts_what_was_refreshed_the_longest_ago() {
    let (table, web, start) = (StickTable::new(3, None), id(), now());
    for i in 1..=3 {
        table.set(&ip(i), web, start + ms(i.into()));
    }
    assert_eq!(table.find(&ip(1), start + ms(4)), Some(web));
    table.get(&ip(2), start + ms(5));
    table.set(&ip(4), web, start + ms(6));
    assert_eq!(table.find(&ip(2), start + ms(7)), None);
    assert!([1, 3, 4].iter().all(|i| table.find(&ip(*i), start + ms(8)).is_some()));
    assert_eq!((table.len(), table.capacity()), (3, 3));
}

#[test]
fn the_last_204_800_keys_are_there_and_no_others() {
    const SIZE: u32 = 204_800;
    let (table, web, start) = (StickTable::new(SIZE as usize, None), id(), now());
    let at = |i: u32| start + Duration::from_nanos(i.into());
    for i in 0..SIZE + 50_000 {
        table.set(&ip(i), web, at(i));
    }
    assert_eq!(table.len(), SIZE as usize);
    let end = at(SIZE + 50_000);
    let there: HashSet<_> = table.entries(end).map(|entry| entry.key).collect();
    let expected =
        (50_000..SIZE + 50_000).map(|i| StickKey::Ip(std::net::Ipv4Addr::from(i).into()));
    assert!(there == expected.collect(), "exactly the last ones");
    assert!(table.memory() < 100 * SIZE as usize, "{}", table.memory());
    table.clear();
    assert_eq!(table.len(), 0);
    assert!(table.memory() < 100_000, "{}", table.memory());
}

#[test]
fn without_purge_a_full_table_refuses_until_something_expires() {
    let table = StickTable::builder(2).expire(ms(100)).no_purge().build();
    let (web, other, start) = (id(), id(), now());
    assert!(table.set(&ip(1), web, start));
    assert!(table.set(&ip(2), web, start + ms(50)));
    assert!(!table.set(&ip(3), web, start + ms(60)));
    assert!(table.set(&ip(2), other, start + ms(60)), "it is there already");
    assert_eq!(table.track(&ip(3), start + ms(60)).count(StickCount::ConnCnt, 1, start), None);
    assert!(table.set(&ip(3), web, start + ms(100)), "1 has expired");
    assert_eq!(table.find(&ip(2), start + ms(100)), Some(other));
    assert_eq!(table.len(), 2);
}

#[test]
fn without_purge_an_expired_entry_of_another_shard_makes_room() {
    let table = StickTable::builder(1_024).expire(ms(100)).no_purge().build();
    assert!(table.inner.shards() > 1);
    let (web, start) = (id(), now());
    assert!((0..1_024).all(|i| table.set(&ip(i), web, start)));
    assert!(!table.set(&ip(5_000), web, start + ms(99)));
    assert!((5_000..6_024).all(|i| table.set(&ip(i), web, start + ms(100))));
    assert_eq!(table.len(), 1_024);
}

#[test]
fn insertions_clear_away_what_has_expired() {
    let (table, web, start) = (StickTable::new(500, ms(10)), id(), now());
    assert_eq!(table.inner.shards(), 1, "how many lie in which shard is left to chance");
    (0..500).for_each(|i| assert!(table.set(&ip(i), web, start)));
    (500..760).for_each(|i| assert!(table.set(&ip(i), web, start + ms(10))));
    assert_eq!(table.len(), 260, "two of the old for each new one");
}

#[test]
fn expired_entries_can_be_removed_in_portions() {
    let (table, web, start) = (StickTable::new(10_000, ms(10)), id(), now());
    (0..1_000).for_each(|i| assert!(table.set(&ip(i), web, start)));
    table.find(&ip(7), start + ms(5));
    assert_eq!(table.expire_some(start + ms(9), 600), 0);
    assert_eq!(table.expire_some(start + ms(10), 600), 600);
    assert_eq!(table.expire_some(start + ms(10), 600), 399);
    assert_eq!(table.len(), 1);
    assert_eq!(table.find(&ip(7), start + ms(10)), Some(web));
}

#[test]
fn keys_of_all_kinds_are_told_apart_and_share_the_order() {
    let (table, start) = (StickTable::builder(4).key_len(8).build(), now());
    let v6 = Key::Ip("::1".parse().unwrap());
    let long = ["12345678a", "12345678b"];
    let keys = [ip(1), v6, text("12345678"), text(long[0])];
    let ids: Vec<_> = keys.iter().map(|_| id()).collect();
    for (n, (key, id)) in keys.iter().zip(&ids).enumerate() {
        table.set(key, *id, start + ms(n as u64));
    }
    for (key, id) in keys.iter().zip(&ids) {
        assert_eq!(table.get(key, start).unwrap().backend, Some(*id));
    }
    assert_eq!(table.get(&text(long[1]), start), None, "not cut off to the same 8 bytes");
    let shown: HashSet<_> = table.entries(start).map(|entry| entry.key.to_string()).collect();
    assert!(["0.0.0.1", "::1", "12345678"].iter().all(|key| shown.contains(*key)), "{shown:?}");
    assert!(shown.iter().any(|key| key.starts_with("digest:")), "{shown:?}");
    table.set(&text(long[1]), ids[0], start + ms(9));
    assert_eq!(table.get(&ip(1), start + ms(9)), None, "the oldest, though of another kind");
    assert!(table.remove(&text(long[0])) && !table.remove(&text(long[0])));
    assert_eq!(table.len(), 3);
}

#[test]
fn a_dump_sees_what_stays_once_whatever_else_changes() {
    let (table, web, start) = (StickTable::new(5_000, None), id(), now());
    (0..2_000).for_each(|i| assert!(table.set(&ip(i), web, start)));
    let mut seen = HashMap::new();
    for (n, entry) in table.entries(start).enumerate() {
        let n = n as u32;
        assert!(table.find(&ip(n % 1_000), start).is_some(), "no lock is held");
        table.set(&ip(10_000 + n), web, start);
        table.remove(&ip(1_000 + n % 1_000));
        *seen.entry(entry.key.to_string()).or_insert(0) += 1;
    }
    for i in 0..1_000 {
        let key = std::net::Ipv4Addr::from_bits(i).to_string();
        assert_eq!(seen.get(&key), Some(&1), "{key}");
    }
}

#[test]
fn an_entry_has_only_the_counters_that_it_was_made_for() {
    let table = StickTable::builder(10)
        .expire(ms(1_000))
        .store(StickCount::HttpReqCnt)
        .store_rate(StickRate::HttpReq, ms(100))
        .build();
    let start = now();
    let mut tracked = table.track(&ip(1), start);
    assert_eq!(tracked.count(StickCount::HttpReqCnt, 2, start), Some(2));
    assert_eq!(tracked.count(StickCount::HttpReqCnt, 1, start), Some(3));
    assert_eq!(tracked.count(StickRate::HttpReq, 10, start), Some(10));
    assert_eq!(tracked.count(StickCount::Gpc0, 1, start), None);
    assert_eq!(tracked.get(StickRate::HttpReq, start + ms(150)), Some(5));
    let entry = table.get(&ip(1), start + ms(150)).unwrap();
    assert_eq!(entry.backend, None);
    assert_eq!(entry.expires_in, Some(ms(850)), "counting does not refresh");
    let shown: Vec<_> = entry.counters.iter().map(|(c, n)| format!("{c}={n}")).collect();
    assert_eq!(shown, ["http_req_cnt=3", "http_req_rate=5"]);
    assert_eq!(table.find(&ip(1), start + ms(500)), None, "pinned to nobody, so no match");
    assert_eq!(tracked.count(StickCount::HttpReqCnt, 1, start + ms(1_000)), Some(1), "a new one");
    let _again = table.track(&ip(1), start + ms(1_500));
    assert_eq!(tracked.get(StickCount::HttpReqCnt, start + ms(2_400)), Some(1), "refreshed");
}

#[test]
fn a_counted_backend_keeps_its_counts_when_it_is_pinned() {
    let (table, web, start) =
        (StickTable::builder(10).store(StickCount::Gpc0).build(), id(), now());
    table.track(&ip(1), start).count(StickCount::Gpc0, 4, start);
    table.set(&ip(1), web, start);
    let entry = table.get(&ip(1), start).unwrap();
    assert_eq!((entry.backend, entry.counters[0].1), (Some(web), 4));
}

#[test]
fn connections_are_given_back_but_only_to_the_entry_that_counted_them() {
    let (table, start) = (StickTable::builder(10).store(StickCount::ConnCur).build(), now());
    let mut first = table.track(&ip(1), start);
    let mut second = table.track(&ip(1), start);
    assert_eq!(first.count(StickCount::ConnCur, 1, start), Some(1));
    assert_eq!(second.count(StickCount::ConnCur, 2, start), Some(3));
    drop(second);
    assert_eq!(first.get(StickCount::ConnCur, start), Some(1));
    table.remove(&ip(1));
    let mut third = table.track(&ip(1), start);
    assert_eq!(third.count(StickCount::ConnCur, 5, start), Some(5));
    drop(first);
    assert_eq!(third.get(StickCount::ConnCur, start), Some(5), "not those of the lost entry");
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, bool),
    Find(u8),
    Remove(u8),
    Expire(u8),
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(key, to)| Step::Set(key % 24, to)),
        4 => any::<u8>().prop_map(|key| Step::Find(key % 24)),
        1 => any::<u8>().prop_map(|key| Step::Remove(key % 24)),
        1 => (0_u8..4).prop_map(Step::Expire),
        1 => (0_u8..60).prop_map(Step::Wait),
    ]
}

/// Keys of all kinds.
fn key(n: u8) -> Key<'static> {
    match n % 3 {
        0 => ip(n.into()),
        1 => Key::Ip(std::net::Ipv6Addr::from_bits(n.into()).into()),
        _ => Key::Bytes(vec![n; usize::from(n) * 3].into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_list_in_the_order_of_refreshes(
        steps in prop::collection::vec(step(), 1..120),
        purge in any::<bool>(),
    ) {
        const EXPIRE: u64 = 100;
        let builder = StickTable::builder(8).expire(ms(EXPIRE));
        let table = if purge { builder.build() } else { builder.no_purge().build() };
        let (ids, start) = ([id(), id()], now());
        // Key, backend, refreshed; the oldest first. Expired ones are dropped at once.
        let mut model: Vec<(u8, BackendId, u64)> = Vec::new();
        let mut time = 0;
        for step in steps {
            time += 1;
            let at = start + ms(time);
            model.retain(|(_, _, refreshed)| time < refreshed + EXPIRE);
            match step {
                Step::Set(k, to) => {
                    let to = ids[usize::from(to)];
                    let known = model.iter().any(|entry| entry.0 == k);
                    let room = known || purge || model.len() < 8;
                    prop_assert_eq!(table.set(&key(k), to, at), room);
                    if room {
                        model.retain(|entry| entry.0 != k);
                        if model.len() == 8 {
                            model.remove(0);
                        }
                        model.push((k, to, time));
                    }
                }
                Step::Find(k) => {
                    let found = model.iter().position(|entry| entry.0 == k);
                    let expected = found.map(|at| model.remove(at).1);
                    prop_assert_eq!(table.find(&key(k), at), expected);
                    model.extend(expected.map(|to| (k, to, time)));
                }
                Step::Remove(k) => {
                    model.retain(|entry| entry.0 != k);
                    table.remove(&key(k));
                }
                Step::Expire(n) => prop_assert!(table.expire_some(at, n.into()) <= n.into()),
                Step::Wait(n) => time += u64::from(n),
            }
            let at = start + ms(time);
            model.retain(|(_, _, refreshed)| time < refreshed + EXPIRE);
            let mut there: Vec<_> = table
                .entries(at)
                .map(|entry| (entry.key, entry.backend, entry.expires_in))
                .collect();
            let mut expected: Vec<_> = model
                .iter()
                .map(|(k, to, refreshed)| {
                    let left = ms(refreshed + EXPIRE - time);
                    (table.get(&key(*k), at).unwrap().key, Some(*to), Some(left))
                })
                .collect();
            there.sort_by_key(|entry| entry.0.to_string());
            expected.sort_by_key(|entry| entry.0.to_string());
            prop_assert_eq!(there, expected);
            prop_assert!(table.len() <= 8);
        }
    }
}

#[test]
fn threads_never_overfill_it_or_lose_the_count() {
    let (table, web) = (StickTable::builder(600).expire(ms(5)).build(), id());
    assert!(table.inner.shards() > 1);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let table = &table;
            scope.spawn(move || {
                for i in 0..3_000 {
                    let k = (i * 7 + thread * 13) % 1_500;
                    table.set(&ip(k), web, now());
                    table.find(&ip(k / 2), now());
                    if i % 11 == 0 {
                        table.remove(&ip(k / 3));
                        table.expire_some(now(), 3);
                    }
                    assert!(table.len() <= 600);
                }
            });
        }
    });
    let shards = (0..table.inner.shards()).map(|at| table.inner.with(at, |shard| shard.len()));
    assert_eq!(table.len(), shards.sum::<usize>());
}
