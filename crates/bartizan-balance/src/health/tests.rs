//! The tables of the documentation are what happens.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::now;
use crate::health::state::Ejection;
use crate::{Backend, CheckState, Cluster, MinHealthy, SlowStart, Standing, State};

const DOCUMENTED: &str = include_str!("transitions.md");

/// The rows of the table that begins with this head.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let lines = DOCUMENTED.lines().skip_while(|line| !line.starts_with(head));
    let rows = lines.skip(2).take_while(|line| line.starts_with('|'));
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    let rows: Vec<_> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "no table begins with {head}");
    rows
}

fn verdict(word: &str) -> Verdict {
    match word {
        "pass" => Verdict::Pass,
        "stop" => Verdict::stop("404"),
        "fail" => Verdict::fail("no"),
        "unfit" => Verdict::unfit("another"),
        other => panic!("{other}"),
    }
}

fn word(state: CheckState) -> &'static str {
    match state {
        CheckState::Up => "up",
        CheckState::Stopping => "stopping",
        CheckState::Unproven => "unproven",
        CheckState::Down => "down",
        CheckState::Unfit => "unfit",
    }
}

/// What the table says comes of a verdict, `in_a_row` with those before it that spoke against.
fn documented(from: &str, verdict: &str, in_a_row: u32, rise: u32, fall: u32) -> &'static str {
    let fits = |when: &str| match when {
        "always" => true,
        "fewer than `fall` in a row" => in_a_row < fall,
        "`fall` in a row" => in_a_row >= fall,
        "fewer than `rise` in a row" => in_a_row < rise,
        "`rise` in a row" => in_a_row >= rise,
        other => panic!("{other}"),
    };
    let rows = table("| state | verdict |");
    let mut rows = rows.iter().filter(|row| row[0] == from && row[1] == verdict && fits(row[2]));
    let (row, others) = (rows.next(), rows.count());
    assert_eq!(others, 0, "one row for {verdict} while {from}");
    row.unwrap_or_else(|| panic!("no row for {verdict} while {from}"))[3]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn verdicts_lead_where_the_table_says(
        (rise, fall) in (1_u32..4, 1_u32..4),
        init in prop::sample::select(vec![InitState::FullyUp, InitState::FullyDown]),
        verdicts in prop::collection::vec(
            prop::sample::select(vec!["pass", "stop", "fail", "unfit"]), 1..40),
    ) {
        let mut health = Health::new(rise, fall).init(init, CheckState::Up);
        let mut in_a_row = 0;
        for given in verdicts {
            let from = health.state();
            let against = if from <= CheckState::Stopping { "fail" } else { "pass" };
            in_a_row = if given == against { in_a_row + 1 } else { 0 };
            let then = documented(word(from), given, in_a_row, rise, fall);
            health.observe(&verdict(given));
            prop_assert_eq!(word(health.state()), then, "{} while {:?}", given, from);
            let was_up = from <= CheckState::Stopping;
            if was_up != health.is_up() {
                in_a_row = 0;
            }
            let pace = match (in_a_row, health.is_up()) {
                (0, true) => Pace::Normal,
                (0, false) => Pace::Down,
                _ => Pace::Fast,
            };
            prop_assert_eq!(health.pace(), pace);
        }
    }
}

const WANTED: [(State, &str); 3] =
    [(State::Ready, "ready"), (State::Drain, "drain"), (State::Maintenance, "maintenance")];

const CHECKED: [CheckState; 5] = [
    CheckState::Up,
    CheckState::Stopping,
    CheckState::Unproven,
    CheckState::Down,
    CheckState::Unfit,
];

fn ejections() -> [(Ejection, &'static str); 4] {
    let until = now() + std::time::Duration::from_secs(60);
    [
        (Ejection::In, "in"),
        (Ejection::Out { until }, "out"),
        (Ejection::Rest { until }, "resting"),
        (Ejection::Trial, "trial"),
    ]
}

fn member(cluster: &Cluster, position: usize) -> Arc<Backend> {
    Arc::clone(&cluster.table().members()[position])
}

/// Two backends, the first in this state, the second well or down.
fn cluster(
    state: (State, CheckState, Ejection),
    other: CheckState,
    panic_below: MinHealthy,
) -> Cluster {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").backend("b", "127.0.0.1:2");
    let web = web.panic_below(panic_below).build().unwrap();
    let (wanted, checked, ejection) = state;
    crate::cluster::affect(&member(&web, 0), |health| {
        health.follow(checked, "told", now());
        health.eject(ejection, "told", now());
    });
    crate::cluster::affect(&member(&web, 1), |health| health.follow(other, "told", now()));
    web.update(|change| change.set_state("a", wanted)).unwrap();
    web
}

#[test]
fn all_parts_together_make_what_the_table_says() {
    let rows = table("| operator | checks |");
    for (wanted, wanted_word) in WANTED {
        for checked in CHECKED {
            for (ejection, ejection_word) in ejections() {
                let words = [wanted_word, word(checked), ejection_word];
                let fits = |row: &&Vec<&str>| {
                    row.iter().zip(words).all(|(cell, word)| *cell == "any" || *cell == word)
                };
                let row = rows.iter().find(fits).expect("a row fits");
                let state = (wanted, checked, ejection);
                let web = cluster(state, CheckState::Up, MinHealthy::percent(0));
                let report = web.health(&member(&web, 0)).unwrap();
                assert_eq!(report.condition.as_str(), row[3], "{words:?}");
                let table = web.table();
                assert_eq!(table.is_eligible(0), row[4] == "yes", "{words:?}: new clients");
                assert_eq!(report.eligible, row[4] == "yes");
                let on_trial = table.trials().contains(&0);
                assert_eq!(on_trial, row[4] == "one at a time", "{words:?}: trials");
                let stands = table.standing(0) != Standing::Out;
                assert_eq!(stands, row[5] == "yes", "{words:?}: pinned clients");
                let web = cluster(state, CheckState::Down, MinHealthy::percent(100));
                assert!(web.table().in_panic() || checked == CheckState::Up);
                let drains = wanted == State::Drain;
                let used = row[6] == "yes" || row[6] == "unless it drains" && !drains;
                assert_eq!(web.table().is_eligible(0), used, "{words:?}: in panic");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_says_since_when_and_why() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let a = member(&web, 0);
    let checks =
        web.attach(CheckRules { rise: 2, fall: 3, init: InitState::FullyUp, agent: false });
    let token = checks.say().token(&a).unwrap();
    for _ in 0..3 {
        web.observe(&a, token, &Verdict::fail("connection refused"));
    }
    tokio::time::advance(std::time::Duration::from_secs(12)).await;
    let report = web.health(&a).unwrap();
    let sentence = "down for 12.0s: 3 checks in a row failed: connection refused";
    assert_eq!(report.to_string(), sentence);
    assert!(!report.eligible);
    let stranger = Backend::new("b", "127.0.0.1:2".parse().unwrap());
    assert!(web.health(&stranger).is_none());
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_once_each_to_whoever_subscribes() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let mut changes = web.health_changes();
    let a = member(&web, 0);
    web.set_up(&a, false);
    web.set_up(&a, false);
    web.update(|change| change.set_state("a", State::Maintenance)).unwrap();
    web.set_up(&a, true);
    web.update(|change| change.set_state("a", State::Ready)).unwrap();
    drop(web);
    let mut seen = Vec::new();
    while let Some(change) = changes.recv().await {
        let change = change.unwrap();
        seen.push((change.from, change.to));
        assert_eq!((&*change.cluster, change.backend.id()), ("web", a.id()));
    }
    use Condition::{Down, Maintenance, Up};
    assert_eq!(seen, [(Up, Down), (Down, Maintenance), (Maintenance, Up)]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_listen_is_told_how_much_was_missed() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let mut changes = web.health_changes();
    let a = member(&web, 0);
    (0..300).for_each(|n| _ = web.set_up(&a, n % 2 == 1));
    assert_eq!(
        changes.recv().await.unwrap().unwrap_err(),
        MissedChanges { count: 300 - KEPT as u64 }
    );
    assert_eq!(changes.recv().await.unwrap().unwrap().to, Condition::Down);
}

#[test]
fn of_several_sets_of_checks_the_worst_finding_counts() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let a = member(&web, 0);
    let rules = CheckRules { rise: 1, fall: 1, init: InitState::FullyUp, agent: false };
    let (one, two) = (web.attach(rules), web.attach(rules));
    let token = |checks: &crate::cluster::Attachment| checks.say().token(&a).unwrap();
    web.observe(&a, token(&one), &Verdict::fail("no"));
    web.observe(&a, token(&two), &Verdict::Pass);
    assert!(!web.table().is_eligible(0), "one of them says that it is down");
    // What it found last holds until others look.
    drop(one);
    assert!(!web.table().is_eligible(0));
    web.observe(&a, token(&two), &Verdict::Pass);
    assert!(web.table().is_eligible(0), "or it would stay down for good");
}

#[test]
fn who_tracks_another_is_as_well_as_that_one_in_all_clusters() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let a = member(&web, 0);
    let rules = CheckRules { rise: 1, fall: 1, init: InitState::FullyUp, agent: false };
    let checks = web.attach(rules);
    let token = checks.say().token(&a).unwrap();
    web.observe(&a, token, &Verdict::fail("no"));
    let tracks = |name: &str, other: &Arc<Backend>| {
        Backend::new(name, "127.0.0.1:1".parse().unwrap()).tracking(Arc::clone(other))
    };
    let api = Cluster::builder("api").add(tracks("x", &a)).build().unwrap();
    let x = member(&api, 0);
    let third = Cluster::builder("third").add(tracks("y", &x)).build().unwrap();
    assert!(!api.table().is_eligible(0) && !third.table().is_eligible(0), "from the start");
    let mut changes = third.health_changes();
    web.observe(&a, token, &Verdict::Pass);
    assert!(api.table().is_eligible(0) && third.table().is_eligible(0));
    web.observe(&a, token, &Verdict::fail("refused"));
    assert!(!api.table().is_eligible(0) && !third.table().is_eligible(0));
    let said: Vec<_> = std::iter::from_fn(|| {
        futures_util::FutureExt::now_or_never(changes.recv())?.map(|change| change.unwrap())
    })
    .collect();
    assert_eq!(said.len(), 2);
    assert!(said[1].reason.contains("as x, which it tracks: as a, which it tracks"), "{}", said[1]);
    // Its own checks have no say: it is checked elsewhere.
    assert!(api.attach(rules).say().token(&x).is_none());
}

#[test]
fn two_clusters_that_share_a_backend_hear_of_the_same_checks() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let a = member(&web, 0);
    let api = Cluster::builder("api").build().unwrap();
    api.update(|change| change.add(Arc::clone(&a))).unwrap();
    let checks =
        web.attach(CheckRules { rise: 1, fall: 1, init: InitState::FullyUp, agent: false });
    web.observe(&a, checks.say().token(&a).unwrap(), &Verdict::fail("no"));
    assert!(!web.table().is_eligible(0) && !api.table().is_eligible(0));
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_comes_back_slowly() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1");
    let ramp = SlowStart::new(std::time::Duration::from_secs(10));
    let web = web.slow_start(ramp).build().unwrap();
    let a = member(&web, 0);
    web.set_up(&a, false);
    web.set_up(&a, true);
    assert!(web.health(&a).unwrap().weight_factor < 0.1);
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    web.step(now());
    assert_eq!(web.health(&a).unwrap().weight_factor, 0.5);
}

#[test]
fn errors_of_requests_do_not_speak_against_what_an_agent_has_said() {
    let (now, init) = (now(), InitState::FullyUp);
    let mut health = HealthState::new(now);
    health.attach(1, CheckRules { rise: 1, fall: 1, init, agent: true }, now);
    let tcp = health.attach(2, CheckRules { rise: 2, fall: 3, init, agent: false }, now);
    health.errors_seen(OnError::MarkDown, "errors", now);
    assert_eq!(health.condition(), Condition::Down);
    health.observe(tcp, &Verdict::Pass, now);
    health.observe(tcp, &Verdict::Pass, now);
    assert_eq!(health.condition(), Condition::Up, "an agent need not say that it is up");
}
