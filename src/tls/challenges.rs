//! Responses to the challenges of ACME orders (RFC 8555 section 8.3, RFC 8737).
//!
//! They are files, so that every replica that shares the directory can respond, whichever of them
//! the validation reaches. They exist only while an order is pending.

use std::{fs, io, path::PathBuf, sync::Arc};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::files;

/// The ALPN protocol of a `tls-alpn-01` validation.
pub(super) const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";
const HTTP_PREFIX: &str = "/.well-known/acme-challenge/";

/// The directory with the responses to pending challenges.
#[derive(Clone, Debug)]
pub struct Challenges {
    dir: PathBuf,
}

/// A response that is withdrawn when this is dropped.
pub(super) struct PublishedChallenge(PathBuf);

impl Challenges {
    /// Creates the directory if it does not exist.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        files::create_dir(&dir)?;
        Ok(Challenges { dir })
    }

    /// Publishes the response to an `http-01` challenge.
    pub(super) fn publish_http(
        &self,
        token: &str,
        key_authorization: &str,
    ) -> io::Result<PublishedChallenge> {
        let file = self.http_file(token).ok_or(io::ErrorKind::InvalidInput)?;
        files::write(&file, key_authorization.as_bytes())?;
        Ok(PublishedChallenge(file))
    }

    /// Publishes the certificate for a `tls-alpn-01` challenge of a domain.
    pub(super) fn publish_tls(
        &self,
        domain: &str,
        digest: &[u8],
    ) -> io::Result<PublishedChallenge> {
        let create = || {
            let mut params = CertificateParams::new(vec![domain.to_owned()])?;
            params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
            let key = KeyPair::generate()?;
            Ok(params.self_signed(&key)?.pem() + &key.serialize_pem())
        };
        let pem = create().map_err(|error: rcgen::Error| io::Error::other(error))?;
        let file = self.tls_file(domain).ok_or(io::ErrorKind::InvalidInput)?;
        files::write(&file, pem.as_bytes())?;
        Ok(PublishedChallenge(file))
    }

    /// Returns the response to a `http-01` validation that requests `path`, if one is pending.
    pub fn http_response(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.http_file(path.strip_prefix(HTTP_PREFIX)?)?).ok()
    }

    /// Returns the certificate for a `tls-alpn-01` validation of `name`, if one is pending.
    pub(super) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let pem = fs::read(self.tls_file(name)?).ok()?;
        let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_slice(&pem).ok()?;
        // `CertifiedKey::from_der` rejects the critical extension of these certificates.
        let key = aws_lc_rs::sign::any_supported_type(&key).ok()?;
        Some(Arc::new(CertifiedKey::new(chain, key)))
    }

    fn http_file(&self, token: &str) -> Option<PathBuf> {
        // The alphabet of base64url contains no separator and no dot.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let valid = (1..=200).contains(&token.len()) && token.bytes().all(plain);
        valid.then(|| self.dir.join(format!("http-{token}")))
    }

    fn tls_file(&self, domain: &str) -> Option<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let valid = (1..=240).contains(&domain.len()) && domain.bytes().all(plain);
        valid.then(|| self.dir.join(format!("tls-{}", domain.to_ascii_lowercase())))
    }
}

impl Drop for PublishedChallenge {
    fn drop(&mut self) {
        // A response that stays is harmless: the order that it belongs to has ended.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responds_while_a_challenge_is_published() {
        let dir = tempfile::tempdir().expect("a directory");
        let challenges = Challenges::open(dir.path().join("challenges")).expect("created");
        let path = "/.well-known/acme-challenge/tok-en_1";
        assert_eq!(challenges.http_response(path), None);
        let published = challenges.publish_http("tok-en_1", "tok-en_1.thumb").expect("written");
        assert_eq!(challenges.http_response(path).as_deref(), Some(&b"tok-en_1.thumb"[..]));
        drop(published);
        assert_eq!(challenges.http_response(path), None);

        let published = challenges.publish_tls("hooks.example", &[7; 32]).expect("written");
        assert!(challenges.certificate("HOOKS.example").is_some());
        assert!(challenges.certificate("other.example").is_none());
        drop(published);
        assert!(challenges.certificate("hooks.example").is_none());
    }

    #[test]
    fn reads_no_other_file() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("account.json"), "secret").expect("written");
        let challenges = Challenges::open(dir.path().join("challenges")).expect("created");
        for token in ["../../account.json", "..", "", ".", "a/b", "%2e%2e"] {
            let path = format!("{HTTP_PREFIX}{token}");
            assert_eq!(challenges.http_response(&path), None, "{token}");
        }
        assert!(challenges.publish_http("../token", "x").is_err());
        assert!(challenges.certificate("../account.json").is_none());
    }
}
