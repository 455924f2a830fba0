use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bartizan_balance::{
    Affinity, Backend, Cluster, Free, OnDrain, OnPinnedDown, Pick, Pin, Reason, State,
    StickyContract, Tie,
};
use bartizan_net::clock::Clock;
use http::header::{CACHE_CONTROL, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use http::{Method, Request, Response};
use proptest::prelude::*;
use tower_layer::Layer;
use tower_service::Service;

use super::*;

const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

// Computed by another implementation of HMAC-SHA-256, so that instances of different versions agree.
const WEB1: &str = "ftJXncgn057fC2qRZ2JkxA";
const WEB2: &str = "tmuxRi4i7uFD7upqO7CijA";
const WEB1_DATED: &str = "5GwYVsauoKPuUHs0PWxJRA.1700000000.1699990000.TS3xijAM_QFEOu1HJWWDJg";

const NOW: u64 = 1_700_000_000;

/// The balancer, as far as it concerns affinities: the policy takes the first that is eligible.
#[derive(Clone)]
struct Balancer<A> {
    cluster: Cluster,
    affinity: A,
    sets: Vec<(HeaderName, String)>,
    seen: Arc<Mutex<HeaderMap>>,
}

impl<A: Affinity<Request<()>>> Service<Request<()>> for Balancer<A> {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        use bartizan_balance::Standing;

        let mut tie = self.affinity.tie(&request, tokio::time::Instant::now().into_std());
        let table = self.cluster.table();
        let pin = match tie.poll_pin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(pin) => pin,
            Poll::Pending => panic!("nothing here waits"),
        };
        let standing =
            |pin: Pin| table.position(pin.backend).map_or(Standing::Out, |at| table.standing(at));
        let position = match pin.map(|pin| (pin, standing(pin))) {
            Some((pin, Standing::Serving)) => table.position(pin.backend),
            Some((pin, Standing::Draining)) if pin.contract.on_drain == OnDrain::Honour => {
                table.position(pin.backend)
            }
            Some((pin, Standing::Out)) if pin.contract.on_down == OnPinnedDown::Fail => None,
            _ => table.next_eligible(0, &[]),
        };
        *self.seen.lock().unwrap() = request.headers().clone();
        let mut response = Response::new(String::from("nobody"));
        for (name, value) in &self.sets {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        if let Some(position) = position {
            let backend: &Arc<Backend> = &table.members()[position];
            let by = pin.map_or("policy", |pin| pin.by);
            *response.body_mut() = format!("{} by {by}", backend.name());
            tie.settled(&Pick::new(backend.clone(), by, Reason::Pinned));
        }
        ready(Ok(response))
    }
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    served: String,
    /// The cookies that the backend has seen.
    seen: Vec<String>,
    /// The cookies that the client was given.
    set: Vec<String>,
    caching: Vec<String>,
}

fn texts(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn cluster(names: &[&str]) -> Cluster {
    let web = Cluster::builder("web");
    names.iter().fold(web, |web, name| web.backend(name, "127.0.0.1:80")).build().unwrap()
}

fn keys() -> StickyKeys {
    StickyKeys::new(KEY).unwrap()
}

fn insert() -> StickyCookie {
    StickyCookie::insert("SRV", keys()).unwrap()
}

fn stack<A>(
    cluster: &Cluster,
    cookie: StickyCookie,
    affinity: A,
) -> StickyCookies<Balancer<ByCookie<A>>> {
    let (sets, seen) = (Vec::new(), Arc::default());
    let affinity = ByCookie::over(affinity);
    let balancer = Balancer { cluster: cluster.clone(), affinity, sets, seen };
    StickyCookieLayer::new(cluster.clone(), cookie).layer(balancer)
}

fn ask<A: Affinity<Request<()>>>(
    stack: &mut StickyCookies<Balancer<ByCookie<A>>>,
    method: Method,
    cookies: &[&str],
) -> Outcome {
    let mut request = Request::builder().method(method).body(()).unwrap();
    for cookie in cookies {
        request.headers_mut().append(COOKIE, cookie.parse().unwrap());
    }
    let seen = stack.inner.seen.clone();
    let response = tokio_test::block_on(stack.call(request)).unwrap();
    Outcome {
        seen: texts(&seen.lock().unwrap(), COOKIE),
        set: texts(response.headers(), SET_COOKIE),
        caching: texts(response.headers(), CACHE_CONTROL),
        served: response.into_body(),
    }
}

/// A request to two backends, one of which sets these cookies.
fn once(cookie: StickyCookie, method: Method, cookies: &[&str], sets: &[&str]) -> Outcome {
    let mut stack = stack(&cluster(&["web1", "web2"]), cookie, Free::default());
    stack.inner.sets = sets.iter().map(|set| (SET_COOKIE, set.to_string())).collect();
    ask(&mut stack, method, cookies)
}

fn get(cookie: StickyCookie, cookies: &[&str]) -> Outcome {
    once(cookie, Method::GET, cookies, &[])
}

/// The value of the one cookie that was set.
fn value(outcome: &Outcome) -> &str {
    let [set] = &outcome.set[..] else { panic!("{outcome:?}") };
    set.strip_prefix("SRV=").unwrap().split(';').next().unwrap()
}

#[test]
fn a_client_stays_where_its_first_cookie_says() {
    let first = get(insert(), &[]);
    assert_eq!(first.served, "web1 by policy");
    assert_eq!(first.set, [format!("SRV={WEB1}; Path=/; HttpOnly; Secure; SameSite=Lax")]);
    assert_eq!(first.caching, [""; 0]);
    let second = get(insert(), &[&format!("SRV={WEB2}")]);
    assert_eq!(second.served, "web2 by cookie");
    assert_eq!(second.set, [""; 0], "it has the right one");
    assert_eq!(second.seen, [format!("SRV={WEB2}")]);
}

#[test]
fn the_attributes_are_those_that_were_asked_for() {
    let all = |cookie: StickyCookie| {
        let cookie = cookie.path(Some("/app")).unwrap().domain(".a.example").unwrap();
        cookie.domain("b.example").unwrap().attr("Max-Age=60").unwrap()
    };
    let none = |cookie: StickyCookie| cookie.http_only(false).secure(false).same_site(None);
    for (cookie, attributes) in [
        (none(insert()), "; Path=/"),
        (none(insert()).path(None).unwrap(), ""),
        (none(insert()).http_only(true), "; Path=/; HttpOnly"),
        (none(insert()).secure(true), "; Path=/; Secure"),
        (none(insert()).same_site(Some(SameSite::Strict)), "; Path=/; SameSite=Strict"),
        (insert().same_site(Some(SameSite::None)), "; Path=/; HttpOnly; Secure; SameSite=None"),
        (insert().attr("samesite=Strict").unwrap(), "; Path=/; HttpOnly; Secure; samesite=Strict"),
        (
            all(insert()),
            "; Path=/app; Domain=.a.example; Domain=b.example; HttpOnly; Secure; SameSite=Lax; \
             Max-Age=60",
        ),
    ] {
        assert_eq!(get(cookie, &[]).set, [format!("SRV={WEB1}{attributes}")]);
    }
}

#[test]
fn nothing_that_could_end_a_cookie_or_a_line_gets_into_one() {
    for name in ["", "a b", "a=b", "a;b", "a\r\nb", "ä", "a\"", "$a", "a,b", "\0"] {
        let wrong = StickyCookieError::Name { name: name.into() };
        assert_eq!(StickyCookie::insert(name, keys()).unwrap_err(), wrong);
        assert_eq!(StickyCookie::rewrite(name, keys()).unwrap_err(), wrong);
        assert_eq!(StickyCookie::prefix(name, keys()).unwrap_err(), wrong);
    }
    for text in ["a;b", "a\r\nSet-Cookie: b=c", "a\nb", "ä", "\0", "a\u{7f}"] {
        let wrong = StickyCookieError::Attribute { text: text.into() };
        assert_eq!(insert().path(Some(text)).unwrap_err(), wrong);
        assert_eq!(insert().domain(text).unwrap_err(), wrong);
        assert_eq!(insert().attr(text).unwrap_err(), wrong);
    }
}

/// HAProxy's manual, `cookie`, and what it does where the manual is silent.
#[test]
fn each_option_means_what_it_means_to_haproxy() {
    let rewrite = || StickyCookie::rewrite("SRV", keys()).unwrap();
    let prefix = || StickyCookie::prefix("SRV", keys()).unwrap();
    let bare = |cookie: StickyCookie| {
        cookie.path(None).unwrap().http_only(false).secure(false).same_site(None)
    };
    let own = "SRV=own; Max-Age=9";
    // The client's cookie (`1`, `2`: that of a backend, with `~v` that with a value; `-`: unknown),
    // whether it is a POST, what the backend sets, what it has seen, what the client is given, and
    // which backend it was.
    for (line, cookie, sent, post, sets, seen, given, to) in [
        (line!(), insert(), "", false, "", "", "SRV=1", 1),
        (line!(), insert(), "SRV=2", false, "", "SRV=2", "", 2),
        (line!(), insert(), "SRV=-", false, "", "SRV=-", "SRV=1", 1),
        (line!(), insert(), "SRV=", false, "", "SRV=", "SRV=1", 1),
        (line!(), insert(), "srv=2", false, "", "srv=2", "SRV=1", 1),
        (line!(), insert(), "SRV=\"2\"", false, "", "SRV=\"2\"", "SRV=1", 1),
        (line!(), insert(), "SRV=-; SRV=2", false, "", "SRV=-; SRV=2", "", 2),
        (line!(), insert(), "SRV=2; SRV=1", false, "", "SRV=2; SRV=1", "", 2),
        // The backend's own cookie of this name is removed.
        (line!(), insert(), "", false, own, "", "SRV=1", 1),
        (line!(), insert(), "SRV=2", false, own, "SRV=2", "", 2),
        (line!(), insert(), "SRV=2", false, "other=1; Path=/", "SRV=2", "other=1; Path=/", 2),
        // indirect: the backend does not see the cookie.
        (line!(), insert().indirect(true), "SRV=2", false, "", "", "", 2),
        (line!(), insert().indirect(true), "a=1; SRV=2; b=3", false, "", "a=1; b=3", "", 2),
        (line!(), insert().indirect(true), "SRV=-; a=1", false, "", "a=1", "SRV=1", 1),
        (line!(), insert().indirect(true), "a=1; SRV=-; SRV=2", false, own, "a=1", "", 2),
        // postonly
        (line!(), insert().postonly(true), "", false, "", "", "", 1),
        (line!(), insert().postonly(true), "", true, "", "", "SRV=1", 1),
        (line!(), insert().postonly(true), "SRV=2", true, "", "SRV=2", "", 2),
        (line!(), insert().postonly(true), "", false, own, "", "", 1),
        // preserve: what the backend sets stays, and nothing comes beside it.
        (line!(), insert().preserve(true), "", false, own, "", own, 1),
        (line!(), insert().preserve(true), "SRV=2", false, own, "SRV=2", own, 2),
        (line!(), insert().preserve(true), "", false, "", "", "SRV=1", 1),
        (line!(), insert().preserve(true).indirect(true), "SRV=2", false, own, "", own, 2),
        (line!(), insert().preserve(true).postonly(true), "", true, own, "", own, 1),
        // rewrite: as the backend wants.
        (line!(), rewrite(), "", false, "", "", "", 1),
        (line!(), rewrite(), "", false, own, "", "SRV=1; Max-Age=9", 1),
        (line!(), rewrite(), "SRV=2", false, own, "SRV=2", "SRV=2; Max-Age=9", 2),
        (line!(), rewrite(), "SRV=-", false, "", "SRV=-", "", 1),
        (line!(), rewrite(), "", false, " SRV = v ; x", "", " SRV = 1 ; x", 1),
        (line!(), rewrite(), "", false, "SRV; x", "", "SRV; x", 1),
        (line!(), rewrite(), "", false, "a=SRV=b", "", "a=SRV=b", 1),
        (line!(), rewrite().indirect(true), "SRV=2", false, own, "SRV=2", "", 2),
        (line!(), rewrite().indirect(true), "SRV=-", false, own, "SRV=-", "SRV=1; Max-Age=9", 1),
        (line!(), rewrite().indirect(true).preserve(true), "SRV=2", false, own, "SRV=2", own, 2),
        (line!(), rewrite().postonly(true), "", false, own, "", "SRV=1; Max-Age=9", 1),
        // prefix: the application's cookie, completed.
        (line!(), prefix(), "", false, "", "", "", 1),
        (line!(), prefix(), "", false, "SRV=v; Path=/", "", "SRV=1~v; Path=/", 1),
        (line!(), prefix(), "", false, "SRV=\"v\"; Path=/", "", "SRV=1~\"v\"; Path=/", 1),
        (line!(), prefix(), "", false, "SRV=; Max-Age=0", "", "SRV=1~; Max-Age=0", 1),
        (line!(), prefix(), "SRV=2~v", false, "", "SRV=v", "", 2),
        (line!(), prefix(), "a=1;SRV = 2~v~w ; b=2", false, "", "a=1;SRV = v~w ; b=2", "", 2),
        (line!(), prefix(), "SRV=2~", false, "", "SRV=", "", 2),
        (line!(), prefix(), "SRV=-~v", false, "SRV=w", "SRV=v", "SRV=1~w", 1),
        (line!(), prefix(), "SRV=v~w", false, "", "SRV=v~w", "", 1),
        (line!(), prefix(), "SRV=2", false, "SRV=w", "SRV=2", "SRV=1~w", 1),
        (line!(), prefix(), "SRV=2~v", false, "SRV=w", "SRV=v", "SRV=2~w", 2),
        (line!(), prefix().indirect(true), "SRV=2~v", false, "SRV=w", "SRV=v", "", 2),
        (line!(), prefix().indirect(true), "", false, "SRV=w", "", "SRV=1~w", 1),
    ] {
        let expand = |text: &str| {
            let words = [("SRV=1", WEB1), ("SRV=2", WEB2), ("SRV=-", &"A".repeat(22))];
            let text = words.iter().fold(text.to_owned(), |text, (word, token)| {
                text.replace(word, &format!("SRV={token}"))
            });
            let text = text.replace("SRV = 1", &format!("SRV = {WEB1}"));
            text.replace("SRV = 2", &format!("SRV = {WEB2}"))
                .replace("\"2\"", &format!("\"{WEB2}\""))
        };
        let list = |text: &str| -> Vec<String> {
            Some(expand(text)).filter(|text| !text.is_empty()).into_iter().collect()
        };
        let sent = list(sent);
        let sent: Vec<&str> = sent.iter().map(|text| &**text).collect();
        let sets: Vec<&str> = Some(sets).filter(|sets| !sets.is_empty()).into_iter().collect();
        let method = if post { Method::POST } else { Method::GET };
        let outcome = once(bare(cookie), method, &sent, &sets);
        assert_eq!(outcome.seen, list(seen), "seen, line {line}");
        assert_eq!(outcome.set, list(given), "given, line {line}");
        let served = if to == 2 { "web2 by cookie" } else { "web1 by policy" };
        assert_eq!(outcome.served, served, "line {line}");
    }
}

#[test]
fn a_response_with_a_new_cookie_is_private_with_nocache() {
    let nocache = || insert().nocache(true);
    for (cookie, sent, says, becomes) in [
        (nocache(), "", &[][..], &["private"][..]),
        (nocache(), "", &["public, max-age=60"], &["public, max-age=60", "private"]),
        (nocache(), "", &["no-cache=\"set-cookie\""], &["no-cache=\"set-cookie\"", "private"]),
        (nocache(), "", &["max-age=9, Private"], &["max-age=9, Private"]),
        (nocache(), "", &["max-age=9", "no-store"], &["max-age=9", "no-store"]),
        (nocache(), "", &["no-cache"], &["no-cache"]),
        (nocache(), WEB2, &["public"], &["public"]),
        (nocache().postonly(true), "", &["public"], &["public"]),
        (insert(), "", &["public"], &["public"]),
    ] {
        let mut stack = stack(&cluster(&["web1", "web2"]), cookie, Free::default());
        stack.inner.sets = says.iter().map(|says| (CACHE_CONTROL, says.to_string())).collect();
        let outcome = ask(&mut stack, Method::GET, &[&format!("SRV={sent}")]);
        assert_eq!(outcome.caching, becomes, "{says:?}");
    }
}

#[test]
fn cookies_in_several_fields_are_found_and_removed_one_by_one() {
    let indirect = || insert().indirect(true);
    let web2 = format!("SRV={WEB2}");
    let outcome = get(indirect(), &["a=1", "SRV=x", &web2, "b=2; c=3"]);
    assert_eq!(outcome.served, "web2 by cookie");
    assert_eq!(outcome.seen, ["a=1", "b=2; c=3"]);
    let outcome = get(indirect(), &[&format!("{web2};"), &format!("{web2}; ;a=1;"), ";"]);
    assert_eq!(outcome.seen, [";a=1;", ";"], "what was sent without sense stays so");
    let prefix = StickyCookie::prefix("SRV", keys()).unwrap();
    let outcome = get(prefix, &["a=1", &format!("{web2}~v"), "SRV=w"]);
    assert_eq!(outcome.served, "web2 by cookie");
    assert_eq!(outcome.seen, ["a=1", "SRV=v", "SRV=w"]);
}

#[test]
fn a_secret_field_stays_secret() {
    let mut headers = HeaderMap::new();
    let mut field = HeaderValue::from_static("a=1; SRV=2");
    field.set_sensitive(true);
    headers.append(COOKIE, field);
    request::remove(&mut headers, "SRV");
    assert!(headers[COOKIE].is_sensitive() && headers[COOKIE] == "a=1");
}

#[test]
fn of_many_cookies_only_the_first_few_are_looked_at_and_all_are_removed() {
    let web2 = format!("SRV={WEB2}");
    let many = |before: usize| "SRV=x; ".repeat(before) + &web2;
    assert_eq!(get(insert(), &[&many(7)]).served, "web2 by cookie");
    assert_eq!(get(insert(), &[&many(8)]).served, "web1 by policy");
    let garbage = "SRV=".repeat(2_000) + ";;=;=SRV;" + &many(1_000);
    assert_eq!(get(insert().indirect(true), &[&garbage]).seen, [";=;=SRV"]);
}

#[test]
fn nobody_can_choose_a_backend_without_a_cookie_for_it() {
    let dates = |cookie: StickyCookie| cookie.max_idle(DAY).max_life(DAY).clock(at(NOW));
    let other = Cluster::builder("api").backend("web1", "127.0.0.1:80").build().unwrap();
    let of_other = ask(&mut stack(&other, insert(), Free::default()), Method::GET, &[]);
    let of_key = StickyCookie::insert("SRV", StickyKeys::new([1; 32]).unwrap()).unwrap();
    let (token, rest) = WEB1_DATED.split_once('.').unwrap();
    let seal = WEB1_DATED.rsplit('.').next().unwrap();
    let mut forged = vec![
        "web2".to_owned(),
        "127.0.0.1:80".to_owned(),
        value(&of_other).to_owned(),
        value(&get(of_key, &[])).to_owned(),
        // Dates cut off, put to an undated cookie, or changed.
        token.to_owned(),
        format!("{token}..."),
        format!("{token}.."),
        format!("{token}...{seal}"),
        format!("{WEB1}.{rest}"),
        format!("{WEB2}.{rest}"),
        WEB1_DATED.replace("1700000000", "1700000001"),
        WEB1_DATED.replace("1699990000", "1699990001"),
        WEB1_DATED.replace("1700000000", "01700000000000000"),
        WEB1_DATED.replace("1700000000.1699990000", "1699990000.1700000000"),
        WEB1_DATED.replace(".1700000000.1699990000", ".17000000001699990000."),
        WEB1_DATED.replace("1700000000", "+1700000000"),
        WEB1_DATED.replace("1700000000", "99999999999999999999999999999999999999"),
        format!("{WEB1_DATED}."),
        format!("{WEB1_DATED}A"),
        WEB1_DATED[..WEB1_DATED.len() - 1].to_owned(),
        format!("{WEB2}="),
        format!("{WEB2}~"),
        format!("{WEB2}A"),
        WEB2[..21].to_owned(),
    ];
    // Each letter of a token counts, and so do the bits of the last one.
    for position in 0..WEB2.len() {
        let mut other = WEB2.as_bytes().to_vec();
        other[position] = if other[position] == b'B' { b'C' } else { b'B' };
        forged.push(String::from_utf8(other).unwrap());
    }
    for value in forged {
        let outcome = get(dates(insert()), &[&format!("SRV={value}")]);
        assert_eq!(outcome.served, "web1 by policy", "{value}");
        assert_eq!(outcome.set.len(), 1, "{value}");
    }
    let genuine = get(dates(insert()), &[&format!("SRV={WEB1_DATED}")]);
    assert_eq!((&*genuine.served, &genuine.set[..]), ("web1 by cookie", &[][..]));
}

/// A clock to be set.
#[derive(Clone, Debug)]
struct Hand(Arc<Mutex<u64>>);

impl Clock for Hand {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(*self.0.lock().unwrap())
    }
}

const DAY: Duration = Duration::from_secs(86_400);

fn at(now: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now)
}

#[test]
fn dates_are_refreshed_with_max_idle_and_kept_with_max_life() {
    let hand = Hand(Arc::new(Mutex::new(NOW)));
    let web = cluster(&["web2", "web1"]);
    let (idle, life) = (Duration::from_secs(600), Duration::from_secs(3_600));
    let cookie = insert().max_idle(idle).max_life(life).clock(hand.clone());
    let mut stack = stack(&web, cookie, Free::default());
    let mut ask = |after: u64, cookie: &str| {
        *hand.0.lock().unwrap() = NOW + after;
        ask(&mut stack, Method::GET, &[&format!("SRV={cookie}")])
    };
    // Undated, so accepted, and dated.
    let undated = ask(0, WEB1);
    assert_eq!(undated.served, "web1 by cookie");
    let first = value(&undated).to_owned();
    assert_eq!(first.split('.').collect::<Vec<_>>()[1..3], ["1700000000", "1700000000"]);
    assert_eq!(ask(0, &first).set, [""; 0], "nothing new to say within the same seconds");

    let again = ask(600, &first);
    assert_eq!(again.served, "web1 by cookie");
    let second = value(&again).to_owned();
    assert_eq!(second.split('.').collect::<Vec<_>>()[1..3], ["1700000600", "1700000000"]);
    assert_eq!(ask(601, &first).served, "web2 by policy", "idle for too long");
    assert_eq!(ask(1_201, &second).served, "web2 by policy");

    // Never idle, and yet gone after an hour.
    let mut cookie = second;
    for after in (1_200..=3_600).step_by(600) {
        let outcome = ask(after, &cookie);
        assert_eq!(outcome.served, "web1 by cookie", "{after}");
        cookie = value(&outcome).to_owned();
    }
    let anew = ask(3_601, &cookie);
    assert_eq!(anew.served, "web2 by policy");
    assert_eq!(value(&anew).split('.').collect::<Vec<_>>()[1..3], ["1700003604", "1700003604"]);
}

#[test]
fn who_goes_elsewhere_keeps_the_date_of_the_first_visit() {
    let web = cluster(&["web1", "web2"]);
    let cookie = insert().max_life(DAY).clock(at(NOW));
    let mut stack = stack(&web, cookie, Free::default());
    web.update(|change| change.set_state("web1", State::Maintenance)).unwrap();
    let outcome = ask(&mut stack, Method::GET, &[&format!("SRV={WEB1_DATED}")]);
    assert_eq!(outcome.served, "web2 by cookie", "the contract is the cookie's");
    assert_eq!(value(&outcome).split('.').collect::<Vec<_>>()[1..3], ["", "1699990000"]);
}

#[test]
fn dates_that_are_not_wanted_any_more_go_and_are_still_checked_to_be_genuine() {
    let dated = format!("SRV={WEB1_DATED}");
    let outcome = get(insert(), &[&dated]);
    assert_eq!((&*outcome.served, value(&outcome)), ("web1 by cookie", WEB1));
    let broken = get(insert(), &[&dated.replace("1700000000", "1700000001")]);
    assert_eq!(broken.served, "web1 by policy");
    // Only with `insert` do dates matter.
    let old = StickyCookie::rewrite("SRV", keys()).unwrap().max_idle(DAY).clock(at(NOW * 2));
    assert_eq!(get(old, &[&dated]).served, "web1 by cookie");
    let old = insert().max_idle(DAY).clock(at(NOW * 2));
    assert_eq!(get(old, &[&dated]).served, "web1 by policy");
    let early = insert().max_idle(DAY).clock(at(NOW - 86_400));
    assert_eq!(get(early, &[&dated]).served, "web1 by cookie");
    let earlier = insert().max_idle(DAY).clock(at(NOW - 86_401));
    assert_eq!(get(earlier, &[&dated]).served, "web1 by policy");
}

#[test]
fn cookies_of_earlier_keys_are_followed_and_replaced() {
    let (keys, new) = (keys(), [9; 40]);
    let cookie = StickyCookie::insert("SRV", keys.clone()).unwrap();
    let mut stack = stack(&cluster(&["web1", "web2"]), cookie, Free::default());
    let mut get = |cookie: &str| ask(&mut stack, Method::GET, &[&format!("SRV={cookie}")]);
    assert_eq!(get(WEB2).set, [""; 0]);

    keys.rotate(new).unwrap();
    let outcome = get(WEB2);
    assert_eq!(outcome.served, "web2 by cookie");
    let renewed = value(&outcome).to_owned();
    assert_ne!(renewed, WEB2);
    let outcome = get(&renewed);
    assert_eq!((&*outcome.served, &outcome.set[..]), ("web2 by cookie", &[][..]));

    keys.replace(new, [[0; 32]; 0]).unwrap();
    assert_eq!(get(WEB2).served, "web1 by policy", "the old key is forgotten");
    assert_eq!(get(&renewed).served, "web2 by cookie");

    // Another instance may know the new key as an earlier one only.
    keys.replace(KEY, [new, [8; 40]]).unwrap();
    let outcome = get(&renewed);
    assert_eq!((&*outcome.served, value(&outcome)), ("web2 by cookie", WEB2));
}

#[test]
fn a_prefix_of_an_earlier_key_is_renewed_even_with_indirect() {
    let keys = keys();
    let cookie = StickyCookie::prefix("SRV", keys.clone()).unwrap().indirect(true);
    let mut stack = stack(&cluster(&["web1", "web2"]), cookie, Free::default());
    stack.inner.sets = vec![(SET_COOKIE, "SRV=v".into())];
    keys.rotate([9; 32]).unwrap();
    let outcome = ask(&mut stack, Method::GET, &[&format!("SRV={WEB2}~v")]);
    assert_eq!(outcome.served, "web2 by cookie");
    assert!(!outcome.set[0].contains(WEB2) && outcome.set[0].ends_with("~v"), "{outcome:?}");
}

#[test]
fn cookies_follow_backends_that_come_and_go_by_their_names() {
    let web = cluster(&["web1"]);
    let mut stack = stack(&web, insert(), Free::default());
    let mut get = || ask(&mut stack, Method::GET, &[&format!("SRV={WEB2}")]);
    assert_eq!(get().served, "web1 by policy");
    let web2 = |port: u16| Backend::new("web2", format!("127.0.0.1:{port}").parse().unwrap());
    web.update(|change| change.add(web2(80))).unwrap();
    let outcome = get();
    assert_eq!((&*outcome.served, &outcome.set[..]), ("web2 by cookie", &[][..]));
    // At another address, it is still the same backend to its clients.
    web.update(|change| {
        change.remove("web2");
        change.add(web2(81));
    })
    .unwrap();
    let outcome = get();
    assert_eq!((&*outcome.served, &outcome.set[..]), ("web2 by cookie", &[][..]));
    web.update(|change| change.remove("web2")).unwrap();
    assert_eq!(value(&get()), WEB1);
}

#[test]
fn what_holds_when_a_backend_is_away_or_drains_is_for_the_contract_to_say() {
    let contract = StickyContract::new;
    for (state, contract, served, set) in [
        (State::Ready, contract(), "web2 by cookie", None),
        (State::Drain, contract(), "web2 by cookie", None),
        (State::Drain, contract().on_drain(OnDrain::Migrate), "web1 by cookie", Some(WEB1)),
        (State::Maintenance, contract(), "web1 by cookie", Some(WEB1)),
        (State::Maintenance, contract().on_down(OnPinnedDown::Fail), "nobody", None),
    ] {
        let web = cluster(&["web1", "web2"]);
        let mut stack = stack(&web, insert().contract(contract), Free::default());
        web.update(|change| change.set_state("web2", state)).unwrap();
        let outcome = ask(&mut stack, Method::GET, &[&format!("SRV={WEB2}")]);
        assert_eq!(outcome.served, served, "{state:?} {contract:?}");
        match set {
            Some(set) => assert_eq!(value(&outcome), set),
            None => assert_eq!(outcome.set, [""; 0]),
        }
    }
}

/// A stick table that has each client at one backend.
#[derive(Clone)]
struct Remembers(bartizan_balance::BackendId, Arc<Mutex<Vec<String>>>);

impl<Req> Affinity<Req> for Remembers {
    type Tie = Self;

    fn tie(&self, _: &Req, _: std::time::Instant) -> Self {
        self.clone()
    }
}

impl Tie for Remembers {
    fn hash(&self) -> Option<u64> {
        Some(7)
    }

    fn poll_pin(&mut self, _: &mut Context<'_>) -> Poll<Option<Pin>> {
        Poll::Ready(Some(Pin::new(self.0, "stick table", StickyContract::new())))
    }

    fn propose(&mut self, _: &Backend) -> bartizan_balance::BackendId {
        self.0
    }

    fn failed(&mut self, backend: &Backend) {
        self.1.lock().unwrap().push(format!("failed {}", backend.name()));
    }

    fn settled(&mut self, pick: &Pick) {
        self.1.lock().unwrap().push(pick.backend.name().to_string());
    }
}

#[test]
fn the_cookie_comes_before_the_table_and_the_table_before_the_policy() {
    let web = cluster(&["web1", "web2", "web3"]);
    let web3 = web.table().members()[2].id();
    let told = Arc::<Mutex<Vec<String>>>::default();
    let mut stack = stack(&web, insert(), Remembers(web3, told.clone()));
    let web2 = format!("SRV={WEB2}");
    assert_eq!(ask(&mut stack, Method::GET, &[]).served, "web3 by stick table");
    assert_eq!(ask(&mut stack, Method::GET, &[&web2]).served, "web2 by cookie");
    web.update(|change| change.set_state("web2", State::Maintenance)).unwrap();
    let moved = ask(&mut stack, Method::GET, &[&web2]);
    assert_eq!(moved.served, "web3 by stick table");
    assert_ne!(value(&moved), WEB2);
    assert_eq!(*told.lock().unwrap(), ["web3", "web2", "web3"], "the table learns of all");
}

#[test]
fn what_is_wrapped_is_asked_and_told_all_the_rest() {
    let web = cluster(&["web1", "web2"]);
    let members = Arc::clone(web.table().members());
    let told = Arc::<Mutex<Vec<String>>>::default();
    let affinity = ByCookie::over(Remembers(members[1].id(), told.clone()));
    let mut tie = affinity.tie(&Request::new(()), tokio::time::Instant::now().into_std());
    assert_eq!(tie.hash(), Some(7));
    assert_eq!(tie.propose(&members[0]), members[1].id());
    tie.failed(&members[0]);
    tie.settled(&Pick::new(members[1].clone(), "policy", Reason::Drawn));
    assert_eq!(*told.lock().unwrap(), ["failed web1", "web2"]);
}

#[test]
fn the_last_backend_that_a_request_settles_at_is_the_one_in_the_cookie() {
    let web = cluster(&["web1", "web2"]);
    let members = Arc::clone(web.table().members());
    let inner = tower::service_fn(move |request: Request<()>| {
        let mut tie = ByCookie::new().tie(&request, tokio::time::Instant::now().into_std());
        tie.settled(&Pick::new(members[0].clone(), "policy", Reason::Drawn));
        tie.settled(&Pick::new(members[1].clone(), "policy", Reason::Drawn));
        ready(Ok::<_, Infallible>(Response::new(())))
    });
    let mut stack = StickyCookieLayer::new(web, insert()).layer(inner);
    let response = tokio_test::block_on(stack.call(Request::new(()))).unwrap();
    assert!(response.headers()[SET_COOKIE].to_str().unwrap().starts_with(&format!("SRV={WEB2};")));
}

#[test]
fn an_answer_of_no_backend_stays_as_it_is() {
    let inner = tower::service_fn(|_: Request<()>| {
        ready(Ok::<_, Infallible>(
            Response::builder().header(SET_COOKIE, "SRV=x").body(()).unwrap(),
        ))
    });
    let mut stack = StickyCookieLayer::new(cluster(&["web1"]), insert()).layer(inner);
    let response = tokio_test::block_on(stack.call(Request::new(()))).unwrap();
    assert_eq!(texts(response.headers(), SET_COOKIE), ["SRV=x"]);
}

#[test]
fn nothing_shows_keys_or_tokens() {
    let layer = StickyCookieLayer::new(cluster(&["web1"]), insert());
    let text = format!("{layer:?}");
    assert!(!text.contains(WEB1) && !text.contains("48, 49, 50, 51"), "{text}");
}

/// Pieces between semicolons that are not a cookie called `SRV`.
fn other_piece() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(vec![
        &b""[..],
        b" ",
        b"a=1",
        b" b=\"x y\"",
        b"SRV",
        b"=SRV",
        b" xSRV=1",
        b"SRVx=2",
        b"srv=3",
        b"\xff=\xfe",
        b"a=b=c",
        b"\t$Path=/",
        b"c=SRV=1",
    ]);
    let any = prop::collection::vec(prop::sample::select(b" =aSRV\"~.,\xe4".to_vec()), 0..8);
    prop_oneof![odd.prop_map(<[u8]>::to_vec), any]
        .prop_filter("ours", |piece| request::value(piece, "SRV").is_none())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn other_cookies_stay_byte_for_byte_and_in_order(
        fields in prop::collection::vec(
            prop::collection::vec((other_piece(), any::<bool>()), 1..6), 0..4),
        ours in prop::sample::select(vec!["SRV=x", " SRV=", "SRV = y ", "\tSRV=\"z"]),
    ) {
        let mut headers = HeaderMap::new();
        headers.insert("x-other", HeaderValue::from_static("SRV=1; a"));
        let mut others = Vec::new();
        for field in &fields {
            let mut text = Vec::new();
            for (piece, followed) in field {
                if !text.is_empty() { text.push(b';'); }
                text.extend_from_slice(piece);
                if *followed {
                    text.push(b';');
                    text.extend_from_slice(ours.as_bytes());
                }
                others.extend(Some(piece.trim_ascii()).filter(|piece| !piece.is_empty()));
            }
            headers.append(COOKIE, HeaderValue::from_bytes(&text).unwrap());
        }
        let before = headers.clone();
        request::remove(&mut headers, "SRV");
        prop_assert_eq!(request::values(&headers, "SRV").count(), 0);
        prop_assert_eq!(&headers["x-other"], "SRV=1; a");
        let after: Vec<&[u8]> = headers.get_all(COOKIE).iter()
            .flat_map(|field| field.as_bytes().split(|byte| *byte == b';'))
            .map(<[u8]>::trim_ascii).filter(|piece| !piece.is_empty()).collect();
        prop_assert_eq!(after, others);
        if request::values(&before, "SRV").count() == 0 {
            prop_assert_eq!(headers, before);
        }
    }

    #[test]
    fn a_prefix_that_was_set_is_what_is_taken_off(
        pieces in prop::collection::vec(other_piece(), 0..4),
        value in "[!#-+--:<-~]{0,40}",
        at in 0_usize..5,
    ) {
        let field = |ours: String| {
            let mut pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
            pieces.insert(at.min(pieces.len()), ours.as_bytes());
            HeaderValue::from_bytes(&pieces.join(&b';')).unwrap()
        };
        let mut sent = HeaderMap::new();
        sent.insert(COOKIE, field(format!("SRV={WEB1}~{value}")));
        request::remove_prefixes(&mut sent, "SRV");
        prop_assert_eq!(&sent[COOKIE], field(format!("SRV={value}")));
    }

    #[test]
    fn other_cookies_that_are_set_stay_byte_for_byte(
        before in prop::collection::vec(other_piece(), 0..3),
        after in prop::collection::vec(other_piece(), 0..3),
        attributes in "[ -~]{0,30}",
    ) {
        let mut headers = HeaderMap::new();
        let own = format!("SRV=v;{attributes}").into_bytes();
        for field in before.iter().chain([&own]).chain(&after) {
            headers.append(SET_COOKIE, HeaderValue::from_bytes(field).unwrap());
        }
        response::replace(&mut headers, "SRV", b"new");
        let new = format!("SRV=new;{attributes}").into_bytes();
        let found: Vec<_> = headers.get_all(SET_COOKIE).iter().map(|f| f.as_bytes().to_vec()).collect();
        let expected: Vec<_> = before.iter().chain([&new]).chain(&after).cloned().collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_cookie_of_ours_is_harmless(value in prop::collection::vec(any::<u8>(), 0..120)) {
        prop_assert!(token::read(&value).is_none_or(|_| value.len() >= 22));
        let _ = token::read_prefix(&value);
        let _ = request::value(&value, "SRV");
    }
}
