//! What an issuer gave: whether it is what was ordered, and for how long it is good.

use instant_acme::CertificateIdentifier;
use jetway_protocol::time::UnixMicros;
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::Names;

/// A chain in PEM, and the key to its first.
#[derive(Debug)]
pub struct Issued {
    pub chain: String,
    pub key: String,
    pub not_before: UnixMicros,
    pub not_after: UnixMicros,
}

impl Issued {
    /// Says what is wrong with it.
    pub fn check(chain: String, key: String, names: &Names) -> Result<Self, String> {
        let first = first(&chain)?;
        let certificate = parsed(&first)?;
        let ours = KeyPair::from_pem(&key).map_err(|error| error.to_string())?;
        if certificate.public_key().raw != ours.subject_public_key_info() {
            return Err("it is for another key".to_owned());
        }
        let alternatives = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let for_whom: Vec<String> = alternatives
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        if let Some(missing) = names.all().iter().find(|name| !for_whom.contains(name)) {
            return Err(format!("it is not for {missing}"));
        }
        let validity = certificate.validity();
        let micros = |seconds: i64| UnixMicros(seconds.saturating_mul(1_000_000));
        let (not_before, not_after) =
            (micros(validity.not_before.timestamp()), micros(validity.not_after.timestamp()));
        Ok(Self { chain, key, not_before, not_after })
    }
}

/// What an issuer knows a chain's first by (RFC 9773 §4.1).
pub fn identifier(chain: &str) -> Option<CertificateIdentifier<'static>> {
    let first = first(chain).ok()?;
    let identifier = CertificateIdentifier::try_from(&first).ok()?;
    Some(identifier.into_owned())
}

fn first(chain: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(chain.as_bytes())
        .map_err(|error| format!("it is no certificate in PEM ({error})"))
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.as_ref())
        .map_err(|error| format!("it is no certificate ({error})"))?;
    Ok(parsed)
}

/// As an issuer makes them.
#[cfg(test)]
pub fn made(names: &[&str], days: std::ops::Range<i64>) -> (String, String) {
    let mut parameters =
        rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            .unwrap();
    let day = |n: i64| {
        rcgen::date_time_ymd(2026, 1, 1) + std::time::Duration::from_secs(86_400) * u32::try_from(n).unwrap()
    };
    (parameters.not_before, parameters.not_after) = (day(days.start), day(days.end));
    parameters.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_ordered_is_taken() {
        let names: Names = "a.example+*.a.example".parse().unwrap();
        let (chain, key) = made(&["a.example", "*.A.example", "more.example"], 0..90);
        let issued = Issued::check(chain.clone(), key.clone(), &names).unwrap();
        assert_eq!(issued.not_after.since(issued.not_before), 90 * 86_400 * 1_000_000);
        assert!(identifier(&chain).is_some());
        let (other, other_key) = made(&["a.example"], 0..90);
        for (chain, key, sign) in [
            (chain.clone(), other_key.clone(), "another key"),
            (other, other_key, "not for *.a.example"),
            (String::new(), key.clone(), "no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
                key.clone(),
                "no certificate",
            ),
            (chain, "no key".into(), ""),
        ] {
            let reason = Issued::check(chain, key, &names).unwrap_err();
            assert!(reason.contains(sign), "{reason}");
        }
    }
}
