use super::*;

const WEIGHING: Weighing = Weighing { decay: 10_000.0, unknown: 30_000.0 };

fn average(micros: f32, at: u32) -> Average {
    Average { micros, at }
}

#[cfg(not(loom))]
mod plain {
    use proptest::prelude::*;

    use super::*;

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() <= b.abs() * 1e-3
    }

    #[test]
    fn a_peak_counts_at_once_and_what_is_less_by_and_by() {
        assert_eq!(observed(average(100.0, 0), 900.0, 5, 10_000.0), average(900.0, 5));
        let half_life = (10_000.0 * std::f32::consts::LN_2) as u32;
        let after = observed(average(900.0, 0), 100.0, half_life, 10_000.0);
        assert!(near(after.micros, 500.0), "{after:?}");
        let at_once = observed(average(900.0, 7), 100.0, 7, 10_000.0);
        assert_eq!(at_once.micros, 900.0, "no time has passed");
    }

    #[test]
    fn time_stamps_go_round() {
        let late = u32::MAX - 2_999;
        assert!(near(kept(late, 7_000, 10_000.0), (-1.0_f32).exp()));
        assert_eq!(kept(7_000, late, 10_000.0), 1.0, "a stamp from a moment ahead is a race");
        assert!(kept(0, u32::MAX / 2 + 1, 10_000.0) < 1e-9, "25 days are long");
    }

    #[test]
    fn who_was_never_measured_costs_the_default_and_is_tried_in_the_end() {
        let (latency, start) = (Latency::default(), tokio::time::Instant::now().into_std());
        assert_eq!(latency.expected(false, start, WEIGHING), 30_000.0);
        let later = start + Duration::from_secs(100);
        assert!(near(latency.expected(false, later, WEIGHING), 30_000.0 * (-10.0_f32).exp()));
        assert_eq!(latency.expected(true, later, WEIGHING), 30_000.0, "but by one only");
        let much_later = start + Duration::from_secs(100_000);
        assert_eq!(latency.expected(false, much_later, WEIGHING), LEAST);
    }

    #[test]
    fn a_measurement_of_nothing_is_a_measurement() {
        let (latency, now) = (Latency::default(), tokio::time::Instant::now().into_std());
        latency.observe(Duration::ZERO, now, WEIGHING);
        assert_eq!(latency.expected(true, now, WEIGHING), LEAST);
    }

    #[test]
    fn a_time_before_the_first_one_is_no_panic() {
        let (latency, now) = (Latency::default(), tokio::time::Instant::now().into_std());
        latency.observe(Duration::from_millis(3), now + Duration::from_secs(9), WEIGHING);
        assert!(near(latency.expected(false, now, WEIGHING), 3_000.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn stays_between_what_was_and_what_is(
            micros in 1.0_f32..1e9,
            took in 1.0_f32..1e9,
            at in any::<u32>(),
            passed in 0_u32..4_000_000_000,
        ) {
            let before = average(micros, at);
            prop_assert_eq!(unpack(pack(before)), before);
            let after = observed(before, took, at.wrapping_add(passed), WEIGHING.decay).micros;
            let bounds = micros.min(took) * 0.999..=micros.max(took) * 1.001;
            prop_assert!(bounds.contains(&after), "{}", after);
            prop_assert!(after >= took * 0.999, "a peak counts in full");
        }
    }
}

/// `tests/loom/run` runs them.
#[cfg(loom)]
mod loom {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn two_measurements_at_once_both_count() {
        ::loom::model(|| {
            let latency = Arc::new(Latency::default());
            let other = Arc::clone(&latency);
            let thread = ::loom::thread::spawn(move || other.observe_at(900.0, 5, WEIGHING));
            latency.observe_at(100.0, 5, WEIGHING);
            thread.join().unwrap();
            // In whichever order: the peak is there, whole.
            let word = latency.word.load(Ordering::Relaxed);
            assert_eq!(unpack(word), average(900.0, 5));
        });
    }

    #[test]
    fn who_reads_meanwhile_sees_one_or_the_other() {
        ::loom::model(|| {
            let latency = Arc::new(Latency::default());
            let other = Arc::clone(&latency);
            let thread = ::loom::thread::spawn(move || other.observe_at(900.0, 5, WEIGHING));
            let seen = latency.expected_at(true, 5, WEIGHING);
            assert!(seen == 900.0 || seen == WEIGHING.unknown, "{seen}");
            thread.join().unwrap();
        });
    }
}
