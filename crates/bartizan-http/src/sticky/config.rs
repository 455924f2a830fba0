//! What the cookie is like.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bartizan_balance::StickyContract;
use bartizan_net::clock::{Clock, SystemClock};

use super::StickyKeys;
use super::dates::{self, Lifetime};

/// A persistence cookie, with the meaning of HAProxy's `cookie` directive.
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`insert`](Self::insert), [`rewrite`](Self::rewrite), [`prefix`](Self::prefix) | – | the same, and neither, which only reads |
/// | [`indirect`](Self::indirect), [`nocache`](Self::nocache), [`postonly`](Self::postonly), [`preserve`](Self::preserve) | off | the same, off |
/// | [`max_idle`](Self::max_idle), [`max_life`](Self::max_life) | no limit | `maxidle`, `maxlife`: no limit |
/// | [`http_only`](Self::http_only) | **on** | `httponly`: off |
/// | [`secure`](Self::secure) | **on** | `secure`: off |
/// | [`same_site`](Self::same_site) | **`Lax`** | `attr SameSite=…`: none |
/// | [`path`](Self::path) | `/` | always `/` |
/// | [`domain`](Self::domain) | none | `domain`: none |
/// | [`attr`](Self::attr) | none | `attr`: none |
/// | [`contract`](Self::contract) | as `option redispatch` | `option redispatch`, `option persist` |
///
/// A browser does not send a cookie that is [`secure`](Self::secure) over plain HTTP: turn it off
/// where clients are served without TLS, or nobody sticks.
///
/// The value is not configured, as with HAProxy, nor made of the address, as with nginx, but of a
/// key and the backend's name: it says nothing about the backend, and nobody can make one for a
/// backend of his choice by its name. It stays the same over restarts, for all instances with the
/// same [`StickyKeys`], and for a backend that moves to another address. It is the same for all
/// clients of a backend: who was given those of several backends can choose among them.
///
/// ```
/// use bartizan_balance::Cluster;
/// use bartizan_http::{StickyCookie, StickyCookieLayer, StickyKeys};
///
/// let web = Cluster::builder("web").backend("web1", "192.168.1.10:80").build()?;
/// let cookie = StickyCookie::insert("SRV", StickyKeys::random())?.indirect(true).nocache(true);
/// let layer = StickyCookieLayer::new(web, cookie);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it takes effect in a `StickyCookieLayer`"]
pub struct StickyCookie {
    pub(super) name: Box<str>,
    pub(super) keys: StickyKeys,
    pub(super) mode: Mode,
    pub(super) indirect: bool,
    pub(super) nocache: bool,
    pub(super) postonly: bool,
    pub(super) preserve: bool,
    pub(super) lifetime: Lifetime,
    pub(super) contract: StickyContract,
    pub(super) clock: Arc<dyn Clock>,
    path: Option<Box<str>>,
    domains: Vec<Box<str>>,
    http_only: bool,
    secure: bool,
    same_site: Option<SameSite>,
    attrs: Vec<Box<str>>,
}

/// Who sets the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Insert,
    Rewrite,
    Prefix,
}

/// Which requests from other sites a browser sends the cookie with (RFC 6265bis §4.1.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// None of them.
    Strict,
    /// Those that follow a link.
    Lax,
    /// All of them. Browsers want the cookie to be secure then.
    None,
}

impl StickyCookie {
    /// The proxy sets a cookie of its own, unless the client has a right one. What the backend sets
    /// under this name is removed.
    ///
    /// # Errors
    ///
    /// [`StickyCookieError::Name`] if this cannot be the name of a cookie.
    pub fn insert(name: &str, keys: StickyKeys) -> Result<Self, StickyCookieError> {
        Self::new(name, keys, Mode::Insert)
    }

    /// The backend sets the cookie, and when it wants to; the proxy puts its own value in place of
    /// the backend's.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub fn rewrite(name: &str, keys: StickyKeys) -> Result<Self, StickyCookieError> {
        Self::new(name, keys, Mode::Rewrite)
    }

    /// The backend has a cookie already, e.g. `JSESSIONID`; the proxy puts its own value and a `~` in
    /// front of the backend's, and takes it off again in requests.
    ///
    /// In a request, only what could be a value of this proxy is taken off, genuine or not; HAProxy
    /// takes off all up to the first `~`, also that of a value which the application has made up.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub fn prefix(name: &str, keys: StickyKeys) -> Result<Self, StickyCookieError> {
        Self::new(name, keys, Mode::Prefix)
    }

    fn new(name: &str, keys: StickyKeys, mode: Mode) -> Result<Self, StickyCookieError> {
        let is_token =
            |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
        // HAProxy takes what starts with a dollar sign for an attribute (RFC 2109), and so may
        // backends.
        if name.is_empty() || name.starts_with('$') || !name.bytes().all(is_token) {
            return Err(StickyCookieError::Name { name: name.into() });
        }
        Ok(Self {
            name: name.into(),
            keys,
            mode,
            indirect: false,
            nocache: false,
            postonly: false,
            preserve: false,
            lifetime: Lifetime::default(),
            contract: StickyContract::new(),
            clock: Arc::new(SystemClock),
            path: Some("/".into()),
            domains: Vec::new(),
            http_only: true,
            secure: true,
            same_site: Some(SameSite::Lax),
            attrs: Vec::new(),
        })
    }

    /// With `insert`: the backend does not see the cookie.
    ///
    /// Otherwise: what the backend sets under this name is removed if the client has a right one.
    /// Not good with `prefix`, where updates of the application's cookie would then be lost.
    pub fn indirect(self, indirect: bool) -> Self {
        Self { indirect, ..self }
    }

    /// With `insert`: adds `Cache-Control: private` to responses that set the cookie, so that no
    /// shared cache gives it to everybody.
    ///
    /// To all that does not say `private`, `no-cache` or `no-store` already; HAProxy leaves out
    /// those that a cache could only keep if told so.
    pub fn nocache(self, nocache: bool) -> Self {
        Self { nocache, ..self }
    }

    /// With `insert`: sets the cookie only in answers to POST, which caches do not keep.
    pub fn postonly(self, postonly: bool) -> Self {
        Self { postonly, ..self }
    }

    /// What the backend sets under this name reaches the client as it is. A backend can end the
    /// persistence so, at a logout. As with HAProxy, of use with `insert` only.
    pub fn preserve(self, preserve: bool) -> Self {
        Self { preserve, ..self }
    }

    /// With `insert`: a client that was not here for so long is distributed anew. Whole seconds; less
    /// than one means that there is no limit.
    ///
    /// The dates are in the cookie, and sealed: HAProxy's are not. They count in steps of 4 s, as
    /// HAProxy's. A cookie without is accepted, and replaced; one that is dated more than 24 hours in
    /// the future is not.
    pub fn max_idle(mut self, limit: Duration) -> Self {
        self.lifetime.idle = dates::seconds(limit);
        self
    }

    /// With `insert`: a client is distributed anew so long after its first visit, idle or not. As
    /// [`max_idle`](Self::max_idle) otherwise.
    pub fn max_life(mut self, limit: Duration) -> Self {
        self.lifetime.life = dates::seconds(limit);
        self
    }

    /// Whether scripts in the browser may not read the cookie.
    pub fn http_only(self, http_only: bool) -> Self {
        Self { http_only, ..self }
    }

    /// Whether the browser may send the cookie over TLS only.
    pub fn secure(self, secure: bool) -> Self {
        Self { secure, ..self }
    }

    /// Which requests from other sites the browser sends the cookie with; `None` leaves it to the
    /// browser.
    pub fn same_site(self, same_site: Option<SameSite>) -> Self {
        Self { same_site, ..self }
    }

    /// The path that the browser sends the cookie for; `None`: that of the request, without what
    /// follows its last slash.
    ///
    /// # Errors
    ///
    /// [`StickyCookieError::Attribute`] if it has control characters, semicolons, or what is not
    /// ASCII.
    pub fn path(self, path: Option<&str>) -> Result<Self, StickyCookieError> {
        let path = path.map(checked).transpose()?;
        Ok(Self { path, ..self })
    }

    /// A domain whose hosts the browser sends the cookie to. Default: only the very host of the
    /// request. May be said more than once, as with HAProxy; of several, today's browsers obey the
    /// last (RFC 6265 §5.3).
    ///
    /// # Errors
    ///
    /// As [`path`](Self::path).
    pub fn domain(mut self, domain: &str) -> Result<Self, StickyCookieError> {
        self.domains.push(checked(domain)?);
        Ok(self)
    }

    /// A further attribute, e.g. `Max-Age=3600` (nginx: `expires=1h`) or `Partitioned`. May be said
    /// more than once. `SameSite=…` replaces the default.
    ///
    /// # Errors
    ///
    /// As [`path`](Self::path).
    pub fn attr(mut self, attr: &str) -> Result<Self, StickyCookieError> {
        let attr = checked(attr)?;
        if attr.split('=').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("samesite")) {
            self.same_site = None;
        }
        self.attrs.push(attr);
        Ok(self)
    }

    /// What a client can rely on when its backend is down or drains.
    pub fn contract(self, contract: StickyContract) -> Self {
        Self { contract, ..self }
    }

    /// Reads the dates off this clock. Default: the operating system's.
    pub fn clock(self, clock: impl Clock + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// What follows the value.
    pub(super) fn attributes(&self) -> String {
        let path = self.path.iter().map(|path| format!("; Path={path}"));
        let domains = self.domains.iter().map(|domain| format!("; Domain={domain}"));
        let http_only = self.http_only.then(|| "; HttpOnly".to_owned());
        let secure = self.secure.then(|| "; Secure".to_owned());
        let same_site = self.same_site.map(|same_site| format!("; SameSite={same_site}"));
        let attrs = self.attrs.iter().map(|attr| format!("; {attr}"));
        path.chain(domains).chain(http_only).chain(secure).chain(same_site).chain(attrs).collect()
    }
}

impl fmt::Display for SameSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        })
    }
}

/// RFC 6265 §4.1.1: `av-octet`s.
fn checked(text: &str) -> Result<Box<str>, StickyCookieError> {
    match text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b';') {
        true => Ok(text.into()),
        false => Err(StickyCookieError::Attribute { text: text.into() }),
    }
}

/// A cookie cannot be set like this. The operator's fault.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StickyCookieError {
    /// This is no name of a cookie.
    #[error("{name:?} is no name of a cookie; take letters, digits, `-` and `_`")]
    Name {
        /// The name.
        name: Box<str>,
    },

    /// This cannot be within an attribute.
    #[error("{text:?} cannot be an attribute of a cookie; take visible ASCII without `;`")]
    Attribute {
        /// What was to be there.
        text: Box<str>,
    },
}
