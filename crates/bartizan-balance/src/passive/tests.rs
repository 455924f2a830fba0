use std::time::Duration;

use http::{Response, StatusCode};
use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::clock::now;
use crate::health::CheckRules;
use crate::{ClusterBuilder, Condition, InitState, MinHealthy, OnError, Role, Verdict};

mod maths;
mod trials;

fn of(count: usize) -> ClusterBuilder {
    let add = |web: ClusterBuilder, n| web.backend(&format!("b{n}"), "127.0.0.1:1");
    (0..count).fold(Cluster::builder("web"), add)
}

fn web(count: usize, outlier: Outlier) -> Cluster {
    of(count).outlier(outlier).build().unwrap()
}

fn member(web: &Cluster, at: usize) -> Arc<Backend> {
    Arc::clone(&web.table().members()[at])
}

fn note(web: &Cluster, at: usize, outcome: Outcome, at_time: Instant) {
    web.passive().unwrap().note(web, &member(web, at), outcome, false, at_time);
}

fn status(status: u16) -> Outcome {
    Outcome::Answered { status: StatusCode::from_u16(status).unwrap(), retry_after: None }
}

fn answers(web: &Cluster, at: usize, statuses: &[u16]) {
    statuses.iter().for_each(|s| note(web, at, status(*s), now()));
}

fn condition(web: &Cluster, at: usize) -> Condition {
    member(web, at).condition()
}

async fn after(web: &Cluster, span: Duration) {
    advance(span).await;
    web.step(now());
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn as_many_are_ejected_as_the_table_of_the_documentation_says() {
    let all = MinHealthy::percent(0).at_least(1);
    for (keep, out) in [
        (None, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]),
        (Some(MinHealthy::percent(90)), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (Some(MinHealthy::percent(67)), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]),
        (Some(all), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ] {
        for (count, out) in (1..).zip(out) {
            let outlier = Outlier::new();
            let web = web(
                count,
                match keep {
                    Some(keep) => outlier.keep(keep),
                    None => outlier,
                },
            );
            (0..count).for_each(|at| answers(&web, at, &[500; 5]));
            assert_eq!(web.table().eligible_count(), count - out, "{keep:?} of {count}");
            let counts = web.outlier_counts().unwrap();
            assert_eq!((counts.ejected, counts.refused), (out as u64, (count - out) as u64));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Errors(usize),
    RetryAfter(usize),
    Down(usize),
    Up(usize),
    State(usize, State),
    Weight(usize, u16),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop::sample::select(vec![State::Ready, State::Drain, State::Maintenance]);
    prop_oneof![
        4 => (0..9_usize).prop_map(Event::Errors),
        1 => (0..9_usize).prop_map(Event::RetryAfter),
        2 => (0..9_usize).prop_map(Event::Down),
        2 => (0..9_usize).prop_map(Event::Up),
        2 => (0..9_usize, state).prop_map(|(at, state)| Event::State(at, state)),
        1 => (0..9_usize, 0..3_u16).prop_map(|(at, weight)| Event::Weight(at, weight)),
        1 => (1..60_u64).prop_map(Event::Pass),
    ]
}

fn happen(web: &Cluster, event: Event, time: &mut Instant) {
    let of = |at: usize| at % web.table().members().len();
    let name = |at: usize| Arc::clone(member(web, of(at)).name());
    match event {
        Event::Errors(at) => (0..5).for_each(|_| note(web, of(at), status(500), *time)),
        Event::RetryAfter(at) => {
            let retry_after = Some(RetryAfter::In(secs(20)));
            let status = StatusCode::TOO_MANY_REQUESTS;
            note(web, of(at), Outcome::Answered { status, retry_after }, *time);
        }
        Event::Down(at) => drop(web.set_up(&member(web, of(at)), false)),
        Event::Up(at) => drop(web.set_up(&member(web, of(at)), true)),
        Event::State(at, state) => {
            web.update_at(*time, |change| change.set_state(&name(at), state)).unwrap();
        }
        Event::Weight(at, weight) => {
            web.update_at(*time, |change| change.set_weight(&name(at), weight)).unwrap();
        }
        Event::Pass(span) => {
            *time += secs(span);
            web.step(*time);
        }
    }
}

/// Of this role: eligible, wanted to take part, and of these up by the checks.
fn counts(web: &Cluster, role: Role) -> [usize; 3] {
    let table = web.table();
    let mut counts = [0; 3];
    for (at, member) in table.members().iter().enumerate().filter(|(_, m)| m.role() == role) {
        let willing = member.state() == State::Ready && member.weight() > 0;
        counts[0] += usize::from(table.is_eligible(at));
        counts[1] += usize::from(willing);
        counts[2] += usize::from(willing && member.live.checked() == CheckState::Up);
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn enough_stay_eligible_whatever_happens(
        actives in 1..7_usize,
        backups in 0..3_usize,
        at_least in 0..3_usize,
        percent in 0..=100_u8,
        events in prop::collection::vec(event(), 1..40),
    ) {
        let keep = MinHealthy::percent(percent).at_least(at_least);
        let spare = |n| Backend::new(format!("s{n}"), "127.0.0.1:1".parse().unwrap());
        let add = |web: ClusterBuilder, n| web.add(spare(n).with_role(Role::Backup));
        let web = (0..backups).fold(of(actives), add).all_backups(true);
        let web = web.outlier(Outlier::new().keep(keep)).build().unwrap();
        let mut time = now();
        for event in events {
            happen(&web, event, &mut time);
            let [eligible, willing, up] = counts(&web, Role::Active);
            prop_assert!(eligible >= keep.of(willing).min(up), "{event:?}: {eligible} of {up}");
            if eligible == 0 {
                let [eligible, willing, up] = counts(&web, Role::Backup);
                prop_assert!(eligible >= keep.of(willing).min(up), "{event:?}: backups");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ejections_grow_to_the_cap_and_are_forgotten_by_and_by() {
    let check_ends = Outlier::new().trial_successes(1).max_ejection_time(secs(100));
    let web = web(2, check_ends);
    let back = || web.passive().unwrap().note(&web, &member(&web, 0), status(200), true, now());
    for span in [30, 60, 90, 100, 100] {
        answers(&web, 0, &[500, 500, 500, 500]);
        assert_eq!(condition(&web, 0), Condition::Up);
        answers(&web, 0, &[500]);
        assert_eq!(condition(&web, 0), Condition::Ejected);
        after(&web, secs(span) - Duration::from_millis(1)).await;
        assert_eq!(condition(&web, 0), Condition::Ejected, "{span}");
        after(&web, Duration::from_millis(1)).await;
        assert_eq!(condition(&web, 0), Condition::Trial, "{span}");
        back();
        assert_eq!(condition(&web, 0), Condition::Up, "{span}");
    }
    // Five ejections; three intervals later two are left, and this is the third.
    after(&web, secs(39)).await;
    answers(&web, 0, &[500; 5]);
    after(&web, secs(90) - Duration::from_millis(1)).await;
    assert_eq!(condition(&web, 0), Condition::Ejected);
    after(&web, Duration::from_millis(1)).await;
    assert_eq!(condition(&web, 0), Condition::Trial);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_good_ends_a_row_and_a_row_of_another_kind_goes_on() {
    let gateway = Outlier::new().consecutive_5xx(0).consecutive_gateway_failure(2);
    for (outlier, statuses, ejected) in [
        (Outlier::new(), &[500, 503, 501, 599, 502][..], true),
        (Outlier::new(), &[500, 500, 500, 500, 499, 500, 500, 500, 500], false),
        (gateway.clone(), &[502, 504], true),
        (gateway.clone(), &[503, 500, 503, 200, 503], false),
        (gateway.consecutive_gateway_failure(0), &[503; 40], false),
    ] {
        let web = web(2, outlier);
        answers(&web, 0, statuses);
        assert_eq!(condition(&web, 0) == Condition::Ejected, ejected, "{statuses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn local_failures_count_with_the_others_unless_they_are_told_apart() {
    let mixed = [status(500), status(500), Outcome::NoAnswer, Outcome::DialFailed, status(500)];
    for (split, outcomes, ejected) in [
        (false, &mixed[..], true),
        (true, &mixed, false),
        (true, &[Outcome::DialFailed; 5], true),
        (true, &[Outcome::NoAnswer; 4], false),
    ] {
        let web = web(2, Outlier::new().split_external_local_origin_errors(split));
        outcomes.iter().for_each(|outcome| note(&web, 0, *outcome, now()));
        assert_eq!(condition(&web, 0) == Condition::Ejected, ejected, "{split} {outcomes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_ejects_whose_rate_is_far_below_one_interval_after_the_first_request() {
    let web = web(5, Outlier::new());
    assert_eq!(web.table().next_step(), None, "nobody uses it");
    let serve = |bad: usize| {
        for at in 0..5 {
            let failed = if at == 3 { bad } else { 0 };
            (0..100).for_each(|n| {
                let is_bad = n % 4 == 0 && n / 4 < failed;
                note(&web, at, status(if is_bad { 500 } else { 200 }), now());
            });
        }
    };
    serve(20);
    assert_eq!(web.table().next_step(), Some(now() + secs(10)));
    after(&web, secs(9)).await;
    assert_eq!(condition(&web, 3), Condition::Up);
    after(&web, secs(1)).await;
    assert_eq!(condition(&web, 3), Condition::Ejected);
    let reason = web.health(&member(&web, 3)).unwrap().reason;
    assert_eq!(&*reason, "its success rate of 80.0 % is below 80.8 %");
    after(&web, secs(10)).await;
    let returns = now() + secs(20);
    assert_eq!(web.table().next_step(), Some(returns), "no sweep without requests");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_takes_the_worst_first_when_not_all_may_go() {
    let rule = FailurePercentage::new().threshold(50).minimum_hosts(4).request_volume(10);
    let web = web(4, Outlier::new().success_rate(None).failure_percentage(rule).consecutive_5xx(0));
    for (at, bad) in [(0, 6), (1, 9), (2, 5), (3, 8)] {
        (0..10).for_each(|n| note(&web, at, status(if n < bad { 500 } else { 200 }), now()));
    }
    after(&web, secs(10)).await;
    let out: Vec<_> = (0..4).filter(|at| condition(&web, *at) == Condition::Ejected).collect();
    assert_eq!(out, [1, 3]);
    assert_eq!(web.outlier_counts().unwrap().refused, 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_one_bad_request_and_not_two() {
    let tally = Tally::default();
    tally.answers.count(true);
    tally.answers.count(true);
    tally.answers.take_back();
    let volume = tally.answers.take();
    assert_eq!((volume.total, volume.good), (2, 1));
    tally.answers.take_back();
    assert_eq!(tally.answers.take().total, 0, "its interval was over");
}

#[tokio::test(start_paused = true)]
async fn who_asks_to_be_left_alone_is_for_so_long_and_pays_nothing() {
    let wall = std::time::UNIX_EPOCH + secs(784_111_777);
    let answer = |status: u16, text: &str| {
        of_response(
            &Response::builder().status(status).header("retry-after", text).body(()).unwrap(),
        )
    };
    for (status, text, span) in [
        (503, "7", Some(7)),
        (429, "7", Some(7)),
        (503, "Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
        (429, "Sun, 06 Nov 1994 08:49:27 GMT", None),
        (503, "99999999999999999999999", Some(60)),
        (503, "0", None),
        (503, "soon", None),
        (200, "7", None),
        (500, "7", None),
    ] {
        let web = web(2, Outlier::new().clock(Arc::new(wall)));
        note(&web, 0, answer(status, text), now());
        let out = condition(&web, 0) == Condition::Ejected;
        assert_eq!(out, span.is_some(), "{status} {text}");
        let Some(span) = span else { continue };
        after(&web, secs(span) - Duration::from_millis(1)).await;
        assert_eq!(condition(&web, 0), Condition::Ejected, "{status} {text}");
        after(&web, Duration::from_millis(1)).await;
        assert_eq!(condition(&web, 0), Condition::Trial, "{status} {text}");
        let counts = web.outlier_counts().unwrap();
        assert_eq!((counts.ejected, counts.rested), (0, 1));
        // The first ejection that grows is the first all the same.
        web.passive().unwrap().note(&web, &member(&web, 0), Outcome::NoAnswer, true, now());
        after(&web, secs(30)).await;
        assert_eq!(condition(&web, 0), Condition::Trial, "{status} {text}");
    }
    let web = web(2, Outlier::new().retry_after(Duration::ZERO));
    note(&web, 0, answer(503, "7"), now());
    assert_eq!(condition(&web, 0), Condition::Up, "not looked at");
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_is_left_alone_for_longer_and_never_for_less() {
    let web = web(2, Outlier::new());
    let ask = |span| {
        let (status, retry_after) = (StatusCode::SERVICE_UNAVAILABLE, Some(RetryAfter::In(span)));
        note(&web, 0, Outcome::Answered { status, retry_after }, now());
    };
    ask(secs(10));
    after(&web, secs(5)).await;
    ask(secs(20));
    ask(secs(1));
    after(&web, secs(19)).await;
    assert_eq!(condition(&web, 0), Condition::Ejected);
    after(&web, secs(1)).await;
    assert_eq!(condition(&web, 0), Condition::Trial);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_passes_ends_an_ejection_where_it_may_and_no_rest() {
    let rest = Outcome::Answered {
        status: StatusCode::SERVICE_UNAVAILABLE,
        retry_after: Some(RetryAfter::In(secs(9))),
    };
    for (unejects, outcome, ends) in
        [(true, status(500), true), (false, status(500), false), (true, rest, false)]
    {
        let outlier = Outlier::new().successful_active_health_check_uneject_host(unejects);
        let web = web(2, outlier.consecutive_5xx(1));
        let checks =
            web.attach(CheckRules { rise: 1, fall: 3, init: InitState::FullyUp, agent: false });
        note(&web, 0, outcome, now());
        assert_eq!(condition(&web, 0), Condition::Ejected);
        let backend = member(&web, 0);
        web.observe(&backend, checks.say().token(&backend).unwrap(), &Verdict::Pass);
        assert_eq!(condition(&web, 0) == Condition::Up, ends, "{unejects} {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_in_a_row_reach_the_checks_as_on_error_says() {
    // How many failed checks are left, of three, after one row and after two.
    for (on_error, left) in [
        (OnError::FastInter, [3, 3]),
        (OnError::FailCheck, [2, 1]),
        (OnError::SuddenDeath, [1, 0]),
        (OnError::MarkDown, [0, 0]),
    ] {
        for (rows, left) in (1..).zip(left) {
            let web = of(2).observe(Observe::layer7().error_limit(4).on_error(on_error));
            let web = web.build().unwrap();
            let checks =
                web.attach(CheckRules { rise: 2, fall: 3, init: InitState::FullyUp, agent: false });
            let backend = member(&web, 0);
            answers(&web, 0, &[500, 500, 500, 200]);
            (0..rows).for_each(|_| answers(&web, 0, &[500; 4]));
            let token = checks.say().token(&backend).unwrap();
            for before in (1..=left).rev() {
                assert!(web.table().is_eligible(0), "{on_error:?} {rows}: {before} left");
                web.observe(&backend, token, &Verdict::fail("no"));
            }
            assert!(!web.table().is_eligible(0), "{on_error:?} {rows}");
        }
    }
}

#[test]
fn what_is_an_error_depends_on_the_layer() {
    for (outcome, layer4, layer7) in [
        (Outcome::DialFailed, false, false),
        (Outcome::NoAnswer, true, false),
        (Outcome::BrokenOff, true, false),
        (Outcome::Dialled, true, true),
        (status(100), true, true),
        (status(499), true, true),
        (status(500), true, false),
        (status(501), true, true),
        (status(502), true, false),
        (status(504), true, false),
        (status(505), true, true),
        (status(506), true, false),
    ] {
        for (observe, good) in [(Observe::layer4(), layer4), (Observe::layer7(), layer7)] {
            let web = of(1).observe(observe.error_limit(1).on_error(OnError::MarkDown));
            let web = web.build().unwrap();
            let _checks =
                web.attach(CheckRules { rise: 1, fall: 1, init: InitState::FullyUp, agent: false });
            note(&web, 0, outcome, now());
            assert_eq!(web.table().is_eligible(0), good, "{outcome:?}");
        }
    }
}

#[test]
fn errors_in_a_row_mean_nothing_where_nothing_is_checked() {
    let web = of(1).observe(Observe::layer7().on_error(OnError::MarkDown)).build().unwrap();
    answers(&web, 0, &[500; 40]);
    assert!(web.table().is_eligible(0));
    assert_eq!(web.outlier_counts(), None);
}

#[test]
fn a_status_of_grpc_in_the_head_counts_as_the_one_of_http_that_stands_for_it() {
    for (grpc, http) in [
        ("0", 200),
        ("1", 499),
        ("2", 500),
        ("4", 504),
        ("8", 429),
        ("12", 501),
        ("13", 500),
        ("14", 503),
        ("77", 500),
        ("x", 200),
    ] {
        let response = Response::builder().header("grpc-status", grpc).body(()).unwrap();
        assert_eq!(of_response(&response), status(http), "{grpc}");
    }
    let response = Response::builder().status(502).header("grpc-status", "0").body(()).unwrap();
    assert_eq!(of_response(&response), status(502));
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_new_clients_is_not_ejected_and_takes_nobodys_place() {
    let web = web(4, Outlier::new());
    web.update(|change| {
        change.set_state("b0", State::Drain);
        change.set_weight("b1", 0);
    })
    .unwrap();
    (0..4).for_each(|at| answers(&web, at, &[500; 5]));
    let conditions: Vec<_> = (0..4).map(|at| condition(&web, at)).collect();
    use Condition::{Draining, Ejected, Up};
    assert_eq!(conditions, [Draining, Up, Ejected, Up], "one of two may go");
}

#[tokio::test(start_paused = true)]
async fn an_ejection_is_overruled_while_others_are_down() {
    let web = web(2, Outlier::new());
    answers(&web, 0, &[500; 5]);
    assert!(!web.table().is_eligible(0));
    web.set_up(&member(&web, 1), false);
    assert!(web.table().is_eligible(0), "nobody else is left");
    assert_eq!(condition(&web, 0), Condition::Ejected);
    web.set_up(&member(&web, 1), true);
    assert!(!web.table().is_eligible(0));
}

#[tokio::test]
async fn one_request_is_no_more_than_one_error() {
    use http_body_util::{BodyExt, StreamBody};
    use tower::{ServiceExt, service_fn};

    let web = web(2, Outlier::new().consecutive_5xx(2));
    let peer = |_: http::Request<http_body_util::Full<&'static [u8]>>| async {
        let broken = futures_util::stream::iter([Err::<http_body::Frame<&[u8]>, _>("broken")]);
        let response = Response::builder().status(500).body(StreamBody::new(broken));
        Ok::<_, crate::BoxError>(response.unwrap())
    };
    let dial =
        service_fn(
            move |_: Arc<Backend>| async move { Ok::<_, crate::BoxError>(service_fn(peer)) },
        );
    let balance = crate::Balance::new(web.clone(), crate::First::new(), dial);
    let answer = balance.clone().oneshot(http::Request::new(Default::default())).await.unwrap();
    assert!(answer.into_body().frame().await.unwrap().is_err());
    assert_eq!(condition(&web, 0), Condition::Up, "it was one request");
}

#[test]
fn an_answer_that_was_bad_and_breaks_off_is_bad_once_in_the_rates() {
    let rule = FailurePercentage::new().minimum_hosts(1).request_volume(1).threshold(85);
    let outlier = Outlier::new().consecutive_5xx(0).success_rate(None).failure_percentage(rule);
    let web = web(2, outlier);
    let start = now();
    for _ in 0..50 {
        note(&web, 0, status(200), start);
        let lease = Arc::new(crate::lease::Home::new(web.clone(), &crate::First::new()))
            .lease(&web.table(), 0)
            .unwrap();
        lease.report(|| status(500));
        lease.report(|| Outcome::BrokenOff);
    }
    web.step(start + secs(10));
    assert_eq!(condition(&web, 0), Condition::Up, "half of its requests went well");
}

#[test]
fn what_is_in_the_meantime_left_alone_forgets_all_the_same() {
    let web = web(2, Outlier::new());
    let start = now();
    let mut growth = Growth::default();
    let judge = web.judge().unwrap();
    for _ in 0..3 {
        judge.sentence(Sentence::Grows, &mut growth, start);
    }
    growth.back_in(start);
    // In for two intervals, out at its own wish for a moment, then back.
    judge.sentence(Sentence::Rest(secs(1)), &mut growth, start + secs(20));
    growth.back_in(start + secs(21));
    let out = judge.sentence(Sentence::Grows, &mut growth, start + secs(22));
    assert_eq!(out, Ejection::Out { until: start + secs(22 + 60) }, "3 - 2 + 1 times 30 s");
}

#[tokio::test]
async fn of_a_connection_only_the_dial_counts() {
    use tower::{ServiceExt, service_fn};

    let web = web(2, Outlier::new().consecutive_5xx(1));
    // A tunnel that was broken off, hours after it was dialled.
    let peer = |_: http::Request<http_body_util::Full<&'static [u8]>>| async {
        Err::<(), crate::BoxError>("broken off".into())
    };
    let dial =
        service_fn(
            move |_: Arc<Backend>| async move { Ok::<_, crate::BoxError>(service_fn(peer)) },
        );
    let balance = crate::Balance::new(web.clone(), crate::First::new(), dial);
    balance.oneshot(http::Request::new(Default::default())).await.unwrap_err();
    assert_eq!(condition(&web, 0), Condition::Up);
}
