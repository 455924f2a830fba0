//! Why a generation cannot be loaded.

use std::path::PathBuf;

use super::settings::SettingsError;
use crate::{LoadError, TicketKeyError};
use bartizan_net::BadHostPattern;

/// A [`CertStore`](crate::CertStore) cannot be built, or not loaded again. The operator's fault,
/// who is told what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file is at fault.
    #[error("{first}{}", Further(*further))]
    Load {
        /// The first, in the order of loading.
        #[source]
        first: LoadError,
        /// How many more certificates cannot be loaded.
        further: usize,
    },

    /// There is nothing to serve.
    #[error(
        "no certificate in {}; only a store with strict SNI may start without one",
        list(places)
    )]
    NoCertificate {
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },

    /// The keys of session tickets are at fault.
    #[error(transparent)]
    Tickets(#[from] TicketKeyError),

    /// The settings are at fault.
    #[error(transparent)]
    Settings(#[from] SettingsError),

    /// A name is none.
    #[error(transparent)]
    Name(#[from] BadHostPattern),

    /// Rules were given twice for a host.
    #[error("there are two rules for {name}; say all that is different for it in one")]
    TwoRules {
        /// The host's name.
        name: String,
    },

    /// Files cannot be watched.
    #[error("certificate files cannot be watched: {0}")]
    Watch(String),
}

impl From<LoadError> for StoreError {
    fn from(first: LoadError) -> Self {
        Self::Load { first, further: 0 }
    }
}

fn list(places: &[PathBuf]) -> String {
    if places.is_empty() {
        return "what the store was told".to_owned();
    }
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}

struct Further(usize);

impl std::fmt::Display for Further {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " (and {n} more)"),
        }
    }
}
