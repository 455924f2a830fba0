//! How backends are chosen, as the command line asks for it.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bartizan::balance::{
    BalanceFactor, First, HashBy, LeastConn, Maglev, OnDrain, OnPinnedDown, PeakEwma, Policy,
    PowerOfTwo, Random, Rendezvous, RingHash, SourceKey, StickTable, StickyContract,
};
use bartizan::http::{
    ByCookie, SameSite, StickyCookie, StickyCookieError, StickyCookieLayer, StickyKeys,
};
use bartizan::prelude::*;

use crate::affinity::{HashKey, OrTable};
use crate::cli::{
    BalanceArg, Cli, CookieArg, CookieMode, HashKeyArg, OnDown, PolicyName, SameSiteArg, StickyArg,
    StickyBy,
};

/// A cluster, and how its backends are chosen.
#[derive(Clone)]
pub(crate) struct Balanced {
    pub(crate) cluster: Cluster,
    arg: BalanceArg,
    // What has to be one for all workers: it knows of all that is in flight, or is large.
    shared: Option<AnyPolicy>,
    key: HashKey,
    affinity: OrTable,
    cookie: Option<StickyCookieLayer>,
    retries: u32,
    queue: Duration,
}

pub(crate) type AnyPolicy = Arc<dyn Policy + Send + Sync>;

impl Balanced {
    /// `keys` are those of cookies, for all clusters.
    pub(crate) fn new(
        cli: &Cli,
        cluster: Cluster,
        keys: &StickyKeys,
    ) -> Result<Self, Box<dyn Error>> {
        let args = &cli.balancing;
        let sticky = args.sticky.as_ref();
        let hashes = args.balance.policy.hashes();
        let key = args.hash_key.clone().unwrap_or(HashKeyArg::Source);
        let key = HashKey::new(hashes.then_some(key), args.balance.policy == PolicyName::Ketama);
        let affinity = match sticky.map(|sticky| (&sticky.by, contract(sticky))) {
            Some((StickyBy::Source { size, expire }, contract)) => {
                let table = StickTable::new(*size, *expire).by(SourceKey::new());
                OrTable::Table(table.contract(contract).over(HashBy::new(key.clone())))
            }
            _ => OrTable::Key(HashBy::new(key.clone())),
        };
        let cookie = match sticky.map(|sticky| (&sticky.by, sticky)) {
            Some((StickyBy::Cookie(arg), sticky)) => {
                let cookie = cookie(arg, keys.clone())?.contract(contract(sticky));
                Some(StickyCookieLayer::new(cluster.clone(), cookie))
            }
            _ => None,
        };
        Ok(Self {
            cluster,
            arg: args.balance,
            shared: shared(args.balance),
            key,
            affinity,
            cookie,
            retries: cli.retries,
            queue: args.queue.unwrap_or(cli.timeout_connect),
        })
    }

    /// The policy of one worker.
    pub(crate) fn policy(&self, worker: usize) -> AnyPolicy {
        if let Some(shared) = &self.shared {
            return Arc::clone(shared);
        }
        match self.arg.policy {
            PolicyName::Random | PolicyName::PowerOfTwo => match self.arg.draws {
                // HAProxy's `random(N)`.
                Some(draws) => Arc::new(PowerOfTwo::new().draws(draws)),
                None if self.arg.policy == PolicyName::Random => Arc::new(Random::new()),
                None => Arc::new(PowerOfTwo::new()),
            },
            PolicyName::PeakEwma => Arc::new(PeakEwma::new()),
            PolicyName::First => Arc::new(First::new()),
            _ => Arc::new(RoundRobin::starting_at(worker)),
        }
    }

    /// What balances requests; the cookie is read by the layer above.
    pub(crate) fn requests(&self, policy: AnyPolicy) -> BalanceLayer<AnyPolicy, ByCookie<OrTable>> {
        self.layer(policy, ByCookie::over(self.affinity.clone()))
    }

    /// What balances whole connections.
    pub(crate) fn connections(&self, policy: AnyPolicy) -> BalanceLayer<AnyPolicy, OrTable> {
        self.layer(policy, self.affinity.clone())
    }

    fn layer<A>(&self, policy: AnyPolicy, affinity: A) -> BalanceLayer<AnyPolicy, A> {
        let layer = BalanceLayer::new(self.cluster.clone(), policy).affinity(affinity);
        layer.retries(self.retries).queue_timeout(self.queue)
    }

    pub(crate) fn cookie(&self) -> Option<StickyCookieLayer> {
        self.cookie.clone()
    }

    /// Whether the ClientHello has to be read for it.
    pub(crate) fn wants_server_name(&self) -> bool {
        self.key.is_server_name()
    }
}

fn shared(arg: BalanceArg) -> Option<AnyPolicy> {
    let bound = || arg.bounded.map(BalanceFactor::percent).into_iter();
    Some(match arg.policy {
        PolicyName::LeastConn => Arc::new(LeastConn::new()),
        PolicyName::Ring => Arc::new(bound().fold(RingHash::new(), RingHash::bounded)),
        PolicyName::Ketama => Arc::new(bound().fold(RingHash::ketama(), RingHash::bounded)),
        PolicyName::Maglev => Arc::new(bound().fold(Maglev::new(), Maglev::bounded)),
        PolicyName::Rendezvous => Arc::new(bound().fold(Rendezvous::new(), Rendezvous::bounded)),
        PolicyName::RendezvousTree => {
            Arc::new(bound().fold(Rendezvous::tree(), Rendezvous::bounded))
        }
        _ => return None,
    })
}

fn contract(sticky: &StickyArg) -> StickyContract {
    let contract = StickyContract::new().on_down(match sticky.on_down {
        OnDown::Repin => OnPinnedDown::Repin,
        OnDown::Fail => OnPinnedDown::Fail,
        OnDown::Wait(longest) => OnPinnedDown::Wait(longest),
    });
    contract.on_drain(if sticky.migrate { OnDrain::Migrate } else { OnDrain::Honour })
}

/// The keys of cookies: those of the file that the command line names, or one by chance.
pub(crate) fn sticky_keys(cli: &Cli) -> Result<StickyKeys, Box<dyn Error>> {
    match cli.balancing.sticky.as_ref().map(|sticky| &sticky.by) {
        Some(StickyBy::Cookie(CookieArg { key: Some(path), .. })) => keys(path),
        _ => Ok(StickyKeys::random()),
    }
}

fn cookie(arg: &CookieArg, keys: StickyKeys) -> Result<StickyCookie, StickyCookieError> {
    let mut cookie = match arg.mode {
        None | Some(CookieMode::Insert) => StickyCookie::insert(&arg.name, keys)?,
        Some(CookieMode::Rewrite) => StickyCookie::rewrite(&arg.name, keys)?,
        Some(CookieMode::Prefix) => StickyCookie::prefix(&arg.name, keys)?,
    };
    cookie = cookie
        .indirect(arg.indirect)
        .nocache(arg.nocache)
        .postonly(arg.postonly)
        .preserve(arg.preserve)
        .secure(!arg.insecure)
        .http_only(!arg.script);
    if let Some(same_site) = arg.same_site {
        cookie = cookie.same_site(match same_site {
            SameSiteArg::Strict => Some(SameSite::Strict),
            SameSiteArg::Lax => Some(SameSite::Lax),
            SameSiteArg::None => Some(SameSite::None),
            SameSiteArg::Off => None,
        });
    }
    cookie = arg.max_idle.into_iter().fold(cookie, StickyCookie::max_idle);
    cookie = arg.max_life.into_iter().fold(cookie, StickyCookie::max_life);
    arg.domain.iter().try_fold(cookie, |cookie, domain| cookie.domain(domain))
}

/// One secret per line, the current one first: further ones are of earlier days.
fn keys(path: &Path) -> Result<StickyKeys, Box<dyn Error>> {
    let about = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = zeroize::Zeroizing::new(std::fs::read(path).map_err(|error| about(&error))?);
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.by_ref().filter(|line| !line.is_empty());
    let current = lines.next().ok_or_else(|| about(&"there is no secret in it"))?;
    Ok(StickyKeys::with_earlier(current, lines).map_err(|error| about(&error))?)
}
