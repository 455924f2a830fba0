use bartizan_net::Address;

use super::*;
use crate::clock::now;
use crate::{Backend, Health, Verdict};

const TIMING: Timing = Timing {
    every: Duration::from_secs(2),
    fast: Duration::from_millis(500),
    down: Duration::from_secs(5),
    jitter: 0.0,
    max_concurrent: 1_000_000,
};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn id() -> BackendId {
    Backend::new("a", Address::from(std::net::SocketAddr::from(([192, 0, 2, 1], 80)))).id()
}

fn ids(count: usize) -> Vec<BackendId> {
    (0..count).map(|_| id()).collect()
}

/// When each probe starts, in milliseconds, if one takes `takes` and finds these verdicts: `+` passes,
/// `-` fails. The last is the one after them.
fn trace(timing: Timing, takes: Duration, (rise, fall): (u32, u32), verdicts: &str) -> Vec<u64> {
    let (begin, id) = (now(), id());
    let (mut schedule, mut health) = (Schedule::new(timing, begin, 1), Health::new(rise, fall));
    schedule.insert(id, First::AtOnce(0.0), begin);
    let mut times = Vec::new();
    for verdict in verdicts.chars() {
        let start = schedule.next().unwrap();
        assert_eq!(schedule.start(start), Some(id));
        assert_eq!(schedule.next(), None, "one probe of a backend at a time");
        times.push((start - begin).as_millis() as u64);
        health.observe(&if verdict == '+' { Verdict::Pass } else { Verdict::fail("no") });
        schedule.ended(id, health.pace(), start + takes);
    }
    times.push((schedule.next().unwrap() - begin).as_millis() as u64);
    times
}

#[test]
fn the_times_of_probes_are_haproxys() {
    let rise_2_fall_3 = trace(TIMING, ms(10), (2, 3), "+----+-++");
    // Up; fails, fast; down, and stays so; one pass, fast; it was none; two passes, fast; up.
    assert_eq!(rise_2_fall_3, [0, 2000, 2500, 3000, 8000, 13_000, 13_500, 18_500, 19_000, 21_000]);
    assert_eq!(trace(TIMING, ms(10), (2, 3), "--+--+"), [0, 500, 1000, 3000, 3500, 4000, 6000]);
    assert_eq!(trace(TIMING, ms(10), (1, 1), "-+-+"), [0, 5000, 7000, 12_000, 14_000]);
    let alike = Timing { fast: TIMING.every, down: TIMING.every, ..TIMING };
    assert_eq!(trace(alike, ms(10), (2, 3), "+---+"), [0, 2000, 4000, 6000, 8000, 10_000]);
}

#[test]
fn a_probe_that_takes_longer_than_the_interval_is_followed_by_the_next_at_once() {
    assert_eq!(trace(TIMING, ms(1_999), (2, 3), "++"), [0, 2000, 4000]);
    assert_eq!(trace(TIMING, ms(2_500), (2, 3), "++"), [0, 2500, 5000]);
    assert_eq!(trace(TIMING, ms(2_500), (2, 3), "+-+"), [0, 2500, 5000, 7500]);
}

#[test]
fn what_a_timer_is_late_by_does_not_add_up_and_a_long_delay_is_not_made_up_for() {
    for (late, next) in [(1, 2000), (200, 2000), (201, 2201), (900, 2900)] {
        let (begin, id) = (now(), id());
        let mut schedule = Schedule::new(TIMING, begin, 1);
        schedule.insert(id, First::AtOnce(0.0), begin);
        schedule.start(begin + ms(late)).unwrap();
        schedule.ended(id, Pace::Normal, begin + ms(late));
        assert_eq!(schedule.next(), Some(begin + ms(next)), "{late} ms late");
    }
}

#[test]
fn what_is_due_within_a_few_milliseconds_is_started_together() {
    let (begin, ids) = (now(), ids(3));
    let mut schedule = Schedule::new(TIMING, begin, 1);
    for (id, at) in ids.iter().zip([0, 2, 9]) {
        schedule.insert(*id, First::Share(at as f64 / 2000.0), begin);
    }
    assert_eq!(schedule.wake(), Some(begin));
    schedule.start(begin).unwrap();
    assert_eq!(schedule.wake(), Some(begin + BATCH));
    schedule.start(begin + BATCH).unwrap();
    assert_eq!(schedule.wake(), Some(begin + BATCH * 2));
}

#[test]
fn jitter_keeps_within_its_share_and_uses_all_of_it() {
    let begin = now();
    for percent in [10_u64, 50] {
        let timing = Timing { jitter: percent as f64 / 100.0, ..TIMING };
        let mut schedule = Schedule::new(timing, begin, 7);
        let intervals: Vec<_> = (0..1000).map(|_| schedule.interval(Pace::Normal)).collect();
        let (least, most) = (2000 - 20 * percent, 2000 + 20 * percent);
        assert!(intervals.iter().all(|i| (ms(least)..=ms(most)).contains(i)));
        assert!(intervals.iter().any(|i| *i < ms(least + 2 * percent)));
        assert!(intervals.iter().any(|i| *i > ms(most - 2 * percent)));
        let mean = intervals.iter().sum::<Duration>() / 1000;
        assert!((ms(1950)..ms(2050)).contains(&mean), "{mean:?}");
    }
}

/// The largest number of times within 20 ms, over the mean, of probes over one interval.
fn unevenness(mut schedule: Schedule, count: usize, from: Instant) -> f64 {
    let mut windows = vec![0; 100];
    while let Some(due) = schedule.next().filter(|due| *due < from + TIMING.every) {
        windows[((due - from).as_millis() / 20) as usize] += 1;
        schedule.start(due).unwrap();
    }
    assert_eq!(windows.iter().sum::<usize>(), count, "each once");
    let most = windows.iter().max().copied().unwrap_or_default();
    most as f64 / (count as f64 / 100.0)
}

#[test]
fn ten_thousand_are_spread_evenly_whether_they_come_together_or_by_and_by() {
    let (begin, ids) = (now(), ids(10_000));
    let mut together = Schedule::new(TIMING, begin, 1);
    for (position, id) in ids.iter().enumerate() {
        together.insert(*id, First::Share(position as f64 / 10_000.0), begin);
    }
    assert!(unevenness(together, 10_000, begin) <= 1.01);

    let mut later = Schedule::new(TIMING, begin, 1);
    let mut at = begin;
    for (i, id) in ids.iter().enumerate() {
        // A thousand at a time, 700 ms apart.
        at = begin + ms(i as u64 / 1000 * 700);
        while let Some(due) = later.next().filter(|due| *due < at) {
            let probed = later.start(due).unwrap();
            later.ended(probed, Pace::Normal, due);
        }
        later.insert(*id, First::Placed, at);
    }
    assert!(unevenness(later, 10_000, at) <= 1.05);
}

#[test]
fn what_is_due_beyond_the_maximum_waits_in_the_order_in_which_it_became_due() {
    let (begin, ids) = (now(), ids(4));
    let mut schedule = Schedule::new(Timing { max_concurrent: 2, ..TIMING }, begin, 1);
    for (id, share) in ids.iter().zip([0.3, 0.2, 0.1, 0.0]) {
        schedule.insert(*id, First::Share(share), begin);
    }
    let late = begin + ms(1000);
    assert_eq!(schedule.start(late), Some(ids[3]));
    assert!(!schedule.falls_behind(late));
    assert_eq!(schedule.start(late), Some(ids[2]));
    assert_eq!((schedule.start(late), schedule.next()), (None, None));
    assert!(schedule.falls_behind(late));
    assert!(!schedule.falls_behind(late), "told once");

    // Room comes from one that ends, leaves or rests alike.
    schedule.ended(ids[2], Pace::Normal, late);
    assert_eq!((schedule.start(late), schedule.start(late)), (Some(ids[1]), None));
    schedule.remove(ids[3]);
    assert_eq!((schedule.start(late), schedule.running()), (Some(ids[0]), 2));
    assert!(!schedule.falls_behind(late));
    assert!(schedule.rest(ids[0]));
    assert_eq!(schedule.running(), 1);
}

#[test]
fn who_is_hurried_is_due_within_the_fast_interval_and_never_later_than_before() {
    let (begin, id) = (now(), id());
    let mut schedule = Schedule::new(TIMING, begin, 1);
    schedule.insert(id, First::AtOnce(0.0), begin);
    schedule.start(begin).unwrap();
    schedule.ended(id, Pace::Normal, begin);
    schedule.hurry(id, begin + ms(1000));
    assert_eq!(schedule.next(), Some(begin + ms(1500)));
    schedule.hurry(id, begin + ms(1400));
    assert_eq!(schedule.next(), Some(begin + ms(1500)), "it is due sooner already");

    // While it is probed.
    schedule.start(begin + ms(1500)).unwrap();
    schedule.hurry(id, begin + ms(1600));
    schedule.hurry(id, begin + ms(1700));
    schedule.ended(id, Pace::Normal, begin + ms(1800));
    assert_eq!(schedule.next(), Some(begin + ms(2100)));
    schedule.start(begin + ms(2100)).unwrap();
    schedule.ended(id, Pace::Normal, begin + ms(2100));
    assert_eq!(schedule.next(), Some(begin + ms(4100)), "once");
}

#[test]
fn what_rests_is_not_due_until_it_is_resumed_and_a_verdict_from_before_starts_nothing() {
    let (begin, id) = (now(), id());
    let mut schedule = Schedule::new(TIMING, begin, 1);
    schedule.insert(id, First::AtOnce(0.0), begin);
    schedule.start(begin).unwrap();
    assert!(schedule.rest(id));
    schedule.ended(id, Pace::Normal, begin);
    schedule.hurry(id, begin);
    assert_eq!((schedule.next(), schedule.running()), (None, 0));
    schedule.resume(id, begin + ms(700));
    assert_eq!(schedule.next(), Some(begin + ms(700)));
    schedule.resume(id, begin + ms(800));
    assert_eq!(schedule.next(), Some(begin + ms(700)), "it does not rest any more");

    schedule.remove(id);
    schedule.rest(id);
    schedule.resume(id, begin);
    assert_eq!(schedule.next(), None, "it has left");
}

#[test]
fn the_first_that_is_placed_is_probed_at_once() {
    let (begin, id) = (now(), id());
    let mut schedule = Schedule::new(TIMING, begin, 1);
    for at in [begin + ms(700), begin + ms(1_000)] {
        schedule.insert(id, First::Placed, at);
        assert_eq!(schedule.next(), Some(at));
    }
}
