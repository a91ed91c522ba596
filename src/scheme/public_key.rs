//! Signatures made with a private key and verified with a pinned public one.

use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA1_ASN1, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA512, VerificationAlgorithm,
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

use crate::{
    scheme::{compiled::key::KeyForm, encoding::Encoding},
    secret::Secret,
};

/// An algorithm with a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PublicKeyAlgorithm {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA with P-256 and SHA-256, the signature in DER.
    EcdsaP256,
    /// ECDSA with P-256 and SHA-1, the signature in DER, for a sender that offers nothing better.
    EcdsaP256Sha1,
    /// ECDSA with P-256 and SHA-256, the signature as `r` and `s` concatenated.
    EcdsaP256Fixed,
    /// RSA PKCS#1 v1.5 with SHA-1 and a modulus of at least 2048 bits, for senders that still use
    /// it.
    RsaSha1,
    /// RSA PKCS#1 v1.5 with SHA-256 and a modulus of at least 2048 bits.
    RsaSha256,
    /// RSA PKCS#1 v1.5 with SHA-512 and a modulus of at least 2048 bits.
    RsaSha512,
    /// RSA-PSS with SHA-512 and a modulus of at least 2048 bits.
    RsaPssSha512,
}

/// A prepared public key.
#[derive(Clone)]
pub(super) struct PublicKey(Arc<ParsedPublicKey>);

impl PublicKeyAlgorithm {
    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            PublicKeyAlgorithm::Ed25519 => &ED25519,
            PublicKeyAlgorithm::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            PublicKeyAlgorithm::EcdsaP256Sha1 => &ECDSA_P256_SHA1_ASN1,
            PublicKeyAlgorithm::EcdsaP256Fixed => &ECDSA_P256_SHA256_FIXED,
            PublicKeyAlgorithm::RsaSha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            PublicKeyAlgorithm::RsaSha256 => &RSA_PKCS1_2048_8192_SHA256,
            PublicKeyAlgorithm::RsaSha512 => &RSA_PKCS1_2048_8192_SHA512,
            PublicKeyAlgorithm::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
        }
    }

    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            PublicKeyAlgorithm::Ed25519 => "Ed25519",
            PublicKeyAlgorithm::EcdsaP256 | PublicKeyAlgorithm::EcdsaP256Fixed => "ECDSA P-256",
            PublicKeyAlgorithm::EcdsaP256Sha1 => "ECDSA P-256 SHA-1",
            PublicKeyAlgorithm::RsaSha1 => "RSA PKCS#1 SHA-1",
            PublicKeyAlgorithm::RsaSha256 => "RSA PKCS#1 SHA-256",
            PublicKeyAlgorithm::RsaSha512 => "RSA PKCS#1 SHA-512",
            PublicKeyAlgorithm::RsaPssSha512 => "RSA-PSS SHA-512",
        }
    }

    /// Returns the length of a signature, if the algorithm fixes it.
    pub(super) fn signature_length(self) -> Option<usize> {
        match self {
            PublicKeyAlgorithm::Ed25519 | PublicKeyAlgorithm::EcdsaP256Fixed => Some(64),
            PublicKeyAlgorithm::EcdsaP256
            | PublicKeyAlgorithm::EcdsaP256Sha1
            | PublicKeyAlgorithm::RsaSha1
            | PublicKeyAlgorithm::RsaSha256
            | PublicKeyAlgorithm::RsaSha512
            | PublicKeyAlgorithm::RsaPssSha512 => None,
        }
    }
}

impl PublicKey {
    /// Reads a key: a PEM block, or raw or SubjectPublicKeyInfo bytes in the encoding of `form`.
    ///
    /// # Errors
    /// The text is not a key of this algorithm.
    pub(super) fn read(
        algorithm: PublicKeyAlgorithm,
        form: &KeyForm,
        key: &Secret,
    ) -> Result<PublicKey, String> {
        let text = key.expose().trim_ascii();
        let bytes = if text.starts_with(b"-----BEGIN") {
            let der = SubjectPublicKeyInfoDer::from_pem_slice(text);
            der.map_err(|_| "the public key is not PEM".to_owned())?.to_vec()
        } else {
            match form.encoding {
                Encoding::Text => Encoding::Base64.decode(text),
                Encoding::Hex | Encoding::Base64 | Encoding::Base64Url => {
                    form.bytes(&Secret::new(text.to_vec())).ok().map(|s| s.expose().to_vec())
                }
            }
            .ok_or_else(|| "the public key is not written as this sender writes it".to_owned())?
        };
        check_size(&bytes)?;
        PublicKey::parse(algorithm, &bytes)
    }

    /// Reads a key in PEM whose line breaks may be absent.
    pub(super) fn from_loose_pem(
        algorithm: PublicKeyAlgorithm,
        text: &str,
    ) -> Result<PublicKey, String> {
        let bare = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----");
        let bare = bare.and_then(|text| text.strip_suffix("-----END PUBLIC KEY-----"));
        let base64: String = bare.unwrap_or(text).split_ascii_whitespace().collect();
        let der = Encoding::Base64.decode(base64.as_bytes()).ok_or("the key is not PEM")?;
        check_size(&der)?;
        PublicKey::parse(algorithm, &der)
    }

    /// Reads a key from its bytes.
    pub(super) fn parse(algorithm: PublicKeyAlgorithm, bytes: &[u8]) -> Result<PublicKey, String> {
        let parsed = ParsedPublicKey::new(algorithm.verification(), bytes);
        let parsed = parsed.map_err(|_| "this is no public key of the scheme's algorithm")?;
        Ok(PublicKey(Arc::new(parsed)))
    }

    /// Returns whether the private half of this key signed `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify_sig(message, signature).is_ok()
    }
}

/// Rejects an RSA key of a size that no signature can be verified with.
fn check_size(der: &[u8]) -> Result<(), String> {
    let Ok((_, info)) = SubjectPublicKeyInfo::from_der(der) else { return Ok(()) };
    match info.parsed() {
        Ok(x509_parser::public_key::PublicKey::RSA(key))
            if !(2048..=8192).contains(&key.key_size()) =>
        {
            Err(format!("the public key has {} bits, not 2048 to 8192", key.key_size()))
        }
        _ => Ok(()),
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PublicKey")
    }
}
