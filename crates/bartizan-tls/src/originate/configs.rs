//! One `ClientConfig` for each backend, never one for each connection.
//!
//! rustls keys sessions by the server's name alone, and several backends share one. A config with
//! sessions of its own for each of them, made anew when trust or identity change, keeps them apart.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bartizan_net::{Address, Superseded};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, SignatureScheme};

use super::Settings;
use super::sessions::Sessions;
use crate::store::WallTime;

/// The configs in use, by whom they are for.
#[derive(Debug, Default)]
pub(super) struct Configs {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    configs: HashMap<Key, Slot>,
    // Counts look-ups, to tell which config was used longest ago.
    turn: u64,
}

type Key = (Address, ServerName<'static>);

#[derive(Debug)]
struct Slot {
    prepared: Arc<Prepared>,
    used: u64,
}

/// What handshakes with one backend are made with, while trust and identity stay the same.
pub(super) struct Prepared {
    pub(super) config: Arc<ClientConfig>,
    /// What verifies in `config`.
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    pub(super) name: ServerName<'static>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) identity: Arc<Shows>,
    /// What connections rest on: the generations of trust and of the identity.
    pub(super) rests_on: Vec<Superseded>,
    /// Until when the identity is valid that is shown.
    pub(super) identity_end: Option<SystemTime>,
    /// Its key signs elsewhere.
    pub(super) has_remote_key: bool,
    /// How often the backend has let time pass and sent no ticket.
    pub(super) silences: AtomicU32,
}

impl Configs {
    /// The config for `name` at `address`.
    pub(super) fn get(
        &self,
        settings: &Settings,
        address: &Address,
        name: &ServerName<'static>,
    ) -> Result<Arc<Prepared>, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.turn += 1;
        let turn = known.turn;
        let key = (address.clone(), name.clone());
        if let Some(slot) = known.configs.get_mut(&key)
            && !slot.prepared.is_superseded()
        {
            slot.used = turn;
            return Ok(Arc::clone(&slot.prepared));
        }
        let prepared = Arc::new(Prepared::new(settings, address, name.clone())?);
        if known.configs.len() >= MOST_CONFIGS && !known.configs.contains_key(&key) {
            known.forget_one();
        }
        known.configs.insert(key, Slot { prepared: Arc::clone(&prepared), used: turn });
        Ok(prepared)
    }
}

impl Known {
    fn forget_one(&mut self) {
        let oldest = self.configs.iter().min_by_key(|(_, slot)| slot.used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.configs.remove(&key);
        }
    }
}

impl Prepared {
    fn new(
        settings: &Settings,
        address: &Address,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let trust = settings.trust.current();
        let shown = settings.credentials_for(address).map(|credentials| credentials.current());
        let identity = Arc::new(Shows {
            key: shown.as_ref().map(|shown| Arc::clone(&shown.value.key)),
            asked: AtomicBool::new(false),
        });
        let sessions = Arc::new(Sessions::default());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let time = Arc::new(WallTime(Arc::clone(&settings.clock)));
        let versions: &[_] = if settings.tls13_only {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let mut config = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&trust.value.verifier))
            .with_client_cert_resolver(Arc::clone(&identity) as _);
        config.alpn_protocols.clone_from(&settings.alpn);
        config.resumption = if settings.resume {
            Resumption::store(Arc::clone(&sessions) as _)
                .tls12_resumption(Tls12Resumption::SessionIdOrTickets)
        } else {
            Resumption::disabled()
        };
        let mut rests_on = vec![trust.superseded.clone()];
        rests_on.extend(shown.as_ref().map(|shown| shown.superseded.clone()));
        Ok(Self {
            config: Arc::new(config),
            verifier: Arc::clone(&trust.value.verifier),
            name,
            sessions,
            identity,
            rests_on,
            has_remote_key: shown.as_ref().is_some_and(|shown| shown.value.has_remote_key),
            identity_end: shown.map(|shown| shown.value.not_after),
            silences: AtomicU32::new(0),
        })
    }

    /// Whether it need not be waited for one.
    pub(super) fn sends_no_tickets(&self) -> bool {
        self.silences.load(Ordering::Relaxed) >= MOST_SILENCES && !self.sessions.was_ticketed()
    }

    fn is_superseded(&self) -> bool {
        self.rests_on.iter().any(Superseded::is_set)
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Shows the identity, if there is one, and remembers whether it was asked for.
#[derive(Debug)]
pub(super) struct Shows {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl Shows {
    /// Whether the backend has ever asked for a certificate.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether there is one to show.
    pub(super) fn has_any(&self) -> bool {
        self.key.is_some()
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        // Else rustls would not ask here.
        true
    }
}

/// Backends come and go, and names may follow clients' requests. Each config holds its sessions, up
/// to some 100 KiB.
const MOST_CONFIGS: usize = 512;

/// One may be for want of time on a busy machine.
const MOST_SILENCES: u32 = 3;
