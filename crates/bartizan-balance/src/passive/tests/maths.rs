//! The numbers, without a cluster.

use super::super::growth::ejection_time;
use super::super::judge::jitter;
use super::super::rates::{Rule, Volume, suspects, threshold};
use super::*;

fn volumes(good: &[u32]) -> Vec<Volume> {
    good.iter().map(|good| Volume { total: 100, good: *good }).collect()
}

/// One backend at half, the others perfect.
fn one_bad(count: usize) -> Vec<Volume> {
    let mut good = vec![100; count];
    good[0] = 50;
    volumes(&good)
}

#[test]
fn one_that_differs_is_far_enough_below_from_five_hosts_on() {
    let rule = SuccessRate::new().minimum_hosts(1);
    for count in 1..=10 {
        let out = suspects(&one_bad(count), Some(rule), None);
        let places: Vec<_> = out.iter().map(|suspect| suspect.place).collect();
        assert_eq!(places, if count >= 5 { vec![0] } else { vec![] }, "{count}");
    }
    for count in 1..=10 {
        let compared = threshold(&one_bad(count), SuccessRate::new()).is_some();
        assert_eq!(compared, count >= 5, "five hosts by default");
    }
}

#[test]
fn the_threshold_is_the_mean_less_the_deviation_times_the_factor() {
    // Mean 90, deviation 20.
    let threshold = |factor| {
        threshold(&volumes(&[50, 100, 100, 100, 100]), SuccessRate::new().stdev_factor(factor))
    };
    for (factor, expected) in [(0, 90.0), (1000, 70.0), (1900, 52.0), (3000, 30.0)] {
        assert!((threshold(factor).unwrap() - expected).abs() < 1e-9, "{factor}");
    }
}

#[test]
fn who_has_had_too_few_requests_is_neither_compared_nor_counted() {
    let mut few = one_bad(6);
    few[0] = Volume { total: 99, good: 0 };
    assert!(suspects(&few, Some(SuccessRate::new()), None).is_empty());
    few[1] = Volume { total: 99, good: 99 };
    assert_eq!(threshold(&few, SuccessRate::new()), None, "four are left");
    let none = [Volume::default(); 5];
    let rule = FailurePercentage::new().request_volume(0).threshold(0);
    assert!(suspects(&none, Some(SuccessRate::new().request_volume(0)), Some(rule)).is_empty());
}

#[test]
fn a_percentage_of_failures_is_exact() {
    let rule = FailurePercentage::new();
    for (good, out) in [(16, false), (15, true), (14, true), (0, true)] {
        let volumes = volumes(&[good, 100, 100, 100, 100]);
        assert_eq!(!suspects(&volumes, None, Some(rule)).is_empty(), out, "{good}");
        assert!(suspects(&volumes[..4], None, Some(rule)).is_empty(), "four hosts");
    }
}

#[test]
fn whom_both_rules_suspect_is_suspected_once_and_the_worst_comes_first() {
    let volumes = volumes(&[100, 10, 100, 5, 100, 100, 100, 100, 100, 100]);
    let rules = (Some(SuccessRate::new()), Some(FailurePercentage::new()));
    let found = suspects(&volumes, rules.0, rules.1);
    let places: Vec<_> = found.iter().map(|suspect| suspect.place).collect();
    assert_eq!(places, [3, 1]);
    assert!(matches!(found[0].rule, Rule::SuccessRate(_)));
}

#[test]
fn an_ejection_lasts_as_often_the_base_as_there_were_capped_and_with_jitter() {
    let time = |times, longest, jitter| {
        ejection_time(times, secs(30), secs(longest), secs(jitter)).as_secs()
    };
    assert_eq!([1, 2, 9, 10, 11].map(|times| time(times, 300, 0)), [30, 60, 270, 300, 300]);
    assert_eq!(time(u32::MAX, 300, 7), 307);
    assert_eq!(time(1, 10, 0), 30, "never below the base");
    assert_eq!(jitter(secs(10), 0), Duration::ZERO);
    assert_eq!(jitter(secs(10), 1 << 63), secs(5));
    assert!(jitter(secs(10), u64::MAX) <= secs(10));
}

#[test]
fn each_interval_in_lets_one_ejection_be_forgotten() {
    let start = now();
    for (stayed, times) in [(0, 4), (9, 4), (10, 3), (29, 2), (30, 1), (9_999, 1)] {
        let mut growth = Growth::default();
        for expected in 1..=3 {
            assert_eq!(growth.ejected(secs(10), start), expected, "it has not been in");
        }
        growth.back_in(start);
        assert_eq!(growth.ejected(secs(10), start + secs(stayed)), times, "{stayed}");
    }
}
