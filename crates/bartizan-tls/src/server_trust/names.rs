//! What a certificate has to be for.

use rustls::pki_types::ServerName;

use super::spiffe::SpiffeIds;
use crate::SourceError;

/// What a certificate has to be for.
#[derive(Clone, Debug)]
pub(super) enum Names {
    /// The name that the caller asks for.
    Asked,
    /// One of these, whatever the caller asks for.
    These(Vec<ServerName<'static>>),
    /// One of these workloads.
    Spiffe(SpiffeIds),
}

/// What is configured, not read yet.
#[derive(Clone, Debug, Default)]
pub(super) struct NameRules {
    pub(super) names: Vec<String>,
    pub(super) spiffe_ids: Vec<String>,
    pub(super) spiffe_domains: Vec<String>,
}

impl NameRules {
    pub(super) fn read(&self) -> Result<Names, SourceError> {
        let mut ids = SpiffeIds::default();
        for id in &self.spiffe_ids {
            ids.add_id(id)?;
        }
        for domain in &self.spiffe_domains {
            ids.add_domain(domain)?;
        }
        match (self.names.is_empty(), ids.is_empty()) {
            (true, true) => Ok(Names::Asked),
            (true, false) => Ok(Names::Spiffe(ids)),
            (false, true) => self
                .names
                .iter()
                .map(|name| server_name(name))
                .collect::<Result<_, _>>()
                .map(Names::These),
            (false, false) => Err(SourceError::NamesAndSpiffe),
        }
    }
}

impl Names {
    /// Each of them as a text, for a digest of what decides. No name has the sign that is in front.
    pub(super) fn texts(&self) -> Vec<String> {
        match self {
            Self::Asked => Vec::new(),
            Self::These(names) => names
                .iter()
                .map(|name| format!("={}", name.to_str().to_ascii_lowercase()))
                .collect(),
            Self::Spiffe(ids) => ids.texts().collect(),
        }
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, SourceError> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| SourceError::BadName { name: name.chars().take(SHOWN).collect() })
}

/// Enough to find it in a configuration.
const SHOWN: usize = 100;
