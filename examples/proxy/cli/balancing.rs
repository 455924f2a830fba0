//! Flags of balancing: how backends are chosen, and who stays with which.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::HeaderName;

use super::values;

/// How a backend is chosen.
#[derive(Clone, Debug, Args)]
pub(crate) struct BalancingArgs {
    /// How to choose a backend: roundrobin, leastconn, random, p2c, first, ewma, ring, maglev or
    /// rendezvous. Those that hash take bounded=PERCENT, as HAProxy's hash-balance-factor; random and
    /// p2c take draws=N; ring takes ketama, rendezvous takes tree
    #[arg(long, value_name = "NAME[,opt=v...]", default_value = "roundrobin", value_parser = balance)]
    pub(crate) balance: BalanceArg,

    /// What ring, maglev and rendezvous hash: source, sni, uri, header:NAME, cookie:NAME or
    /// query:NAME [default: source]
    #[arg(long, value_name = "KEY", value_parser = hash_key)]
    pub(crate) hash_key: Option<HashKeyArg>,

    /// Keep clients with their backend: by address in a table,
    /// source[,size=200k][,expire=30m], or by a cookie,
    /// cookie:NAME[,insert|rewrite|prefix][,indirect][,nocache][,postonly][,preserve][,maxidle=D]
    /// [,maxlife=D][,domain=D][,samesite=strict|lax|none|off][,insecure][,script][,key=FILE]
    /// (lines of `openssl rand -base64 32`, the current one first); with either, on-down=repin|fail|DURATION and on-drain=honour|migrate
    #[arg(long, value_name = "HOW", value_parser = sticky)]
    pub(crate) sticky: Option<StickyArg>,

    /// Time over which a backend that has recovered gets back to its whole share
    #[arg(long, value_name = "D", default_value = "0s", value_parser = values::duration)]
    pub(crate) slowstart: Duration,

    /// Longest wait for a free slot, where backends have a maxconn [default: as --timeout-connect]
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub(crate) queue: Option<Duration>,
}

/// `NAME[,opt=v...]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BalanceArg {
    pub(crate) policy: PolicyName,
    pub(crate) bounded: Option<u16>,
    pub(crate) draws: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyName {
    RoundRobin,
    LeastConn,
    Random,
    PowerOfTwo,
    First,
    PeakEwma,
    Ring,
    Ketama,
    Maglev,
    Rendezvous,
    RendezvousTree,
}

impl PolicyName {
    /// Whether it goes by a key.
    pub(crate) fn hashes(self) -> bool {
        use PolicyName::{Ketama, Maglev, Rendezvous, RendezvousTree, Ring};
        matches!(self, Ring | Ketama | Maglev | Rendezvous | RendezvousTree)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashKeyArg {
    Source,
    Sni,
    Uri,
    Header(HeaderName),
    Cookie(String),
    Query(String),
}

impl HashKeyArg {
    /// Whether it can only be read from a request.
    pub(crate) fn is_of_requests(&self) -> bool {
        !matches!(self, Self::Source | Self::Sni)
    }
}

/// Who stays with which backend.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StickyArg {
    pub(crate) by: StickyBy,
    pub(crate) on_down: OnDown,
    pub(crate) migrate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDown {
    Repin,
    Fail,
    Wait(Duration),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StickyBy {
    Source { size: usize, expire: Duration },
    Cookie(CookieArg),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CookieArg {
    pub(crate) name: String,
    pub(crate) mode: Option<CookieMode>,
    pub(crate) indirect: bool,
    pub(crate) nocache: bool,
    pub(crate) postonly: bool,
    pub(crate) preserve: bool,
    /// Also over connections without TLS.
    pub(crate) insecure: bool,
    /// Readable for scripts.
    pub(crate) script: bool,
    pub(crate) max_idle: Option<Duration>,
    pub(crate) max_life: Option<Duration>,
    pub(crate) domain: Option<String>,
    pub(crate) same_site: Option<SameSiteArg>,
    pub(crate) key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieMode {
    Insert,
    Rewrite,
    Prefix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SameSiteArg {
    Strict,
    Lax,
    None,
    Off,
}

fn balance(text: &str) -> Result<BalanceArg, String> {
    let mut parts = text.split(',');
    let mut arg = BalanceArg {
        policy: match parts.next().unwrap_or_default() {
            "roundrobin" => PolicyName::RoundRobin,
            "leastconn" => PolicyName::LeastConn,
            "random" => PolicyName::Random,
            "p2c" => PolicyName::PowerOfTwo,
            "first" => PolicyName::First,
            "ewma" => PolicyName::PeakEwma,
            "ring" => PolicyName::Ring,
            "maglev" => PolicyName::Maglev,
            "rendezvous" => PolicyName::Rendezvous,
            other => return Err(format!("no policy is called `{other}`")),
        },
        bounded: None,
        draws: None,
    };
    for option in parts {
        match (option.split_once('=').unwrap_or((option, "")), arg.policy) {
            (("bounded", percent), policy) if policy.hashes() => {
                let percent =
                    percent.parse().ok().filter(|percent| (101..=10_000).contains(percent));
                arg.bounded = Some(percent.ok_or("bounded is a percentage from 101 to 10000")?);
            }
            (("draws", draws), PolicyName::Random | PolicyName::PowerOfTwo) => {
                let draws = draws.parse().ok().filter(|draws| (1..=16).contains(draws));
                arg.draws = Some(draws.ok_or("draws is a number from 1 to 16")?);
            }
            (("ketama", ""), PolicyName::Ring) => arg.policy = PolicyName::Ketama,
            (("tree", ""), PolicyName::Rendezvous) => arg.policy = PolicyName::RendezvousTree,
            _ => return Err(format!("`{option}` is no option of this policy")),
        }
    }
    Ok(arg)
}

fn hash_key(text: &str) -> Result<HashKeyArg, String> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    Ok(match (kind, name) {
        ("source", "") => HashKeyArg::Source,
        ("sni", "") => HashKeyArg::Sni,
        ("uri", "") => HashKeyArg::Uri,
        ("header" | "cookie" | "query", "") => {
            return Err(format!("{kind} needs a name: {kind}:NAME"));
        }
        ("header", name) => {
            HashKeyArg::Header(name.parse().map_err(|_| format!("`{name}` is no header's name"))?)
        }
        ("cookie", name) if is_token(name) => HashKeyArg::Cookie(name.to_owned()),
        ("query", name) if !name.contains(['=', '&', ' ']) => HashKeyArg::Query(name.to_owned()),
        ("cookie" | "query", name) => return Err(format!("no {kind} can be called `{name}`")),
        _ => return Err("a key is source, sni, uri, header:NAME, cookie:NAME or query:NAME".into()),
    })
}

fn sticky(text: &str) -> Result<StickyArg, String> {
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let by = match kind.split_once(':') {
        None if kind == "source" => StickyBy::Source { size: SIZE, expire: EXPIRE },
        Some(("cookie", name)) if is_token(name) => {
            StickyBy::Cookie(CookieArg { name: name.to_owned(), ..CookieArg::default() })
        }
        Some(("cookie", _)) | None if kind.starts_with("cookie") => {
            return Err("a cookie needs a name of letters, digits and !#$%&'*+-.^_`|~".to_owned());
        }
        _ => return Err("stickiness is source or cookie:NAME".to_owned()),
    };
    let mut arg = StickyArg { by, on_down: OnDown::Repin, migrate: false };
    for option in parts {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match (name, value) {
            ("on-down", "repin") => arg.on_down = OnDown::Repin,
            ("on-down", "fail") => arg.on_down = OnDown::Fail,
            ("on-down", wait) => arg.on_down = OnDown::Wait(values::duration(wait)?),
            ("on-drain", "honour") => arg.migrate = false,
            ("on-drain", "migrate") => arg.migrate = true,
            _ => match &mut arg.by {
                StickyBy::Source { size, expire } => table_option(size, expire, option)?,
                StickyBy::Cookie(cookie) => cookie.option(option)?,
            },
        }
    }
    if let StickyBy::Cookie(cookie) = &arg.by {
        cookie.check()?;
    }
    Ok(arg)
}

fn table_option(size: &mut usize, expire: &mut Duration, option: &str) -> Result<(), String> {
    match option.split_once('=') {
        Some(("size", text)) => *size = values::size(text)?,
        Some(("expire", text)) => *expire = expiry(text)?,
        Some(("store", _)) => return Err(values::unbuilt("a shared store")),
        _ => return Err(format!("`{option}` is no option of `source`")),
    }
    Ok(())
}

impl CookieArg {
    fn option(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=').unwrap_or((option, "")) {
            ("insert", "") => self.set(CookieMode::Insert)?,
            ("rewrite", "") => self.set(CookieMode::Rewrite)?,
            ("prefix", "") => self.set(CookieMode::Prefix)?,
            ("indirect", "") => self.indirect = true,
            ("nocache", "") => self.nocache = true,
            ("postonly", "") => self.postonly = true,
            ("preserve", "") => self.preserve = true,
            ("httponly", "") => self.script = false,
            ("secure", "") => self.insecure = false,
            ("script", "") => self.script = true,
            ("insecure", "") => self.insecure = true,
            ("maxidle", text) => self.max_idle = Some(lifetime(text)?),
            ("maxlife", text) => self.max_life = Some(lifetime(text)?),
            ("domain", "") | ("key", "") => return Err(format!("`{option}` is empty")),
            ("domain", domain) => self.domain = Some(domain.to_owned()),
            ("key", path) => self.key = Some(path.into()),
            ("samesite", "strict") => self.same_site = Some(SameSiteArg::Strict),
            ("samesite", "lax") => self.same_site = Some(SameSiteArg::Lax),
            ("samesite", "none") => self.same_site = Some(SameSiteArg::None),
            ("samesite", "off") => self.same_site = Some(SameSiteArg::Off),
            ("store", _) => return Err(values::unbuilt("a shared store")),
            _ => return Err(format!("`{option}` is no option of a cookie")),
        }
        Ok(())
    }

    fn set(&mut self, mode: CookieMode) -> Result<(), String> {
        match self.mode.replace(mode) {
            Some(other) if other != mode => {
                Err("of insert, rewrite and prefix a cookie has one".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Finds options that would have no effect, or not the one they are for: with rewrite and prefix
    /// it is the backend that sets the cookie.
    fn check(&self) -> Result<(), String> {
        if self.insecure && self.same_site == Some(SameSiteArg::None) {
            return Err("browsers refuse a cookie that is samesite=none and insecure".to_owned());
        }
        if matches!(self.mode, None | Some(CookieMode::Insert)) {
            return Ok(());
        }
        let rewrites = self.mode == Some(CookieMode::Rewrite);
        // HAProxy refuses the first two as well, and ignores the others.
        let needless = [
            ("indirect", self.indirect && rewrites),
            ("preserve", self.preserve && !self.indirect),
            ("nocache", self.nocache),
            ("postonly", self.postonly),
            ("insecure", self.insecure),
            ("script", self.script),
            ("maxidle", self.max_idle.is_some()),
            ("maxlife", self.max_life.is_some()),
            ("domain", self.domain.is_some()),
            ("samesite", self.same_site.is_some()),
        ];
        match needless.iter().find(|(_, given)| *given) {
            Some((option, _)) => {
                Err(format!("`{option}` goes with insert, where the proxy sets the cookie"))
            }
            None => Ok(()),
        }
    }
}

/// The dates in cookies are whole seconds, and none is no limit.
fn lifetime(text: &str) -> Result<Duration, String> {
    let limit = values::duration(text)?;
    match limit.as_secs() {
        0 => Err("a cookie lives for a second or more".to_owned()),
        _ => Ok(limit),
    }
}

/// HAProxy takes 0 for never; here it would forget everybody at once.
fn expiry(text: &str) -> Result<Duration, String> {
    let expire = values::duration(text)?;
    match expire.is_zero() {
        true => Err("with `expire` of 0 nobody is kept".to_owned()),
        false => Ok(expire),
    }
}

/// RFC 6265 §4.1.1.
fn is_token(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(allowed)
}

/// HAProxy's examples have 200k: 204,800.
const SIZE: usize = 200 << 10;

/// HAProxy's examples have 30m.
const EXPIRE: Duration = Duration::from_secs(30 * 60);
