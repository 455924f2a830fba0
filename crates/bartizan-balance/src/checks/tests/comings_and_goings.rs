//! What is left when checks, clusters and runtimes have come and gone.

use super::*;
use crate::clock::now;
use crate::health::Ejection;
use bartizan_net::Target;

use crate::{AgentReply, CheckState, Limits, SlowStart, State};

fn only(web: &Cluster) -> Arc<Backend> {
    Arc::clone(&web.table().members()[0])
}

fn strict(fake: &Fake) -> Checks<Fake> {
    Checks::new(fake.clone()).rise(1).fall(1)
}

fn of(name: &str, backend: &Arc<Backend>) -> Cluster {
    let cluster = Cluster::builder(name).build().unwrap();
    cluster.update(|change| change.add(Arc::clone(backend))).unwrap();
    cluster
}

fn tracking(name: &str, other: &Arc<Backend>) -> Arc<Backend> {
    let address = other.address().clone();
    Arc::new(Backend::new(name, address).tracking(Arc::clone(other)))
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn new_checks_that_replace_old_ones_bring_a_backend_back() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let mut _guard = web.check(strict(&fake));
    sleep(3 * SECOND).await;
    assert!(!only(&web).is_up());
    // The new ones begin before the old ones end, as an assignment has it.
    _guard = web.check(strict(&fake));
    sleep(3 * SECOND).await;
    assert!(!only(&web).is_up());
    fake.answer(Answer::Pass);
    sleep(60 * SECOND).await;
    assert!(only(&web).is_up(), "{:?}", web.health(&only(&web)));
    drop(_guard);
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_a_cluster_while_it_is_down_comes_back_in_another() {
    let one = cluster(&["a"]);
    let shared = only(&one);
    let other = of("other", &shared);
    let fake = Fake::new(Answer::Fail);
    let _guards = (one.check(strict(&fake)), other.check(strict(&fake)));
    sleep(5 * SECOND).await;
    one.update(|change| change.remove("a")).unwrap();
    fake.answer(Answer::Pass);
    sleep(60 * SECOND).await;
    assert!(other.table().is_eligible(0), "{:?}", other.health(&shared));
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_an_opinion_does_not_keep_down_what_other_checks_left() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Fail));
    let agent = || {
        let probe = tower::service_fn(|_: Arc<Backend>| async {
            Ok(Verdict::Agent(AgentReply { reason: "75%".into(), ..AgentReply::default() }))
        });
        web.check(Checks::new(probe).in_maintenance(true))
    };
    let guards = (web.check(strict(&fake)), agent());
    sleep(5 * SECOND).await;
    drop(guards);
    fake.answer(Answer::Pass);
    let _guards = (agent(), web.check(strict(&fake)));
    sleep(60 * SECOND).await;
    assert!(only(&web).is_up(), "{:?}", web.health(&only(&web)));
}

#[test]
fn checks_whose_runtime_has_ended_have_no_say_any_more() {
    let (web, failing, passing) = (cluster(&["a"]), Answer::Fail, Answer::Pass);
    let paused = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    paused().block_on(async {
        web.check(strict(&Fake::new(failing))).forget();
        sleep(5 * SECOND).await;
    });
    assert!(!only(&web).is_up());
    paused().block_on(async {
        let _checks = web.check(strict(&Fake::new(passing)));
        sleep(60 * SECOND).await;
    });
    assert!(only(&web).is_up(), "{:?}", web.health(&only(&web)));
}

#[test]
fn checks_that_cannot_be_started_change_nothing() {
    let web = cluster(&["a"]);
    let checks = Checks::new(Fake::new_outside()).init_state(InitState::Down);
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| web.check(checks)));
    assert!(started.is_err(), "there is no runtime");
    assert!(web.table().is_eligible(0));
}

#[tokio::test]
async fn a_follower_ends_as_the_one_it_tracks_in_whatever_order_it_hears() {
    let one = cluster(&["a"]);
    let (tracked, two) = (only(&one), of("two", &tracking("b", &only(&one))));
    // Two threads change it, and the first one is slower to tell.
    let moved = |state| tracked.live.change(|health| health.follow(state, "so", now())).1.unwrap();
    let (down, up) = (moved(CheckState::Down), moved(CheckState::Up));
    one.announce_for_tests(&tracked, up);
    one.announce_for_tests(&tracked, down);
    assert!(tracked.is_up() && only(&two).is_up());
}

#[tokio::test]
async fn those_who_track_one_that_is_added_hear_how_it_is() {
    let one = cluster(&["c"]);
    let c = only(&one);
    let b = tracking("b", &c);
    let a = tracking("a", &b);
    one.set_up(&c, false);
    let three = of("three", &a);
    let _two = of("two", &b);
    assert!(!b.is_up());
    assert!(!a.is_up() && !three.table().is_eligible(0));
}

#[tokio::test]
async fn a_weight_and_a_wish_are_seen_in_all_clusters() {
    let one = cluster(&["a"]);
    let shared = only(&one);
    let two = of("two", &shared);
    one.update(|change| change.set_weight("a", 5)).unwrap();
    assert_eq!(two.table().weight(0), 5);
}

#[tokio::test]
async fn a_drain_of_one_that_is_ejected_is_seen_in_all_clusters() {
    let one = cluster(&["a"]);
    let shared = only(&one);
    let panic = crate::MinHealthy::percent(100);
    let two = Cluster::builder("two").panic_below(panic).build().unwrap();
    two.update(|change| change.add(Arc::clone(&shared))).unwrap();
    let until = now() + 600 * SECOND;
    crate::cluster::affect(&shared, |h| h.eject(Ejection::Out { until }, "errors", now()));
    assert!(two.table().is_eligible(0), "it is in panic");
    one.update(|change| change.set_state("a", State::Drain)).unwrap();
    assert!(!two.table().is_eligible(0), "but not to a backend that drains");
}

#[tokio::test(start_paused = true)]
async fn the_slow_start_of_one_cluster_does_not_end_with_that_of_another() {
    let ramped = |name: &str, window: u64| {
        Cluster::builder(name).slow_start(SlowStart::new(window as u32 * SECOND)).build().unwrap()
    };
    let (short, long) = (ramped("short", 1), ramped("long", 100));
    let shared = Arc::new(Backend::new("a", "127.0.0.1:1".parse().unwrap()).with_weight(100));
    for cluster in [&short, &long] {
        cluster.update(|change| change.add(Arc::clone(&shared))).unwrap();
    }
    short.set_up(&shared, false);
    short.set_up(&shared, true);
    sleep(10 * SECOND).await;
    short.step(now());
    long.step(now());
    assert_eq!(long.table().share(0), 160, "10 % of 100 × 16");
}

#[tokio::test(start_paused = true)]
async fn what_changes_in_maintenance_is_told_with_its_own_time() {
    let one = cluster(&["a"]);
    let tracked = only(&one);
    let ramp = SlowStart::new(10 * SECOND);
    let two = Cluster::builder("two").slow_start(ramp).build().unwrap();
    let follower = tracking("b", &tracked);
    two.update(|change| change.add(Arc::clone(&follower))).unwrap();
    one.set_up(&tracked, false);
    one.update(|change| change.set_state("a", State::Maintenance)).unwrap();
    sleep(100 * SECOND).await;
    one.set_up(&tracked, true);
    let report = two.health(&follower).unwrap();
    assert_eq!(report.age, Duration::ZERO, "{report}");
    assert!(report.weight_factor < 0.5, "{report:?}");
}

#[tokio::test]
async fn the_full_load_grows_with_what_an_agent_allows() {
    let limits = Limits::none().max(10).min(1);
    let a = Backend::new("a", "127.0.0.1:1".parse().unwrap()).with_limits(limits);
    let web = Cluster::builder("web").add(a).build().unwrap();
    let a = only(&web);
    let reply = AgentReply { max: Some(100), ..AgentReply::default() };
    web.update(|change| change.obey(&a, &reply)).unwrap();
    (0..10).for_each(|_| assert!(web.table().load().more()));
    assert_eq!(web.table().limit(0).unwrap().get(), 10, "10 of 100 are in flight");
}

#[tokio::test(start_paused = true)]
async fn slow_start_after_maintenance_is_not_lost_to_a_first_check() {
    let web = Cluster::builder("web").slow_start(SlowStart::new(100 * SECOND)).build().unwrap();
    let a = backend("a", refused_addr_any());
    web.update(|change| change.add(Arc::clone(&a))).unwrap();
    web.update(|change| change.set_state("a", State::Maintenance)).unwrap();
    let _checks = web.check(strict(&Fake::new(Answer::Pass)).init_state(InitState::Down));
    sleep(5 * SECOND).await;
    web.update(|change| change.set_state("a", State::Ready)).unwrap();
    sleep(SECOND).await;
    let report = web.health(&a).unwrap();
    assert!(report.eligible && report.weight_factor < 0.5, "{report:?}");
}

fn refused_addr_any() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

impl Fake {
    /// Without a runtime.
    fn new_outside() -> Self {
        Self::new(Answer::Pass)
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_maintenance_has_to_pass_a_check_where_who_comes_has_to() {
    let (web, fake) = (cluster(&["a"]), Fake::new(Answer::Pass));
    let _checks = web.check(Checks::new(fake.clone()).init_state(InitState::Down));
    sleep(5 * SECOND).await;
    web.update(|change| change.set_state("a", State::Maintenance)).unwrap();
    fake.answer(Answer::Fail);
    sleep(100 * SECOND).await;
    web.update(|change| change.set_state("a", State::Ready)).unwrap();
    assert!(!web.table().is_eligible(0));
}

#[test]
fn a_short_fast_interval_does_not_make_the_others_drift() {
    use crate::checks::schedule::{First, Schedule, Timing};
    let millis = Duration::from_millis;
    let (every, begin, id) = (2 * SECOND, now(), only(&cluster(&["a"])).id());
    let timing = Timing { every, fast: millis(10), down: every, jitter: 0.0, max_concurrent: 9 };
    let mut schedule = Schedule::new(timing, begin, 1);
    schedule.insert(id, First::AtOnce(0.0), begin);
    for n in 0..100 {
        assert_eq!(schedule.next(), Some(begin + n * every), "round {n}");
        // A timer's own step, and a little.
        let late = begin + n * every + millis(2);
        assert_eq!(schedule.start(late), Some(id));
        schedule.ended(id, crate::Pace::Normal, late);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_maint_is_heard_again() {
    let (web, word) = (cluster(&["a"]), Arc::new(Mutex::new(State::Maintenance)));
    let says = Arc::clone(&word);
    let probe = tower::service_fn(move |_: Arc<Backend>| {
        let state = Some(*says.lock().unwrap());
        async move { Ok(Verdict::Agent(AgentReply { state, ..AgentReply::default() })) }
    });
    let _checks = web.check(Checks::new(probe));
    sleep(5 * SECOND).await;
    *word.lock().unwrap() = State::Ready;
    sleep(60 * SECOND).await;
    assert_eq!(only(&web).state(), State::Ready);
}

#[test]
fn whatever_threads_do_tables_end_as_the_state_is() {
    use crate::cluster::affect;
    let one = cluster(&["a", "b", "c"]);
    let shared: Vec<_> = one.table().members().iter().cloned().collect();
    let two = Cluster::builder("two").slow_start(SlowStart::new(SECOND)).build().unwrap();
    let follower = tracking("f", &shared[0]);
    let second = tracking("g", &follower);
    two.update(|change| {
        change.replace_all(shared.iter().cloned().chain([follower.clone(), second.clone()]));
    })
    .unwrap();
    let states = [CheckState::Up, CheckState::Down, CheckState::Stopping, CheckState::Unfit];
    let wishes = [State::Ready, State::Drain, State::Maintenance];
    std::thread::scope(|scope| {
        for thread in 0..6_usize {
            let (one, two, shared) = (&one, &two, &shared);
            scope.spawn(move || {
                let rules = CheckRules { rise: 1, fall: 1, init: InitState::FullyUp, agent: false };
                for n in 0..400 {
                    let member = &shared[(n * 7 + thread) % 3];
                    let cluster = if (n + thread) % 2 == 0 { one } else { two };
                    match (n + thread) % 5 {
                        0 => affect(member, |h| h.follow(states[n % 4], "so", now())),
                        1 => cluster
                            .update(|c| c.set_state(member.name(), wishes[(n / 5) % 3]))
                            .unwrap(),
                        2 => {
                            cluster.update(|c| c.set_weight(member.name(), (n % 9) as u16)).unwrap()
                        }
                        3 => {
                            let checks = cluster.attach(rules);
                            if let Some(token) = checks.say().token(member) {
                                cluster.observe(member, token, &Verdict::fail("no"));
                                cluster.observe(member, token, &Verdict::Pass);
                            }
                        }
                        _ => {
                            let until = now() + Duration::from_micros(50);
                            affect(member, |h| h.eject(Ejection::Out { until }, "e", now()));
                            cluster.step(now());
                        }
                    }
                }
            });
        }
    });
    for cluster in [&one, &two] {
        let table = Arc::clone(&cluster.table());
        cluster.update(|_| {}).unwrap();
        let fresh = cluster.table();
        assert_eq!(table.eligible_words(), fresh.eligible_words());
        let weights = |table: &crate::Table| (0..5).map(|p| table.weight(p)).collect::<Vec<_>>();
        assert_eq!(weights(&table), weights(&fresh));
    }
    assert_eq!(follower.is_up(), shared[0].is_up());
    assert_eq!(second.is_up(), shared[0].is_up());
}

#[tokio::test(start_paused = true)]
async fn those_who_start_down_are_spread_after_their_first_probe() {
    let names: Vec<String> = (0..20).map(|i| format!("b{i}")).collect();
    let web = cluster(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let fake = Fake::new(Answer::Pass);
    let _checks = web.check(strict(&fake).init_state(InitState::Down));
    sleep(Duration::from_millis(4_500)).await;
    let last = |name| fake.times(name).last().copied();
    assert_ne!(last("b0"), last("b19"));
}
