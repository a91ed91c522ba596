"""Signs and verifies with the senders' libraries. Reads a list of jobs as JSON and writes a list of
results: the headers and the body of a signed request, or whether the library accepts a request."""

import json
import sys
import time
from datetime import datetime, timezone
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, InvalidSignature, algorithms
from http_message_signatures.resolvers import MappingKeyResolver
from slack_sdk.signature import SignatureVerifier
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from stripe import SignatureVerificationError, WebhookSignature
from twilio.request_validator import RequestValidator


class Form(dict):
    """Form with repeated fields, as web frameworks pass it to the library."""

    def __init__(self, pairs):
        super().__init__()
        for name, value in pairs:
            self.setdefault(name, []).append(value)

    def getlist(self, name):
        return self[name]


class Message:
    """Request as the library for HTTP message signatures reads it."""

    def __init__(self, url, headers):
        self.method, self.url, self.headers = "POST", url, dict(headers)


COVERED = ("@method", "@authority", "@path", "@query")
MESSAGE_SIGNATURES = {
    "http-message-signatures": (
        algorithms.ED25519, lambda: ed25519.Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)),
    "http-message-signatures-ecdsa": (
        algorithms.ECDSA_P256_SHA256, lambda: ec.derive_private_key(1_000_003, ec.SECP256R1())),
    "http-message-signatures-rsa": (algorithms.RSA_V1_5_SHA256, lambda: rsa.generate_private_key(65537, 2048)),
    "http-message-signatures-rsa-pss": (algorithms.RSA_PSS_SHA512, lambda: rsa.generate_private_key(65537, 2048)),
    "http-message-signatures-hmac": (algorithms.HMAC_SHA256, None),
}


def sign_message(job):
    algorithm, make = MESSAGE_SIGNATURES[job["library"]]
    key = make() if make else job["secret"].encode()
    resolver = MappingKeyResolver(public_keys={}, private_keys={"k": key})
    message = Message(job["url"], {})
    signer = HTTPMessageSigner(signature_algorithm=algorithm, key_resolver=resolver)
    signer.sign(message, key_id="k", covered_component_ids=COVERED, body=job["body"].encode())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() if make else None
    return {
        "headers": list(message.headers.items()), "body": job["body"], "query": urlsplit(job["url"]).query,
        "public_key": public,
    }


def verify_message(job):
    algorithm, _ = MESSAGE_SIGNATURES[job["library"]]
    resolver = MappingKeyResolver(public_keys={"global": job["secret"].encode()}, private_keys={})
    message = Message(f"https://hooks.example.com/{job['library']}", job["headers"])
    verifier = HTTPMessageVerifier(signature_algorithm=algorithm, key_resolver=resolver)
    try:
        # There is no query to cover.
        return bool(verifier.verify(message, require_components=COVERED[:3], body=job["body"].encode()))
    except InvalidSignature:
        return False


def sign(job):
    if job["library"] in MESSAGE_SIGNATURES:
        return sign_message(job)
    library, secret, body = job["library"], job["secret"], job.get("body", "")
    now = int(time.time())
    if library == "stripe":
        mac = WebhookSignature._compute_signature(f"{now}.{body}", secret)
        header = WebhookSignature.generate_signature_header(body, secret, now)
        assert mac in header
        headers = {"Stripe-Signature": header}
    elif library == "slack":
        signature = SignatureVerifier(secret).generate_signature(timestamp=str(now), body=body)
        headers = {"X-Slack-Request-Timestamp": str(now), "X-Slack-Signature": signature}
    elif library == "standard-webhooks":
        at = datetime.fromtimestamp(now, tz=timezone.utc)
        signature = Webhook(secret).sign(job["id"], at, body)
        headers = {"webhook-id": job["id"], "webhook-timestamp": str(now), "webhook-signature": signature}
    elif library == "twilio" and "form" in job:
        form = [(name, value) for name, value in job["form"]]
        body = urlencode(form)
        signature = RequestValidator(secret).compute_signature(job["url"], Form(form))
        headers = {"X-Twilio-Signature": signature, "Content-Type": "application/x-www-form-urlencoded"}
    elif library == "twilio":
        query = "bodySHA256=" + sha256(body.encode()).hexdigest()
        signature = RequestValidator(secret).compute_signature(f"{job['url']}?{query}", {})
        headers = {"X-Twilio-Signature": signature, "Content-Type": "application/json"}
        return {"headers": list(headers.items()), "body": body, "query": query}
    else:
        raise ValueError(library)
    return {"headers": list(headers.items()), "body": body, "query": ""}


def verify(job):
    if job["library"] in MESSAGE_SIGNATURES:
        return verify_message(job)
    library, secret, body, headers = job["library"], job["secret"], job["body"], dict(job["headers"])
    lower = {name.lower(): value for name, value in headers.items()}
    if library == "stripe":
        try:
            return WebhookSignature.verify_header(body, lower["stripe-signature"], secret, 300)
        except SignatureVerificationError:
            return False
    if library == "slack":
        return SignatureVerifier(secret).is_valid_request(body, headers)
    if library == "standard-webhooks":
        try:
            Webhook(secret).verify(body, headers)
            return True
        except WebhookVerificationError:
            return False
    if library == "twilio":
        form = Form(parse_qsl(body, keep_blank_values=True))
        return RequestValidator(secret).validate(job["url"], form, lower["x-twilio-signature"])
    raise ValueError(library)


jobs = json.load(sys.stdin)
json.dump([sign(job) if job["act"] == "sign" else verify(job) for job in jobs], sys.stdout)
