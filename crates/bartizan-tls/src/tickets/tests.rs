use std::sync::Barrier;
use std::time::UNIX_EPOCH;
use std::{fs, thread};

use bartizan_testkit::{Leaf, TestCa};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs;
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use super::*;
use crate::Identity;

pub(super) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
pub(super) const TRUST: [u8; 32] = [7; 32];

/// The default period in seconds.
pub(super) const PERIOD: u64 = 21_600;

pub(super) fn unix(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A clock that a test sets.
#[derive(Debug)]
pub(super) struct Hands(Mutex<SystemTime>);

impl Hands {
    pub(super) fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(unix(seconds))))
    }

    pub(super) fn set(&self, seconds: u64) {
        *self.0.lock().unwrap() = unix(seconds);
    }
}

impl Clock for Hands {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

fn at(keys: &TicketKeys, seconds: u64) -> Arc<dyn ProducesTickets> {
    keys.ticketer(TRUST, Arc::new(unix(seconds)))
}

/// Whether `opener` opens what `maker` makes.
fn opens(opener: &dyn ProducesTickets, maker: &dyn ProducesTickets) -> bool {
    let opened = opener.decrypt(&maker.encrypt(b"session").unwrap());
    assert!(opened.as_deref().is_none_or(|session| session == b"session"));
    opened.is_some()
}

/// Whether instances with these keys, at the same time, open what the others make.
fn opens_at_0(opener: &TicketKeys, maker: &TicketKeys) -> bool {
    opens(&*at(opener, 0), &*at(maker, 0))
}

fn derived() -> TicketKeys {
    TicketKeys::derived(SECRET).unwrap()
}

/// A key as HAProxy and nginx have them.
fn key(byte: u8, length: usize) -> Vec<u8> {
    vec![byte; length]
}

fn nginx(keys: &[Vec<u8>]) -> TicketKeys {
    TicketKeys::from_nginx(keys).unwrap()
}

fn lines(keys: &[Vec<u8>]) -> String {
    keys.iter().map(|key| STANDARD.encode(key) + "\n").collect()
}

#[test]
fn tickets_open_under_the_same_keys_and_the_same_trust_only() {
    for keys in [TicketKeys::random(), derived(), nginx(&[key(1, 80)])] {
        assert!(opens(&*at(&keys.clone(), 0), &*at(&keys, 0)));
        let guarded = keys.ticketer([8; 32], Arc::new(unix(0)));
        assert!(!opens(&*guarded, &*at(&keys, 0)));
        assert!(!opens(&*at(&keys, 0), &*guarded));
    }
    assert!(!opens_at_0(&TicketKeys::random(), &TicketKeys::random()));
    let other = TicketKeys::derived(b"another secret of 32 bytes or so").unwrap();
    assert!(!opens_at_0(&derived(), &other));
}

#[test]
fn a_ticket_opens_to_the_end_of_the_period_after_the_one_it_was_made_in() {
    for keys in [TicketKeys::random(), derived(), nginx(&[key(1, 80), key(2, 80)])] {
        let clock = Hands::at(PERIOD);
        let ticketer = keys.ticketer(TRUST, Arc::clone(&clock) as _);
        let early = ticketer.encrypt(b"session").unwrap();
        clock.set(2 * PERIOD - 1);
        let late = ticketer.encrypt(b"session").unwrap();
        for (seconds, expected) in [
            (2 * PERIOD - 1, true),
            (2 * PERIOD, true),
            (3 * PERIOD - 1, true),
            (3 * PERIOD, false),
        ] {
            clock.set(seconds);
            for ticket in [&early, &late] {
                assert_eq!(ticketer.decrypt(ticket).is_some(), expected, "{keys:?} at {seconds}");
            }
        }
    }
}

#[test]
fn instances_with_one_secret_agree_with_clocks_up_to_a_period_apart() {
    let start = 1_000 * PERIOD;
    for now in [start, start + 1, start + PERIOD / 2, start + PERIOD - 1] {
        for (skew, expected) in [(0, true), (1, true), (PERIOD, true), (2 * PERIOD, false)] {
            let (ours, theirs) = (at(&derived(), now), at(&derived(), now + skew));
            assert_eq!(opens(&*ours, &*theirs), expected, "{skew} s apart");
            assert_eq!(opens(&*theirs, &*ours), expected, "{skew} s apart");
        }
    }
}

#[test]
fn ticketers_of_one_ring_with_different_clocks_stay_right() {
    // Each has the ring turn to its own time, and none may go on with what it had derived.
    let keys = derived();
    let (ours, theirs) = (at(&keys, 0), at(&keys, PERIOD));
    let (before, after) = (at(&derived(), 0), at(&derived(), 2 * PERIOD));
    for _ in 0..3 {
        assert!(opens(&*before, &*ours) && !opens(&*after, &*ours));
        assert!(opens(&*before, &*theirs) && opens(&*after, &*theirs));
    }
}

#[test]
fn a_clock_that_jumps_does_not_stop_tickets() {
    for keys in [TicketKeys::random(), derived()] {
        let clock = Hands::at(PERIOD);
        let ticketer = keys.ticketer(TRUST, Arc::clone(&clock) as _);
        for seconds in [PERIOD, 90 * PERIOD, 0, 5 * PERIOD, 4 * PERIOD, PERIOD] {
            clock.set(seconds);
            assert!(opens(&*ticketer, &*ticketer));
        }
    }
}

#[test]
fn a_ticket_lives_for_a_period_which_is_at_most_seven_days() {
    let lifetime = |keys: &TicketKeys| u64::from(at(keys, 0).lifetime());
    assert_eq!(lifetime(&TicketKeys::random()), PERIOD);
    assert_eq!(lifetime(&derived()), PERIOD);
    assert_eq!(lifetime(&TicketKeys::random_every(Duration::from_secs(3600))), 3600);
    let long = TicketKeys::derived_every(SECRET, Duration::MAX).unwrap();
    assert_eq!((lifetime(&long), long.period()), (604_800, Duration::from_secs(604_800)));
    assert!(at(&long, 0).enabled());
}

#[test]
fn haproxys_last_three_keys_open_and_the_penultimate_makes() {
    let keys: Vec<_> = (1..=5).map(|byte| key(byte, 48)).collect();
    let haproxy = TicketKeys::from_haproxy(lines(&keys).as_bytes()).unwrap();
    for (place, single) in keys.iter().enumerate() {
        let single = nginx(std::slice::from_ref(single));
        assert_eq!(opens_at_0(&haproxy, &single), place >= 2, "key {place}");
        assert_eq!(opens_at_0(&single, &haproxy), place == 3, "key {place}");
    }
}

#[test]
fn nginx_first_key_makes_and_all_open_whatever_their_length() {
    let keys = [key(1, 80), key(2, 48), key(3, 80)];
    let ring = nginx(&keys);
    for (place, single) in keys.iter().enumerate() {
        let single = nginx(std::slice::from_ref(single));
        assert!(opens_at_0(&ring, &single), "key {place}");
        assert_eq!(opens_at_0(&single, &ring), place == 0, "key {place}");
    }
}

#[test]
fn files_hold_the_same_as_what_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let secret = write("secret", &[b" \n", SECRET, b"\r\n"].concat());
    assert!(opens_at_0(&derived(), &TicketKeys::from_secret_file(secret).unwrap()));

    let keys = [key(1, 80), key(2, 80), key(3, 80)];
    // As edited elsewhere, with an empty line at the end.
    let text = lines(&keys).replace('\n', "\r\n") + "\n";
    let haproxy = TicketKeys::from_haproxy_file(write("haproxy", text.as_bytes())).unwrap();
    let paths = keys.iter().map(|key| write(&format!("nginx{}", key[0]), key)).collect::<Vec<_>>();
    let nginx = TicketKeys::from_nginx_files(&paths).unwrap();
    assert!(opens_at_0(&nginx, &haproxy));
    assert!(opens_at_0(&haproxy, &nginx));
    // A raw key is taken as it is, even if it ends in what looks like white space.
    let blank = write("blank", &key(b'\n', 48));
    assert!(TicketKeys::from_nginx_files([blank]).is_ok());
}

#[test]
fn errors_say_where_and_what_and_cite_nothing_of_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let check = |error: TicketKeyError, line: Option<usize>, says: &str| {
        let text = error.to_string();
        assert!(text.contains(says), "{text}");
        assert_eq!(error.line(), line, "{text}");
        let debug = format!("{error:?}{:?}", error.problem());
        for secret in ["swordfish", "c3dvcmRmaXNo", "115, 119"] {
            assert!(!text.contains(secret) && !debug.contains(secret), "{text} {debug}");
        }
        if let Some(named) = error.path() {
            assert_eq!(named, path);
            assert!(text.starts_with(&path.display().to_string()), "{text}");
        }
        error.path().is_some()
    };
    let sword = |length| b"swordfish".iter().copied().cycle().take(length).collect::<Vec<u8>>();

    assert!(!check(
        TicketKeys::derived(&sword(31)).unwrap_err(),
        None,
        "the secret has 31 bytes, and needs at least 32; `openssl rand -base64 48` makes one",
    ));
    assert!(TicketKeys::derived(&sword(32)).is_ok());
    assert!(check(TicketKeys::from_secret_file(&path).unwrap_err(), None, "cannot be read"));
    fs::write(&path, [&sword(31)[..], &[b'\n'; 40]].concat()).unwrap();
    assert!(check(TicketKeys::from_secret_file(&path).unwrap_err(), None, "has 31 bytes"));

    let haproxy = |text: &str| {
        fs::write(&path, text).unwrap();
        let error = TicketKeys::from_haproxy(text.as_bytes()).unwrap_err();
        let named = TicketKeys::from_haproxy_file(&path).unwrap_err();
        assert!(named.to_string().ends_with(&error.to_string()) || error.line().is_some());
        assert!(error.path().is_none());
        named
    };
    let good = lines(&[sword(48), key(2, 48), key(3, 48)]);
    assert!(check(haproxy(&(good.clone() + "\n" + "swordfish!\n")), Some(5), "not base64"));
    let long = lines(&[sword(90)]);
    assert!(check(haproxy(&(long + &good)), Some(1), "has 90 bytes instead of 48 or 80"));
    let mixed = good + &lines(&[sword(80)]);
    assert!(check(haproxy(&mixed), Some(4), "has 80 bytes, the first one 48"));
    let two = lines(&[sword(48), key(2, 48)]);
    assert!(check(haproxy(&two), None, "there are 2 keys; it takes at least 3"));

    let error = TicketKeys::from_nginx([sword(80), sword(79)]).unwrap_err();
    assert!(!check(error, None, "key 2: the key has 79 bytes"));
    fs::write(&path, sword(49)).unwrap();
    let error = TicketKeys::from_nginx_files([&path]).unwrap_err();
    assert!(check(error, None, "has 49 bytes"));
    let none = TicketKeys::from_nginx([[0; 48]; 0]).unwrap_err();
    assert!(!check(none, None, "there are 0 keys; it takes at least 1"));
}

#[test]
fn debug_shows_no_key() {
    let keys = derived();
    let ticketer = at(&keys, 0);
    assert!(opens(&*ticketer, &*ticketer));
    let text = format!("{keys:?} {keys:#?} {ticketer:?}");
    assert!(text.contains("21600s"), "{text}");
    assert!(!text.contains("0123") && !text.contains("48, 49"), "{text}");
    assert!(format!("{:?}", TicketKeys::random()).contains("random"));
}

#[test]
fn a_rotation_loses_no_ticket_made_just_before_or_during_it() {
    const ROUNDS: u64 = 200;
    let keys = TicketKeys::random();
    let clock = Hands::at(0);
    let barrier = Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..2 {
            let (maker, opener) =
                [0, 1].map(|_| keys.ticketer(TRUST, Arc::clone(&clock) as _)).into();
            let barrier = &barrier;
            scope.spawn(move || {
                let mut lost = 0;
                for _ in 0..ROUNDS {
                    let before = maker.encrypt(b"session").unwrap();
                    barrier.wait();
                    // Here the clock goes on.
                    let during = maker.encrypt(b"session").unwrap();
                    lost += u32::from(opener.decrypt(&before).is_none());
                    barrier.wait();
                    lost += u32::from(opener.decrypt(&during).is_none());
                    lost += u32::from(opener.decrypt(&before).is_none());
                    barrier.wait();
                }
                // Not sooner: who panics at a barrier hangs the others.
                assert_eq!(lost, 0);
            });
        }
        for round in 1..=ROUNDS {
            barrier.wait();
            clock.set(round * PERIOD);
            barrier.wait();
            barrier.wait();
        }
    });
}

/// A server of `localhost` with the tickets of one trust.
fn server(identity: &Identity, keys: &TicketKeys, trust: [u8; 32]) -> Arc<ServerConfig> {
    let resolver = SingleCertAndKey::from(Arc::clone(identity.entry().certified().unwrap()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.ticketer = keys.ticketer(trust, Arc::new(unix(0)));
    Arc::new(config)
}

/// How the server says that the handshake went.
fn shake(client: &Arc<ClientConfig>, server: Arc<ServerConfig>) -> HandshakeKind {
    let mut client =
        ClientConnection::new(Arc::clone(client), "localhost".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets().unwrap();
    }
    server.handshake_kind().unwrap()
}

fn resumes_over_a_reload_under_the_same_trust(version: &'static SupportedProtocolVersion) {
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("localhost"));
    let identity = Identity::from_pem("site.pem", site.bundle_pem().as_bytes()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(ca.roots())
        .with_no_client_auth();
    let client = Arc::new(client);
    let keys = derived();

    assert_ne!(shake(&client, server(&identity, &keys, TRUST)), HandshakeKind::Resumed);
    // Another configuration, as after a reload.
    assert_eq!(shake(&client, server(&identity, &keys, TRUST)), HandshakeKind::Resumed);
    // Another instance.
    assert_eq!(shake(&client, server(&identity, &derived(), TRUST)), HandshakeKind::Resumed);
    assert_ne!(shake(&client, server(&identity, &keys, [8; 32])), HandshakeKind::Resumed);
}

#[test]
fn tls_1_3_resumes_over_a_reload_under_the_same_trust() {
    resumes_over_a_reload_under_the_same_trust(&rustls::version::TLS13);
}

#[test]
fn tls_1_2_resumes_over_a_reload_under_the_same_trust() {
    resumes_over_a_reload_under_the_same_trust(&rustls::version::TLS12);
}
