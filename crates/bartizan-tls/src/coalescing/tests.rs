use super::*;

/// `HOST DESTINATION NAME,NAME`, with a `!` in front for HTTP/1.1 alone.
fn route(text: &str) -> LintedRoute {
    let mut words = text.trim_start_matches('!').split(' ');
    let mut word = || words.next().unwrap();
    let route = LintedRoute::new(word(), word()).unwrap();
    route.certificate(word().split(','), !text.starts_with('!'))
}

/// Each as `CONNECTION > OTHER by NAME`.
fn lint(routes: &[&str]) -> Vec<String> {
    let routes: Vec<_> = routes.iter().map(|text| route(text)).collect();
    let line = |found: &Coalescing| {
        let later = if found.h2 { "" } else { ", later" };
        format!("{} > {} by {}{later}", found.connection_host, found.other_host, found.covered_by)
    };
    lint_routes(&routes).iter().map(line).collect()
}

#[test]
fn finds_what_a_certificate_covers_and_nothing_else() {
    for (routes, found) in [
        // One certificate for both, by two names and by a wildcard.
        (&["a.x one a.x,b.x", "b.x two b.x"][..], &["a.x > b.x by b.x"][..]),
        (&["a.x one *.x", "b.x two *.x"], &["a.x > b.x by *.x", "b.x > a.x by *.x"]),
        // Certificates of their own, the same destination.
        (&["a.x one a.x", "b.x two b.x"], &[]),
        (&["a.x one *.x", "b.x one *.x"], &[]),
        // Not now, but when HTTP/2 is turned on.
        (&["!a.x one *.x", "b.x two b.x"], &["a.x > b.x by *.x, later"]),
        // A wildcard is for one label.
        (&["a.x one *.x", "b.a.x two b.a.x", "x three x"], &[]),
        // A wildcard route, and an exact one that is a part of it.
        (&["*.x one *.x", "a.x two a.x"], &["*.x > a.x by *.x"]),
        (&["*.x one c.x", "a.x two *.x"], &["a.x > *.x by *.x"]),
        (&["*.x one c.x", "a.x two a.x,d.x"], &["a.x > d.x by d.x"]),
        // The exact route has that host, not the wildcard.
        (
            &["*.x one *.x", "a.x two a.x", "b.y three b.y,a.x"],
            &["b.y > a.x by a.x", "*.x > a.x by *.x"],
        ),
        // Nobody connects where the certificate is for another host.
        (&["a.x one b.x", "b.x two b.x"], &[]),
        (&["*.x one a.x", "a.x two a.x"], &[]),
        // In any case, and once however many names cover it.
        (&["A.x one a.X,*.X,B.x", "b.x two b.x"], &["a.x > b.x by *.x"]),
        // The first of two for the same host counts.
        (&["a.x one a.x", "a.x two a.x,b.x", "b.x three b.x"], &[]),
    ] {
        assert_eq!(lint(routes), found, "{routes:?}");
    }
}

#[test]
fn the_order_does_not_depend_on_that_of_the_routes() {
    let routes = ["c.x three *.x", "a.x one *.x", "b.x two *.x"];
    let mut turned = routes;
    turned.reverse();
    let found = lint(&routes);
    assert_eq!(found, lint(&turned));
    assert_eq!(found[..2], ["a.x > b.x by *.x", "a.x > c.x by *.x"]);
    assert_eq!(found.len(), 6);
}

#[test]
fn says_it_in_one_line_with_advice() {
    let found = lint_routes(&[route("a.x one *.x"), route("!b.x two b.x")]);
    assert_eq!(
        found[0].to_string(),
        "browsers with an HTTP/2 connection to a.x (one) may use it for b.x, which goes to two: the \
         certificate seen at one covers it as *.x; give one a certificate without that name, turn \
         HTTP/2 off there, or let it answer such requests with 421"
    );
    let found = lint_routes(&[route("!a.x one *.x"), route("b.x two b.x")]);
    assert_eq!(
        found[0].to_string(),
        "as soon as one speaks HTTP/2, browsers with an HTTP/2 connection to a.x (one) may use it \
         for b.x, which goes to two: the certificate seen at one covers it as *.x; give one a \
         certificate without that name, or let it answer such requests with 421"
    );
}

#[test]
fn ten_thousand_routes_under_one_wildcard_are_cut_at_ten_thousand_findings() {
    let routes: Vec<_> = (0..10_000).map(|n| route(&format!("h{n}.x d{n} *.x"))).collect();
    assert_eq!(lint_routes(&routes).len(), MOST);
}
