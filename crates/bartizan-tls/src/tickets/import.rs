//! Reading shared keys from files, and saying what is wrong with them without citing them.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::ring::Masters;

pub(super) type Key = Zeroizing<Vec<u8>>;

pub(super) fn read(path: &Path) -> Result<Key, TicketKeyError> {
    fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| TicketKeyProblem::Unreadable(error).at(Place::File(path.to_owned())))
}

/// One secret of at least [`SHORTEST_SECRET`] bytes.
pub(super) fn secret(bytes: &[u8], place: Place) -> Result<Masters, TicketKeyError> {
    if bytes.len() < SHORTEST_SECRET {
        return Err(TicketKeyProblem::ShortSecret { found: bytes.len() }.at(place));
    }
    Ok(Masters { keys: vec![Zeroizing::new(bytes.to_vec())], makes: 0 })
}

/// HAProxy's `tls-ticket-keys`: the last three keys count, the penultimate one makes tickets.
pub(super) fn haproxy(text: &[u8], path: Option<&Path>) -> Result<Masters, TicketKeyError> {
    let path = path.map(Path::to_owned);
    let mut keys: Vec<Key> = Vec::new();
    for (line, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let wrong = |problem: TicketKeyProblem| problem.at(Place::Line(path.clone(), line));
        let key = decode(text).map_err(wrong)?;
        if let Some(first) = keys.first()
            && first.len() != key.len()
        {
            return Err(wrong(TicketKeyProblem::MixedLengths {
                first: first.len(),
                found: key.len(),
            }));
        }
        keys.push(key);
    }
    let Some(first) = keys.len().checked_sub(HAPROXY_KEYS) else {
        let place = path.map_or(Place::Bytes, Place::File);
        return Err(TicketKeyProblem::TooFew { found: keys.len(), least: HAPROXY_KEYS }.at(place));
    };
    keys.drain(..first);
    Ok(Masters { keys, makes: HAPROXY_KEYS - 2 })
}

/// nginx' `ssl_session_ticket_key`: the first key makes tickets.
pub(super) fn nginx(
    keys: impl IntoIterator<Item = Result<(Key, Place), TicketKeyError>>,
) -> Result<Masters, TicketKeyError> {
    let mut found = Vec::new();
    for key in keys {
        let (key, place) = key?;
        check(&key).map_err(|problem| problem.at(place))?;
        found.push(key);
    }
    if found.is_empty() {
        return Err(TicketKeyProblem::TooFew { found: 0, least: 1 }.at(Place::Bytes));
    }
    Ok(Masters { keys: found, makes: 0 })
}

fn decode(text: &[u8]) -> Result<Key, TicketKeyProblem> {
    // Room for what is too long as well, so that the error can tell how long.
    let mut key = Zeroizing::new(vec![0; text.len()]);
    // The decoder's own error cites a byte of the key.
    let length = STANDARD.decode_slice(text, &mut key).map_err(|_| TicketKeyProblem::NotBase64)?;
    key.truncate(length);
    check(&key)?;
    Ok(key)
}

fn check(key: &[u8]) -> Result<(), TicketKeyProblem> {
    if LENGTHS.contains(&key.len()) {
        return Ok(());
    }
    Err(TicketKeyProblem::WrongLength { found: key.len() })
}

/// Ticket keys cannot be used. The operator's fault, who is told what to do.
///
/// It cites nothing of the keys.
#[derive(Debug, thiserror::Error)]
#[error("{place}{problem}")]
pub struct TicketKeyError {
    place: Place,
    #[source]
    problem: TicketKeyProblem,
}

impl TicketKeyError {
    /// The file, where the keys come from one.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) | Place::Line(Some(path), _) => Some(path),
            _ => None,
        }
    }

    /// The line of HAProxy's file, from 1, where one line is at fault.
    pub fn line(&self) -> Option<usize> {
        match self.place {
            Place::Line(_, line) => Some(line),
            _ => None,
        }
    }

    /// What is wrong.
    pub fn problem(&self) -> &TicketKeyProblem {
        &self.problem
    }
}

/// What is wrong with ticket keys.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum TicketKeyProblem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),

    /// A secret is too short to be one.
    #[error(
        "the secret has {found} bytes, and needs at least {SHORTEST_SECRET}; \
         `openssl rand -base64 48` makes one"
    )]
    ShortSecret {
        /// Its length in bytes.
        found: usize,
    },

    /// A line of HAProxy's file is not base64.
    #[error("the key is not base64; `openssl rand -base64 80 | tr -d '\\n'` makes one")]
    NotBase64,

    /// A key is neither 48 nor 80 bytes long.
    #[error("the key has {found} bytes instead of 48 or 80; `openssl rand 80` makes 80")]
    WrongLength {
        /// Its length in bytes, decoded.
        found: usize,
    },

    /// HAProxy's file holds keys of both lengths.
    #[error("the key has {found} bytes, the first one {first}; all need the same length")]
    MixedLengths {
        /// The length of the first key in bytes, decoded.
        first: usize,
        /// The length of this key.
        found: usize,
    },

    /// There are too few keys.
    #[error("there are {found} keys; it takes at least {least}")]
    TooFew {
        /// How many there are.
        found: usize,
        /// How many there have to be.
        least: usize,
    },
}

impl TicketKeyProblem {
    fn at(self, place: Place) -> TicketKeyError {
        TicketKeyError { place, problem: self }
    }
}

/// Where keys come from.
#[derive(Debug)]
pub(super) enum Place {
    /// The caller.
    Bytes,
    /// The caller, as one of several, from 1.
    Key(usize),
    File(PathBuf),
    /// A line, from 1.
    Line(Option<PathBuf>, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => Ok(()),
            Self::Key(number) => write!(f, "key {number}: "),
            Self::File(path) => write!(f, "{}: ", path.display()),
            Self::Line(None, line) => write!(f, "line {line}: "),
            Self::Line(Some(path), line) => write!(f, "{}, line {line}: ", path.display()),
        }
    }
}

/// As long as what is derived from it.
const SHORTEST_SECRET: usize = 32;

/// For AES-128 and for AES-256, in HAProxy and nginx.
const LENGTHS: [usize; 2] = [48, 80];

/// `TLS_TICKETS_NO` of HAProxy: one to open old tickets with, one to make them, and one that is
/// being distributed.
const HAPROXY_KEYS: usize = 3;
