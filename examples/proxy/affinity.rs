//! What ties requests and connections to backends, as the command line asks for it.

use std::task::{Context, Poll};
use std::time::Instant;

use bartizan::balance::{
    Affinity, BackendId, HashBy, Hashed, KetamaKey, Key, KeyOf, Pick, Pin, SniKey, SourceKey,
    Sticky, StickyTie, Tie,
};
use bartizan::http::{CookieKey, HeaderKey, QueryKey, UriKey};
use bartizan::prelude::*;
use http::Request;

use crate::cli::HashKeyArg;

/// A key for policies of hashes, and a table before that if one is kept.
#[derive(Clone)]
pub(crate) enum OrTable {
    Key(HashBy<HashKey>),
    Table(Sticky<SourceKey, HashBy<HashKey>>),
}

pub(crate) enum OrTableTie {
    Key(Hashed),
    Table(StickyTie<Hashed>),
}

impl<Req> Affinity<Req> for OrTable
where
    HashKey: KeyOf<Req>,
    SourceKey: KeyOf<Req>,
{
    type Tie = OrTableTie;

    fn tie(&self, request: &Req, now: Instant) -> OrTableTie {
        match self {
            Self::Key(key) => OrTableTie::Key(key.tie(request, now)),
            Self::Table(table) => OrTableTie::Table(table.tie(request, now)),
        }
    }
}

impl Tie for OrTableTie {
    fn hash(&self) -> Option<u64> {
        match self {
            Self::Key(tie) => tie.hash(),
            Self::Table(tie) => tie.hash(),
        }
    }

    fn poll_pin(&mut self, cx: &mut Context<'_>) -> Poll<Option<Pin>> {
        match self {
            Self::Key(tie) => tie.poll_pin(cx),
            Self::Table(tie) => tie.poll_pin(cx),
        }
    }

    fn propose(&mut self, backend: &Backend) -> BackendId {
        match self {
            Self::Key(tie) => tie.propose(backend),
            Self::Table(tie) => tie.propose(backend),
        }
    }

    fn failed(&mut self, backend: &Backend) {
        match self {
            Self::Key(tie) => tie.failed(backend),
            Self::Table(tie) => tie.failed(backend),
        }
    }

    fn settled(&mut self, pick: &Pick) {
        match self {
            Self::Key(tie) => tie.settled(pick),
            Self::Table(tie) => tie.settled(pick),
        }
    }
}

/// The key that was asked for; none if the policy hashes nothing.
#[derive(Clone)]
pub(crate) struct HashKey {
    key: Option<Parts>,
    ketama: bool,
}

#[derive(Clone)]
enum Parts {
    Source(SourceKey),
    Sni(SniKey),
    Uri(UriKey),
    Header(HeaderKey),
    Cookie(CookieKey),
    Query(QueryKey),
}

impl HashKey {
    pub(crate) fn new(arg: Option<HashKeyArg>, ketama: bool) -> Self {
        let key = arg.map(|arg| match arg {
            HashKeyArg::Source => Parts::Source(SourceKey::new()),
            HashKeyArg::Sni => Parts::Sni(SniKey::new()),
            HashKeyArg::Uri => Parts::Uri(UriKey::new()),
            HashKeyArg::Header(name) => Parts::Header(HeaderKey::new(name)),
            HashKeyArg::Cookie(name) => Parts::Cookie(CookieKey::new(name)),
            HashKeyArg::Query(name) => Parts::Query(QueryKey::new(name)),
        });
        Self { key, ketama }
    }

    pub(crate) fn is_server_name(&self) -> bool {
        matches!(self.key, Some(Parts::Sni(_)))
    }
}

impl<B> KeyOf<Request<B>> for HashKey {
    fn key<'r>(&self, request: &'r Request<B>) -> Option<Key<'r>> {
        match self.key.as_ref()? {
            Parts::Source(key) => key.key(request),
            Parts::Sni(key) => key.key(request),
            Parts::Uri(key) => key.key(request),
            Parts::Header(key) => key.key(request),
            Parts::Cookie(key) => key.key(request),
            Parts::Query(key) => key.key(request),
        }
    }

    fn hash(&self, request: &Request<B>) -> Option<u64> {
        hash(self, request, self.ketama)
    }
}

/// Of a connection only who it is from, and to which name, is known.
impl<IO> KeyOf<Conn<IO>> for HashKey {
    fn key<'r>(&self, conn: &'r Conn<IO>) -> Option<Key<'r>> {
        match self.key.as_ref()? {
            Parts::Source(key) => key.key(conn),
            Parts::Sni(key) => key.key(conn),
            _ => None,
        }
    }

    fn hash(&self, conn: &Conn<IO>) -> Option<u64> {
        hash(self, conn, self.ketama)
    }
}

fn hash<Req>(key: &HashKey, request: &Req, ketama: bool) -> Option<u64>
where
    HashKey: KeyOf<Req>,
{
    /// The same key, without a hash of its own.
    struct Plain<'a>(&'a HashKey);

    impl<Req> KeyOf<Req> for Plain<'_>
    where
        HashKey: KeyOf<Req>,
    {
        fn key<'r>(&self, request: &'r Req) -> Option<Key<'r>> {
            self.0.key(request)
        }
    }

    match ketama {
        true => KetamaKey::new(Plain(key)).hash(request),
        false => Plain(key).hash(request),
    }
}
