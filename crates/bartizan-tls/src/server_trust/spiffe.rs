//! SPIFFE IDs (the standards `SPIFFE-ID` and `X509-SVID` of spiffe.io).

/// The workloads that are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SpiffeIds {
    ids: Vec<String>,
    domains: Vec<String>,
}

impl SpiffeIds {
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.domains.is_empty()
    }

    /// Adds one workload.
    pub(super) fn add_id(&mut self, id: &str) -> Result<(), BadSpiffeId> {
        let (_, path) = split(id)?;
        if path.is_empty() {
            return Err(BadSpiffeId::new(id, "it has no path, so it is a trust domain"));
        }
        self.ids.push(id.to_owned());
        Ok(())
    }

    /// Adds all workloads of a trust domain: `example.org`, or `spiffe://example.org`.
    pub(super) fn add_domain(&mut self, text: &str) -> Result<(), BadSpiffeId> {
        let domain = text.strip_prefix(SCHEME).unwrap_or(text);
        check_domain(domain).map_err(|why| BadSpiffeId::new(text, why))?;
        self.domains.push(domain.to_owned());
        Ok(())
    }

    /// Whether a certificate with these URIs is the X.509-SVID of one of them.
    pub(super) fn accept(&self, uris: &[&str]) -> bool {
        // X509-SVID §2: more than one URI, whatever they are, makes it invalid.
        let [uri] = uris else { return false };
        let Ok((domain, path)) = split(uri) else { return false };
        // The ID of a trust domain itself is for signing, not for a workload (X509-SVID §3).
        !path.is_empty()
            && (self.ids.iter().any(|id| id == uri) || self.domains.iter().any(|d| d == domain))
    }

    /// For people, and for a digest of what decides: no ID passes for a domain, which ends with
    /// `/*`.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> {
        let domains = self.domains.iter().map(|domain| format!("{SCHEME}{domain}/*"));
        self.ids.iter().cloned().chain(domains)
    }
}

/// The trust domain and the path, which may be empty or starts with a slash (SPIFFE-ID §2).
fn split(id: &str) -> Result<(&str, &str), BadSpiffeId> {
    let wrong = |why| BadSpiffeId::new(id, why);
    if id.len() > LONGEST_ID {
        return Err(wrong("it is longer than 2048 bytes"));
    }
    let rest = id.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not start with spiffe://"))?;
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    check_domain(domain).map_err(wrong)?;
    for segment in path.split('/').skip(1) {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if matches!(segment, "" | "." | "..") || !segment.bytes().all(fits) {
            return Err(wrong(
                "between its slashes there have to be letters, digits and the signs `-_.`",
            ));
        }
    }
    Ok((domain, path))
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if domain.is_empty() || domain.len() > LONGEST_DOMAIN || !domain.bytes().all(fits) {
        return Err(
            "a trust domain has lower-case letters, digits and the signs `-_.`, 255 bytes at most",
        );
    }
    Ok(())
}

/// What is to be a SPIFFE ID or a trust domain is none. The operator's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no SPIFFE ID to verify by: {why}; correct it", id.escape_debug())]
pub struct BadSpiffeId {
    id: String,
    why: &'static str,
}

impl BadSpiffeId {
    fn new(id: &str, why: &'static str) -> Self {
        Self { id: id.chars().take(SHOWN).collect(), why }
    }
}

const SCHEME: &str = "spiffe://";

/// SPIFFE-ID §2.3.
const LONGEST_ID: usize = 2048;
const LONGEST_DOMAIN: usize = 255;

/// Enough to find it in a configuration.
const SHOWN: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_ids_and_domains_as_the_standard_has_them() {
        let mut ids = SpiffeIds::default();
        assert!(ids.is_empty());
        for good in ["spiffe://a.test/x", "spiffe://a-1_b/ns/A.b/sa/web_1"] {
            ids.add_id(good).unwrap();
        }
        ids.add_domain("a.test").unwrap();
        ids.add_domain("spiffe://b.test").unwrap();
        assert_eq!(ids.texts().last().unwrap(), "spiffe://b.test/*");
        let long = format!("spiffe://a.test/{}", "x".repeat(2048));
        for bad in [
            "",
            "a.test/x",
            "https://a.test/x",
            "SPIFFE://a.test/x",
            "spiffe://a.test",
            "spiffe://a.test/",
            "spiffe://a.test/x/",
            "spiffe://a.test//x",
            "spiffe://a.test/../x",
            "spiffe://A.test/x",
            "spiffe:///x",
            "spiffe://a.test:80/x",
            "spiffe://u@a.test/x",
            "spiffe://a.test/x?y",
            "spiffe://a.test/x#y",
            "spiffe://a.test/%41",
            "spiffe://a.test/é",
            &long,
        ] {
            let error = ids.add_id(bad).unwrap_err().to_string();
            assert!(error.len() < 400, "{error}");
        }
        for bad in ["", "A.test", "a.test/x", "spiffe://a.test/", "a test", &"a".repeat(256)] {
            assert!(ids.add_domain(bad).is_err(), "{bad}");
        }
    }
}
