use super::*;

fn target(name: char) -> Address {
    format!("{name}.test:443").parse().unwrap()
}

/// A chain by its number; a later one has a later not-before date.
fn chain(number: u8) -> Chain {
    let not_before = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(number));
    Chain { fingerprint: Fingerprint::of(&[number]), not_before }
}

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Each step is a target and its chain, a second after the one before; `F` fails, `T` is told.
fn run(sightings: &mut Sightings, start: Instant, steps: &str) -> String {
    let step = |(second, step): (u64, &str)| {
        let mut letters = step.chars();
        let name = letters.next().unwrap();
        let number = letters.next().unwrap() as u8 - b'0';
        let now = start + Duration::from_secs(second);
        match sightings.observe(&target(name), chain(number), now) {
            Outcome::Same => '.',
            Outcome::Tell(_) => 'T',
            Outcome::Fail(_) => 'F',
        }
    };
    (0..).zip(steps.split(' ')).map(step).collect()
}

#[test]
fn the_majority_counts_and_at_a_tie_the_latest() {
    for (steps, outcomes) in [
        ("a1", "."),
        ("a1 b1 c1", "..."),
        ("a1 b1 c2", "..T"),
        ("a1 b2 a1", "..T"),
        ("a2 b1", ".T"),
        ("a1 b2 c1 b2", "...T"),
        // Told once, and anew when it is with another chain or against another majority.
        ("a1 b1 c2 c2 c3 c3 c1 c3", "..T.T..T"),
        ("a1 b1 c2 b2 a1", "..T.T"),
    ] {
        let mut sightings = Sightings::new(false, WINDOW);
        assert_eq!(run(&mut sightings, start(), steps), outcomes, "{steps}");
    }
}

#[test]
fn one_fails_only_while_another_with_the_right_chain_is_steady() {
    for (steps, outcomes) in [
        ("a1 a1 a1 a1", "...."),
        // `b` has the later chain, but has passed too few times.
        ("a1 b2 a1 b2 a1 b2 a1", "..T...F"),
        // The last of the old chain fails, and comes back with the new one.
        ("a2 a2 a2 b1 b1 b2", "...FF."),
        // A chain that has become the majority's does not take the former one out at once.
        ("a1 a1 a1 b1 c2 b2 a1 b2 b2 a1", "....F.T..F"),
    ] {
        let mut sightings = Sightings::new(true, WINDOW);
        assert_eq!(run(&mut sightings, start(), steps), outcomes, "{steps}");
    }
}

#[test]
fn there_is_always_one_that_passes() {
    // Whatever chains come in whatever order: of those whose last check counted, one has passed.
    let mut state = 7_u32;
    let mut sightings = Sightings::new(true, WINDOW);
    let mut last = HashMap::new();
    let start = start();
    for second in 0..5_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let name = char::from(b'a' + (state >> 24) as u8 % 4);
        let number = (state >> 16) as u8 % 3;
        let now = start + Duration::from_secs(second);
        let outcome = sightings.observe(&target(name), chain(number), now);
        last.insert(name, !matches!(outcome, Outcome::Fail(_)));
        assert!(last.values().any(|passed| *passed), "second {second}");
    }
}

#[test]
fn what_is_stale_or_forgotten_does_not_count() {
    let (mut sightings, start) = (Sightings::new(true, WINDOW), start());
    assert_eq!(run(&mut sightings, start, "a2 a2 a2 b1"), "...F");
    let later = start + Duration::from_secs(3) + WINDOW;
    assert_eq!(sightings.observe(&target('b'), chain(1), later), Outcome::Same);
    assert_eq!(sightings.by_target.len(), 1);

    let same = SameCertificate::enforce();
    for _ in 0..3 {
        assert_eq!(same.observe(&target('a'), chain(2), start), Outcome::Same);
    }
    assert!(matches!(same.observe(&target('b'), chain(1), start), Outcome::Fail(_)));
    same.forget(&target('a'));
    assert_eq!(same.observe(&target('b'), chain(1), start), Outcome::Same);
}

#[test]
fn what_is_told_names_both() {
    let (mut sightings, start) = (Sightings::new(false, WINDOW), start());
    run(&mut sightings, start, "a1 b1");
    let Outcome::Tell(problem) = sightings.observe(&target('c'), chain(2), start) else { panic!() };
    let (mine, majority) = (chain(2).fingerprint, chain(1).fingerprint);
    assert_eq!(problem, different(mine, majority, target('a')));
    let text = problem.to_string();
    assert!(text.contains(&mine.to_string()) && text.contains("a.test:443"), "{text}");
}

#[test]
fn a_bounded_number_of_targets_is_remembered() {
    let (mut sightings, start) = (Sightings::new(false, WINDOW), start());
    // Filled by hand: each observation looks at all of them.
    for n in 0..MOST_TARGETS {
        let at = start + Duration::from_millis(n as u64);
        let seen = Sighting { chain: chain(1), at, passes: 1, told: None };
        sightings.by_target.insert(format!("t{n}.test:443").parse().unwrap(), seen);
    }
    sightings.observe(&target('a'), chain(1), start + Duration::from_secs(20));
    assert_eq!(sightings.by_target.len(), MOST_TARGETS);
    assert!(!sightings.by_target.contains_key(&"t0.test:443".parse().unwrap()));
}
