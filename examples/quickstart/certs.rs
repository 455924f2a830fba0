//! A certificate authority for one run, and the one certificate that it issues.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use bartizan::net::clock::{Clock, SystemClock};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// What [`mint`] makes. The authority's key is gone already: nothing else can be issued by it.
pub(crate) struct Minted {
    /// The authority's certificate, for clients.
    pub(crate) ca_pem: String,
    /// The site's certificate and key, for the balancer.
    pub(crate) site_pem: String,
}

/// Issues a certificate for `localhost`, both loopback addresses, and the address listened on.
pub(crate) fn mint(listen: IpAddr) -> Result<Minted, Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = valid_for_a_month(CertificateParams::default());
    ca.distinguished_name.push(DnType::CommonName, "bartizan quickstart, development CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    if !listen.is_unspecified() && !addresses.contains(&listen) {
        addresses.push(listen);
    }
    let mut names = vec!["localhost".to_owned()];
    names.extend(addresses.iter().map(IpAddr::to_string));
    let site_key = KeyPair::generate()?;
    let mut site = valid_for_a_month(CertificateParams::new(names)?);
    site.distinguished_name.push(DnType::CommonName, "localhost");
    site.is_ca = IsCa::ExplicitNoCa;
    site.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    site.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    site.use_authority_key_identifier_extension = true;
    let site_pem = site.signed_by(&site_key, &issuer)?.pem() + &site_key.serialize_pem();
    Ok(Minted { ca_pem, site_pem })
}

fn valid_for_a_month(mut params: CertificateParams) -> CertificateParams {
    let now = SystemClock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + now;
    // An hour back: the clock of a container or a phone may be a little late.
    params.not_before = now - Duration::from_secs(3600);
    params.not_after = now + Duration::from_secs(30 * 86_400);
    params
}
