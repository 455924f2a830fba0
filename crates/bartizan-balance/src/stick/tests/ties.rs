use std::collections::BTreeSet;
use std::future::poll_fn;

use futures_util::FutureExt;

use super::*;
use crate::{Affinity, Free, HashBy, OnDrain, Pick, Pin, Reason, StickyContract, Tie, key_fn};

struct Request(&'static str);

fn pick(backend: &Arc<Backend>) -> Pick {
    Pick::new(Arc::clone(backend), "test", Reason::Drawn)
}

fn pin_of(tie: &mut impl Tie) -> Option<Pin> {
    poll_fn(|cx| tie.poll_pin(cx)).now_or_never().expect("a table in memory does not wait")
}

fn claims(table: &StickTable) -> usize {
    let inner = &table.inner;
    (0..inner.shards()).map(|at| inner.with(at, |shard| shard.claims.len())).sum()
}

fn backend_of(table: &StickTable, key: &str) -> Option<BackendId> {
    table.get(&text(key), now())?.backend
}

/// Ties by what the request says, unless it says nothing.
fn tie(table: &StickTable, request: &'static str) -> StickyTie {
    let key = key_fn(|request: &Request| {
        (!request.0.is_empty()).then(|| Key::Bytes(request.0.as_bytes().into()))
    });
    table.by(key).tie(&Request(request), now())
}

#[test]
fn a_first_pick_becomes_an_entry_when_it_is_established() {
    let (table, a) = (StickTable::new(10, ms(1_000)), backend("a"));
    let mut first = tie(&table, "x");
    assert_eq!(pin_of(&mut first), None);
    assert_eq!(first.propose(&a), a.id());
    assert_eq!((table.len(), claims(&table)), (0, 1), "a claim is no entry");
    first.settled(&pick(&a));
    assert_eq!((backend_of(&table, "x"), claims(&table)), (Some(a.id()), 0));
    let pin = pin_of(&mut tie(&table, "x")).unwrap();
    assert_eq!(pin, Pin::new(a.id(), "stick table", StickyContract::new()));
    assert_eq!(pin_of(&mut tie(&table, "y")), None);
}

#[test]
fn simultaneous_requests_follow_the_first_one() {
    let (table, a, b) = (StickTable::new(10, None), backend("a"), backend("b"));
    let (mut first, mut second, mut other) = (tie(&table, "x"), tie(&table, "x"), tie(&table, "y"));
    assert!(pin_of(&mut first).is_none() && pin_of(&mut second).is_none());
    assert_eq!(first.propose(&a), a.id());
    assert_eq!(second.propose(&b), a.id());
    assert_eq!(other.propose(&b), b.id(), "another key");
    drop(first);
    assert_eq!(tie(&table, "x").propose(&b), a.id(), "the second still goes there");
    drop(second);
    assert_eq!(tie(&table, "x").propose(&b), b.id(), "nobody does any more");
    drop(other);
    assert_eq!(claims(&table), 0);
}

#[test]
fn who_looked_before_the_first_one_was_established_follows_as_well() {
    let (table, a, b) = (StickTable::new(10, None), backend("a"), backend("b"));
    let (mut first, mut late) = (tie(&table, "x"), tie(&table, "x"));
    assert!(pin_of(&mut first).is_none() && pin_of(&mut late).is_none());
    first.propose(&a);
    first.settled(&pick(&a));
    drop(first);
    assert_eq!(late.propose(&b), a.id());
    late.failed(&a);
    assert_eq!(late.propose(&b), b.id(), "but not again");
    late.settled(&pick(&b));
    assert_eq!(backend_of(&table, "x"), Some(b.id()));
}

#[test]
fn a_failure_lapses_the_claim_for_all_and_the_next_backend_is_agreed_on_anew() {
    let (table, a, b) = (StickTable::new(10, None), backend("a"), backend("b"));
    let c = backend("c");
    let (mut first, mut second) = (tie(&table, "x"), tie(&table, "x"));
    first.propose(&a);
    second.propose(&b);
    first.failed(&a);
    assert_eq!((table.len(), claims(&table)), (0, 0));
    assert_eq!(first.propose(&b), b.id());
    second.failed(&a);
    assert_eq!(claims(&table), 1, "the new claim is on another backend");
    assert_eq!(second.propose(&c), b.id());
    first.settled(&pick(&b));
    second.settled(&pick(&b));
    assert_eq!((backend_of(&table, "x"), claims(&table)), (Some(b.id()), 0));
}

#[test]
fn nobody_is_sent_back_to_what_failed_for_it() {
    let (table, a, b) = (StickTable::new(10, None), backend("a"), backend("b"));
    let (mut first, mut newer) = (tie(&table, "x"), tie(&table, "x"));
    first.propose(&a);
    first.failed(&a);
    assert_eq!(newer.propose(&a), a.id(), "it has not seen the failure");
    assert_eq!(first.propose(&b), b.id());
    drop(newer);
    assert_eq!(claims(&table), 1, "the claim is not that of the newer one any more");
    assert_eq!(tie(&table, "x").propose(&a), b.id());
}

#[test]
fn an_only_claimant_may_change_its_mind() {
    let (table, a, b) = (StickTable::new(10, None), backend("a"), backend("b"));
    let mut only = tie(&table, "x");
    only.propose(&a);
    assert_eq!(only.propose(&b), b.id());
    assert_eq!(tie(&table, "x").propose(&a), b.id());
}

#[test]
fn a_pin_that_cannot_be_had_is_overwritten_and_a_second_try_as_well() {
    let (table, a, b) = (StickTable::new(10, None), backend("a"), backend("b"));
    table.set(&text("x"), a.id(), now());
    let mut again = tie(&table, "x");
    assert_eq!(pin_of(&mut again).unwrap().backend, a.id());
    again.failed(&a);
    assert_eq!(again.propose(&b), b.id(), "the entry it knew of does not count");
    again.settled(&pick(&b));
    assert_eq!(backend_of(&table, "x"), Some(b.id()));
    again.settled(&pick(&a));
    assert_eq!(backend_of(&table, "x"), Some(a.id()), "it came back, and went elsewhere");
}

#[test]
fn an_honoured_pin_does_not_undo_what_an_operator_sets_meanwhile() {
    let (table, a, b) = (StickTable::new(10, None), backend("a"), backend("b"));
    table.set(&text("x"), a.id(), now());
    let mut request = tie(&table, "x");
    pin_of(&mut request);
    table.set(&text("x"), b.id(), now());
    request.settled(&pick(&a));
    assert_eq!(backend_of(&table, "x"), Some(b.id()));
}

#[tokio::test(start_paused = true)]
async fn an_entry_counts_from_when_it_was_established() {
    let (table, a) = (StickTable::new(10, ms(100)), backend("a"));
    let mut slow = tie(&table, "x");
    slow.propose(&a);
    tokio::time::advance(ms(90)).await;
    slow.settled(&pick(&a));
    tokio::time::advance(ms(99)).await;
    assert_eq!(backend_of(&table, "x"), Some(a.id()));
    tokio::time::advance(ms(1)).await;
    assert_eq!(backend_of(&table, "x"), None);
}

#[test]
fn what_lies_beneath_decides_what_the_table_does_not_know() {
    let key = key_fn(|request: &Request| Some(Key::Bytes(request.0.as_bytes().into())));
    let contract = StickyContract::new().on_drain(OnDrain::Migrate);
    let table = StickTable::new(10, None);
    assert_eq!(tie(&table, "x").hash(), Some(text("x").hash()));
    assert_eq!(tie(&table, "").hash(), None);
    let none = key_fn(|_: &Request| None);
    let inner = HashBy::new(key_fn(|_: &Request| Some(text("inner"))));
    let over = table.by(key).contract(contract).over(inner);
    let mut tied = over.tie(&Request("x"), now());
    assert_eq!(tied.hash(), Some(text("inner").hash()));
    let a = backend("a");
    tied.settled(&pick(&a));
    let mut again = over.tie(&Request("x"), now());
    assert_eq!(pin_of(&mut again), Some(Pin::new(a.id(), "stick table", contract)));
    // A table beneath a table, asked where the upper one has no key.
    let beneath = table.by(none).over(table.by(key));
    assert_eq!(pin_of(&mut beneath.tie(&Request("x"), now())).unwrap().backend, a.id());
    let mut new = beneath.tie(&Request("z"), now());
    let b = backend("b");
    assert_eq!(new.propose(&b), b.id());
    assert_eq!(beneath.tie(&Request("z"), now()).propose(&a), b.id());
    new.failed(&b);
    assert_eq!(claims(&table), 0, "told of the failure");
    new.settled(&pick(&a));
    assert_eq!(backend_of(&table, "z"), Some(a.id()));
}

#[test]
fn a_request_without_a_key_leaves_nothing_behind() {
    let (table, a) = (StickTable::new(10, None), backend("a"));
    let mut keyless = tie(&table, "");
    assert_eq!((pin_of(&mut keyless), keyless.propose(&a)), (None, a.id()));
    keyless.settled(&pick(&a));
    assert_eq!((table.len(), claims(&table)), (0, 0));
}

/// What ties of one key do, one after the other.
#[derive(Clone, Debug)]
enum Act {
    Propose(usize),
    Fail,
    Settle,
    Replace,
}

#[derive(Clone, Debug, Default)]
struct Tied {
    pinned: Option<usize>,
    failed: BTreeSet<usize>,
    at: Option<usize>,
    claims: bool,
}

#[derive(Debug, Default)]
struct Model {
    ties: [Tied; 4],
    claim: Option<(usize, BTreeSet<usize>)>,
    entry: Option<usize>,
}

impl Model {
    fn propose(&mut self, who: usize, wanted: usize) -> usize {
        let tied = &mut self.ties[who];
        let goes = match &mut self.claim {
            Some((to, sharers)) => {
                if sharers.iter().eq([&who]) {
                    *to = wanted;
                }
                if !tied.failed.contains(to) {
                    sharers.insert(who);
                    tied.claims = true;
                    return *to;
                }
                None
            }
            None => self.entry.filter(|to| Some(*to) != tied.pinned && !tied.failed.contains(to)),
        };
        tied.claims = goes.is_none();
        if goes.is_none() {
            self.claim = Some((wanted, BTreeSet::from([who])));
        }
        goes.unwrap_or(wanted)
    }

    fn lapse(&mut self, backend: usize) {
        self.claim.take_if(|(to, _)| *to == backend);
    }

    fn leave(&mut self, who: usize) {
        self.ties[who].claims = false;
        if let Some((_, sharers)) = &mut self.claim {
            sharers.remove(&who);
        }
        self.claim.take_if(|(_, sharers)| sharers.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn claims_behave_as_in_a_sequential_model(
        acts in prop::collection::vec((0_usize..4, prop_oneof![
            4 => (0_usize..3).prop_map(Act::Propose),
            2 => Just(Act::Fail),
            1 => Just(Act::Settle),
            2 => Just(Act::Replace),
        ]), 1..80),
    ) {
        let table = StickTable::new(10, None);
        let backends = ["a", "b", "c"].map(backend);
        let place = |id: BackendId| backends.iter().position(|b| b.id() == id).unwrap();
        let mut ties: Vec<StickyTie<Free>> = (0..4).map(|_| tie(&table, "x")).collect();
        let mut model = Model::default();
        for (who, act) in acts {
            let tied = &mut ties[who];
            let at = model.ties[who].at;
            match (act, at) {
                // What has failed for a request, no policy chooses for it again.
                (Act::Propose(wanted), _) if model.ties[who].failed.contains(&wanted) => {}
                (Act::Propose(wanted), _) => {
                    let goes = model.propose(who, wanted);
                    prop_assert_eq!(place(tied.propose(&backends[wanted])), goes);
                    model.ties[who].at = Some(goes);
                }
                (Act::Fail, Some(at)) => {
                    tied.failed(&backends[at]);
                    model.ties[who].failed.insert(at);
                    model.ties[who].at = None;
                    model.lapse(at);
                    model.leave(who);
                }
                (Act::Settle, Some(at)) => {
                    tied.settled(&pick(&backends[at]));
                    let news = model.ties[who].pinned != Some(at);
                    if news {
                        (model.ties[who].pinned, model.entry) = (Some(at), Some(at));
                    }
                    if news || model.ties[who].claims {
                        model.lapse(at);
                    }
                    model.leave(who);
                }
                (Act::Replace, _) => {
                    *tied = tie(&table, "x");
                    model.leave(who);
                    let pinned = pin_of(tied).map(|pin| place(pin.backend));
                    prop_assert_eq!(pinned, model.entry);
                    model.ties[who] = Tied { pinned, ..Tied::default() };
                }
                (Act::Fail | Act::Settle, None) => {}
            }
            prop_assert_eq!(claims(&table), usize::from(model.claim.is_some()));
            prop_assert_eq!(backend_of(&table, "x").map(place), model.entry);
        }
        drop(ties);
        prop_assert_eq!(claims(&table), 0);
    }
}

#[test]
fn threads_of_one_client_agree_and_leave_no_claim() {
    let (table, backends) = (StickTable::new(10, None), ["a", "b", "c", "d"].map(backend));
    let barrier = std::sync::Barrier::new(4);
    for round in 0..100 {
        table.clear();
        let chosen: HashSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|i| {
                    let (table, backends, barrier) = (&table, &backends, &barrier);
                    scope.spawn(move || {
                        let mut tied = tie(table, "x");
                        barrier.wait();
                        let pinned = pin_of(&mut tied).map(|pin| pin.backend);
                        let goes = pinned.unwrap_or_else(|| tied.propose(&backends[i]));
                        let there = backends.iter().find(|b| b.id() == goes).unwrap();
                        if round % 2 == 1 {
                            tied.settled(&pick(there));
                        }
                        barrier.wait();
                        goes
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(chosen.len(), 1, "all go to one backend");
        assert_eq!(claims(&table), 0);
        assert_eq!(table.len(), round % 2);
    }
}
