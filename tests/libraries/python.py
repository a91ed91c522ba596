"""Signs and verifies with the senders' libraries. Reads a list of jobs as JSON and writes a list of
results: the headers and the body of a signed request, or whether the library accepts a request."""

import json
import sys
import time
from datetime import datetime, timezone
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode

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


def sign(job):
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
