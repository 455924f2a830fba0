use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn epochs() -> Epochs {
    Epochs::every(Duration::from_secs(100))
}

/// A random ring with secrets that count.
struct Random {
    ring: Ring,
    drawn: Cell<u8>,
}

impl Random {
    fn new() -> Self {
        Self { ring: Ring::empty(), drawn: Cell::new(0) }
    }

    fn at(&mut self, epoch: u64) -> Vec<u8> {
        if !Origin::Random.stays(&self.ring, epoch) {
            let fresh = || {
                self.drawn.set(self.drawn.get() + 1);
                Some(Zeroizing::new([self.drawn.get(); 32]))
            };
            self.ring = Origin::Random.next(&self.ring, epochs(), epoch, fresh).unwrap();
        }
        assert!(Origin::Random.stays(&self.ring, epoch), "the same reading would turn it again");
        assert_eq!(self.ring.makes, 0);
        self.ring.secrets.iter().map(|secret| secret[0]).collect()
    }
}

fn shared(keys: &[&[u8]], makes: usize, epochs: Epochs, epoch: u64) -> Ring {
    let keys = keys.iter().map(|key| Zeroizing::new(key.to_vec())).collect();
    let origin = Origin::Shared(Masters { keys, makes });
    origin.next(&Ring::empty(), epochs, epoch, || panic!("nothing is left to chance")).unwrap()
}

/// Whether `other` opens what `maker` makes.
fn opens(other: &Ring, maker: &Ring) -> bool {
    other.secrets.contains(&maker.secrets[maker.makes])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn epochs_are_numbered_from_1970_by_whole_periods() {
    let at = |seconds| epochs().at(UNIX_EPOCH + Duration::from_secs_f64(seconds));
    assert_eq!([at(0.0), at(99.9), at(100.0), at(250.0)], [0, 0, 1, 2]);
    assert_eq!(epochs().at(UNIX_EPOCH - Duration::from_secs(1)), 0);
}

#[test]
fn a_period_is_between_a_minute_and_seven_days() {
    let period = |asked| Epochs::every(asked).period().as_secs();
    assert_eq!(period(Duration::ZERO), 60);
    assert_eq!(period(Duration::from_millis(90_500)), 90);
    assert_eq!(period(Duration::MAX), 604_800);
}

#[test]
fn a_random_ring_keeps_the_last_secret_for_one_more_epoch() {
    let mut ring = Random::new();
    assert_eq!(ring.at(7), [1]);
    assert_eq!(ring.at(7), [1]);
    assert_eq!(ring.at(8), [2, 1]);
    assert_eq!(ring.at(9), [3, 2]);
    assert_eq!(ring.at(11), [4], "both were older than a period");
}

#[test]
fn a_clock_that_goes_back_across_a_border_does_not_rotate_again() {
    let mut ring = Random::new();
    ring.at(7);
    for epoch in [8, 7, 8, 7, 8] {
        assert_eq!(ring.at(epoch), [2, 1]);
    }
}

#[test]
fn a_clock_that_was_far_ahead_does_not_stop_the_rotation() {
    let mut ring = Random::new();
    ring.at(7000);
    assert_eq!(ring.at(7), [1]);
    assert_eq!(ring.at(8), [2, 1]);
    assert_eq!(ring.at(6), [2, 1]);
    assert_eq!(ring.at(7), [3, 2]);
}

#[test]
fn without_chance_the_old_secrets_stay() {
    let mut ring = Random::new();
    ring.at(7);
    for epoch in [8, 9] {
        assert!(Origin::Random.next(&ring.ring, epochs(), epoch, || None).is_none());
    }
    assert!(Origin::Random.next(&Ring::empty(), epochs(), 7, || None).is_none());
}

#[test]
fn every_ring_has_a_generation_of_its_own() {
    let mut ring = Random::new();
    let mut last = Ring::empty().generation;
    for epoch in [7, 8, 10, 3] {
        ring.at(epoch);
        assert!(ring.ring.generation > last);
        last = ring.ring.generation;
    }
}

#[test]
fn all_shared_keys_open_and_one_makes() {
    let [a, b, c]: [&[u8]; 3] = [b"a", b"b", b"c"];
    let ring = shared(&[a, b, c], 1, epochs(), 7);
    assert!(opens(&shared(&[b], 0, epochs(), 7), &ring));
    assert!(!opens(&shared(&[a, c], 0, epochs(), 7), &ring));
    for key in [a, b, c] {
        assert!(opens(&ring, &shared(&[key], 0, epochs(), 8)));
    }
    assert!(!opens(&ring, &shared(&[b"d"], 0, epochs(), 7)));
}

#[test]
fn periods_of_different_length_share_no_secret() {
    let hour = Epochs::every(Duration::from_secs(3600));
    assert!(!opens(&shared(&[b"key"], 0, epochs(), 7), &shared(&[b"key"], 0, hour, 7)));
}

#[test]
fn a_shared_ring_is_exact_about_its_epoch() {
    let origin = Origin::Shared(Masters { keys: vec![Zeroizing::new(b"key".to_vec())], makes: 0 });
    let ring = shared(&[b"key"], 0, epochs(), 7);
    assert_eq!([6, 7, 8].map(|epoch| origin.stays(&ring, epoch)), [false, true, false]);
}

#[test]
fn the_derivation_never_changes() {
    // Instances of different versions share keys while they are rolled out.
    let ring = shared(&[b"key"], 0, epochs(), 7);
    // By RFC 5869 with Python's hmac, from the label, the period and the epoch.
    let expected = "59acc4765511a26450efd5731e97f34f95a7ee0ed6bd7c810a40f0f4337b17bd";
    assert_eq!(hex(ring.secrets[ring.makes].as_slice()), expected);
}

proptest! {
    #[test]
    fn a_shared_ring_opens_the_neighbouring_epochs_only(epoch in any::<u64>(), near in -3..=3_i64) {
        let other = epoch.saturating_add_signed(near);
        let (ours, theirs) = (
            shared(&[b"x", b"key"], 1, epochs(), epoch),
            shared(&[b"key"], 0, epochs(), other),
        );
        let neighbours = epoch.abs_diff(other) <= 1;
        prop_assert_eq!(opens(&ours, &theirs), neighbours);
        prop_assert_eq!(opens(&theirs, &ours), neighbours);
    }

    #[test]
    fn clocks_that_differ_by_a_period_are_in_neighbouring_epochs(
        seconds in 0..u64::from(u32::MAX), skew in 0..=100_u64, nanos in 0..1_000_000_000_u32,
    ) {
        let now = UNIX_EPOCH + Duration::new(seconds, nanos);
        let later = now + Duration::from_secs(skew);
        prop_assert!(matches!(epochs().at(later) - epochs().at(now), 0 | 1));
    }

    #[test]
    fn a_random_ring_takes_any_order_of_readings(readings in vec(0..12_u64, 1..60)) {
        let mut ring = Random::new();
        let mut high = 0;
        for (turn, epoch) in (1..).zip(readings) {
            let before = ring.drawn.get();
            let secrets = ring.at(epoch);
            prop_assert!(matches!(secrets.len(), 1 | 2));
            prop_assert!(ring.drawn.get() - before <= 1 && ring.drawn.get() <= turn);
            prop_assert!(ring.drawn.get() == before || epoch > high || before == 0);
            high = ring.ring.epoch;
        }
    }

    #[test]
    fn what_a_random_ring_makes_opens_to_the_end_of_the_next_epoch(
        start in any::<u32>(), steps in vec(0..3_u64, 1..60),
    ) {
        let mut ring = Random::new();
        let mut epoch = u64::from(start);
        let mut made = Vec::new();
        for step in steps {
            epoch += step;
            let secrets = ring.at(epoch);
            made.push((epoch, secrets[0]));
            for (when, secret) in &made {
                prop_assert_eq!(secrets.contains(secret), epoch - when <= 1);
            }
        }
    }
}
