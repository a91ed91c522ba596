#!/usr/bin/env python3
"""Generates derived.json: for every built-in scheme, a request as its sender's documents describe it,
and variants that must be rejected. It is written from the documents, not from the schemes, so a vector
passes only if both agree. Needs the package `cryptography`. Usage: derive.py > derived.json"""

import base64, datetime, hashlib, hmac, json, sys, zlib
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

NOW = 1_758_184_391
ISO = "2025-09-18T08:33:11Z"
SECRET = "derived-secret-0123456789"
OTHER = "derived-secret-9876543210"
vectors = []


def mac(key, message, digest="sha256"):
    key = key.encode() if isinstance(key, str) else key
    message = message.encode() if isinstance(message, str) else message
    return hmac.new(key, message, digest).digest()


def b64(data):
    return base64.b64encode(data).decode()


def b64url(data):
    data = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sha(data):
    return hashlib.sha256(data.encode()).hexdigest()


def toml(value):
    return json.dumps(value)


def route(scheme, **lines):
    text = f'scheme = "{scheme}"\n'
    for key, value in lines.items():
        text += f"{key} = {toml(value)}\n"
    return text


def case(scheme, name, lines, headers, body, now, expect, **more):
    vectors.append({
        "name": f"{scheme}-{name}", "scheme": scheme, "label": "derived",
        "source": "tests/vectors/derive.py", "route": lines,
        "headers": [list(h) for h in headers], "body": body, "now": now, "expect": expect, **more,
    })


def scheme(id, make, header, *, body='{"id":"evt_1","type":"x","data":{"id":"d1"}}',
           other='{"id":"evt_1","type":"y","data":{"id":"d1"}}', secret=SECRET, wrong=OTHER,
           window=None, bad="zz", malformed="malformed_signature", covers=True, lines=None,
           more_lines="", secret_key="secret", now=NOW, **more):
    """`make(secret, body)` gives the headers that the sender sends; `header` carries the proof."""
    def line(value):
        return (lines or route(id)) + f"{secret_key} = {toml([value])}\n" + more_lines
    good = make(secret, body)
    case(id, "accept", line(secret), good, body, now, "accept", **more)
    rest = [h for h in good if h[0].lower() != header.lower()]
    case(id, "missing", line(secret), rest, body, now, "reject:missing_header", **more)
    proof = [h for h in good if h[0].lower() == header.lower()]
    case(id, "twice", line(secret), good + proof, body, now, "reject:duplicate_header", **more)
    case(id, "wrong-key", line(secret), make(wrong, body), body, now, "reject:bad_signature", **more)
    if covers:
        case(id, "other-body", line(secret), good, other, now,
             f"reject:{'bad_signature' if covers is True else covers}", **more)
    if bad is not None:
        case(id, "malformed", line(secret), rest + [[header, bad]], body, now, f"reject:{malformed}", **more)
    if window:
        case(id, "stale", line(secret), good, body, now + window + 1, "reject:stale", **more)
        case(id, "at-the-edge", line(secret), good, body, now + window, "accept", **more)


# --- the seeds -----------------------------------------------------------------------------------

def vivoldi(secret, body, kind=None, resource=None, t=None):
    t = t or str(NOW * 1000)
    v1 = mac(secret, f"{t}.89365c75dae740ac8500dfc48c5014b5.{sha(body)}").hex()
    headers = [["X-Vivoldi-Event-Id", "89365c75dae740ac8500dfc48c5014b5"],
               ["X-Vivoldi-Request-Id", "e2ea0405b7ba4f0b9b75797179731ae0"],
               ["X-Vivoldi-Timestamp", t], ["X-Content-SHA256", sha(body)],
               ["X-Vivoldi-Signature", f"t={t},v1={v1},alg=hmac-sha256"]]
    if kind:
        headers += [["X-Vivoldi-Webhook-Type", kind], ["X-Vivoldi-Resource-Type", resource]]
    return headers


scheme("vivoldi", vivoldi, "X-Vivoldi-Signature", window=300, covers="bad_signature")
GROUPS = route("vivoldi") + "[route.secrets.coupon]\n3570 = [\"" + SECRET + "\"]\n"
for name, kind, resource, body, expect in [
    ("coupon", "GROUP", "COUPON", '{"grpIdx":3570}', "accept"),
    ("coupon-as-global", "GLOBAL", "COUPON", '{"grpIdx":3570}', "reject:unknown_key"),
    ("coupon-as-link", "GROUP", "URL", '{"grpIdx":3570}', "reject:unknown_key"),
    ("coupon-as-text", "GROUP", "COUPON", '{"grpIdx":"3570"}', "reject:malformed_body"),
    ("coupon-twice", "GROUP", "COUPON", '{"grpIdx":3570,"grp\\u0049dx":1}', "reject:malformed_body"),
]:
    case("vivoldi", name, GROUPS, vivoldi(SECRET, body, kind, resource), body, NOW, expect)

GV = '{"event":"qr.scanned","timestamp":"%s","webhook_id":"wh-001","data":{"n":%d}}'
scheme("govalid", lambda s, b: [["X-GoValid-Signature", "sha256=" + mac(s, b).hex()]],
       "X-GoValid-Signature", body=GV % (ISO, 1), other=GV % (ISO, 2), window=7200)
scheme("vivreal", lambda s, b: [["x-vivreal-signature", mac(s, b).hex()]], "x-vivreal-signature")

# --- HMAC of the body in one header --------------------------------------------------------------

for id, header, prefix, digest, encode in [
    ("github", "X-Hub-Signature-256", "sha256=", "sha256", bytes.hex),
    ("bitbucket", "X-Hub-Signature", "sha256=", "sha256", bytes.hex),
    ("jira", "X-Hub-Signature", "sha256=", "sha256", bytes.hex),
    ("shopify", "X-Shopify-Hmac-Sha256", "", "sha256", b64),
    ("shopify-events", "shopify-hmac-sha256", "", "sha256", b64),
    ("intercom", "X-Hub-Signature", "sha1=", "sha1", bytes.hex),
    ("notion", "X-Notion-Signature", "sha256=", "sha256", bytes.hex),
    ("sentry", "Sentry-Hook-Signature", "", "sha256", bytes.hex),
    ("lemon-squeezy", "X-Signature", "", "sha256", bytes.hex),
    ("xero", "x-xero-signature", "", "sha256", b64),
    ("asana", "X-Hook-Signature", "", "sha256", bytes.hex),
    ("dropbox", "X-Dropbox-Signature", "", "sha256", bytes.hex),
    ("meta", "X-Hub-Signature-256", "sha256=", "sha256", bytes.hex),
    ("docusign", "X-DocuSign-Signature-1", "", "sha256", b64),
    ("circleci", "circleci-signature", "v1=", "sha256", bytes.hex),
    ("pagerduty", "X-PagerDuty-Signature", "v1=", "sha256", bytes.hex),
    ("vercel", "x-vercel-signature", "", "sha1", bytes.hex),
    ("razorpay", "X-Razorpay-Signature", "", "sha256", bytes.hex),
    ("paystack", "x-paystack-signature", "", "sha512", bytes.hex),
    ("mollie", "X-Mollie-Signature", "sha256=", "sha256", bytes.hex),
    ("woocommerce", "X-WC-Webhook-Signature", "", "sha256", b64),
    ("line", "X-Line-Signature", "", "sha256", b64),
    ("x", "x-twitter-webhooks-signature", "sha256=", "sha256", b64),
    ("modern-treasury", "X-Signature", "", "sha256", bytes.hex),
    ("gocardless", "Webhook-Signature", "", "sha256", bytes.hex),
    ("cronofy", "Cronofy-HMAC-SHA256", "", "sha256", b64),
    ("easypost", "X-Hmac-Signature", "hmac-sha256-hex=", "sha256", bytes.hex),
    ("getstream", "X-Signature", "", "sha256", bytes.hex),
    ("creem", "creem-signature", "", "sha256", bytes.hex),
    ("mailersend", "Signature", "", "sha256", bytes.hex),
    ("onfido", "X-SHA2-Signature", "", "sha256", bytes.hex),
    ("viber", "X-Viber-Content-Signature", "", "sha256", bytes.hex),
    ("gitea", "X-Gitea-Signature", "", "sha256", bytes.hex),
    ("gogs", "X-Gogs-Signature", "", "sha256", bytes.hex),
    ("discourse", "X-Discourse-Event-Signature", "sha256=", "sha256", bytes.hex),
    ("quickbooks", "intuit-signature", "", "sha256", b64),
    ("cal-com", "X-Cal-Signature-256", "", "sha256", bytes.hex),
    ("checkr", "X-Checkr-Signature", "", "sha256", bytes.hex),
    ("attio", "Attio-Signature", "", "sha256", bytes.hex),
    ("clickup", "X-Signature", "", "sha256", bytes.hex),
    ("launchdarkly", "X-LD-Signature", "", "sha256", bytes.hex),
    ("checkout-com", "Cko-Signature", "", "sha256", bytes.hex),
    ("sonarqube", "X-Sonar-Webhook-HMAC-SHA256", "", "sha256", bytes.hex),
    ("btcpay", "BTCPay-Sig", "sha256=", "sha256", bytes.hex),
    ("grafana", "X-Grafana-Alerting-Signature", "", "sha256", bytes.hex),
    ("hcp-terraform", "X-TFE-Notification-Signature", "", "sha512", bytes.hex),
    ("maxio", "X-Chargify-Webhook-Signature-Hmac-Sha-256", "", "sha256", bytes.hex),
    ("autodesk", "x-adsk-signature", "sha1hash=", "sha1", bytes.hex),
    ("mongodb-atlas", "X-MMS-Signature", "", "sha1", b64),
    ("doppler", "X-Doppler-Signature", "sha256=", "sha256", bytes.hex),
    ("sendbird", "X-Sendbird-Signature", "", "sha256", bytes.hex),
    ("segment", "X-Signature", "", "sha1", bytes.hex),
    ("aftership", "aftership-hmac-sha256", "", "sha256", b64),
    ("ably", "X-Ably-Signature", "", "sha256", b64),
    ("nylas", "X-Nylas-Signature", "", "sha256", bytes.hex),
    ("bolt", "X-Bolt-Hmac-Sha256", "", "sha256", b64),
    ("primer", "X-Signature-Primary", "", "sha256", b64),
    ("tally", "Tally-Signature", "", "sha256", b64),
    ("ashby", "Ashby-Signature", "sha256=", "sha256", bytes.hex),
    ("merge", "X-Merge-Webhook-Signature", "", "sha256", b64url),
    ("dwolla", "X-Request-Signature-SHA-256", "", "sha256", bytes.hex),
    ("npm", "x-npm-signature", "sha256=", "sha256", bytes.hex),
    ("heroku", "Heroku-Webhook-Hmac-SHA256", "", "sha256", b64),
    ("dub", "Dub-Signature", "", "sha256", bytes.hex),
    ("planetscale", "X-PlanetScale-Signature", "", "sha256", bytes.hex),
    ("firecrawl", "X-Firecrawl-Signature", "sha256=", "sha256", bytes.hex),
    ("plain", "Plain-Request-Signature", "", "sha256", bytes.hex),
    ("vapi", "x-vapi-signature", "", "sha256", bytes.hex),
]:
    body = '{"id":"evt_1","event":{"id":"e1"},"data":{"id":7}}'
    scheme(id, lambda s, b, h=header, p=prefix, d=digest, e=encode: [[h, p + e(mac(s, b, d))]], header,
           body=body, other=body.replace("7", "8"))
scheme("typeform", lambda s, b: [["Typeform-Signature", "sha256=" + b64(mac(s, b))]], "Typeform-Signature",
       body='{"event_id":"e1"}', other='{"event_id":"e2"}')
scheme("coinbase-commerce", lambda s, b: [["X-CC-Webhook-Signature", mac(s, b).hex()]], "X-CC-Webhook-Signature",
       body='{"event":{"id":"e1"}}', other='{"event":{"id":"e2"}}')
LB = '{"type":"Issue","webhookTimestamp":%d,"n":%d}'
scheme("linear", lambda s, b: [["Linear-Signature", mac(s, b).hex()], ["Linear-Delivery", "d-1"]],
       "Linear-Signature", body=LB % (NOW * 1000, 1), other=LB % (NOW * 1000, 2), window=7 * 3600)
scheme("authorize-net", lambda s, b: [["X-ANET-Signature", "sha512=" + mac(bytes.fromhex(s), b, "sha512").hex().upper()]],
       "X-ANET-Signature", secret="ab" * 32, wrong="cd" * 32,
       body='{"notificationId":"n1"}', other='{"notificationId":"n2"}')
scheme("microsoft-teams", lambda s, b: [["Authorization", "HMAC " + b64(mac(base64.b64decode(s), b))]],
       "Authorization", secret=b64(b"a" * 32), wrong=b64(b"b" * 32))

for id, header, prefix, digest, key in [
    ("airtable", "X-Airtable-Content-MAC", "hmac-sha256=", "sha256", base64.b64decode),
    ("onfleet", "X-Onfleet-Signature", "", "sha512", bytes.fromhex),
    ("squarespace", "Squarespace-Signature", "", "sha256", bytes.fromhex),
]:
    write = b64 if key == base64.b64decode else bytes.hex
    scheme(id, lambda s, b, h=header, p=prefix, d=digest, k=key: [[h, p + mac(k(s), b, d).hex()]], header,
           secret=write(b"a" * 32), wrong=write(b"b" * 32))
for id, header, before in [("linkedin", "X-LI-Signature", "hmacsha256="), ("deel", "x-deel-signature", "POST")]:
    scheme(id, lambda s, b, h=header, t=before: [[h, mac(s, t + b).hex()]], header)

# --- HMAC of timestamp and body ------------------------------------------------------------------

def stdwh(prefix):
    def make(s, b):
        key = base64.b64decode(s.removeprefix("whsec_"))
        return [[f"{prefix}-id", "msg_1"], [f"{prefix}-timestamp", str(NOW)],
                [f"{prefix}-signature", "v1a,xxxx v1," + b64(mac(key, f"msg_1.{NOW}.{b}"))]]
    return make


for id, prefix in [("standard-webhooks", "webhook"), ("svix", "svix"), ("gitlab-signed", "webhook"), ("portone", "webhook")]:
    scheme(id, stdwh(prefix), f"{prefix}-signature", window=300, bad="v1,!!",
           secret="whsec_" + b64(b"k" * 24), wrong="whsec_" + b64(b"l" * 24))
for id, header, form, unit, key, window in [
    ("stripe", "Stripe-Signature", "t={t},v1={s},v0=00", 1, "{t}.{b}", 300),
    ("paddle", "Paddle-Signature", "ts={t};h1={s}", 1, "{t}:{b}", 300),
    ("calendly", "Calendly-Webhook-Signature", "t={t},v1={s}", 1, "{t}.{b}", 300),
    ("buildkite", "X-Buildkite-Signature", "timestamp={t},signature={s}", 1, "{t}.{b}", 300),
    ("workos", "WorkOS-Signature", "t={t}, v1={s}", 1000, "{t}.{b}", 300),
    ("recurly", "recurly-signature", "{t},{s},00" + "0" * 62, 1000, "{t}.{b}", 300),
]:
    def make(s, b, header=header, form=form, unit=unit, key=key):
        t = NOW * unit
        return [[header, form.format(t=t, s=mac(s, key.format(t=t, b=b)).hex())]]
    body = '{"id":"evt_1","event_id":"e1","uuid":"u1","n":1}'
    scheme(id, make, header, window=window, body=body, other=body.replace(":1}", ":2}"))
for id, header, form, unit, key, encode, window in [
    ("mux", "Mux-Signature", "t={t},v1={s}", 1, "{t}.{b}", bytes.hex, 300),
    ("elevenlabs", "ElevenLabs-Signature", "t={t},v0={s}", 1, "{t}.{b}", bytes.hex, 1800),
    ("retell", "x-retell-signature", "v={t},d={s}", 1000, "{b}{t}", bytes.hex, 300),
    ("terra", "terra-signature", "t={t},v1={s}", 1, "{t}.{b}", bytes.hex, 300),
    ("shippo", "Shippo-Auth-Signature", "t={t},v1={s}", 1, "{t}.{b}", bytes.hex, 300),
    ("tiktok", "TikTok-Signature", "t={t},s={s}", 1, "{t}.{b}", bytes.hex, 300),
    ("knock", "x-knock-signature", "t={t},s={s}", 1000, "{t}.{b}", b64, 300),
    ("tailscale", "Tailscale-Webhook-Signature", "t={t},v1={s}", 1, "{t}.{b}", bytes.hex, 300),
    ("langfuse", "x-langfuse-signature", "t={t},v1={s}", 1, "{t}.{b}", bytes.hex, 300),
]:
    def make(s, b, header=header, form=form, unit=unit, key=key, encode=encode):
        t = NOW * unit
        return [[header, form.format(t=t, s=encode(mac(s, key.format(t=t, b=b))))]]
    scheme(id, make, header, window=window)
scheme("affirm", lambda s, b: [["X-Affirm-Signature", f"t={NOW},v0={mac(s, f'{NOW}.{b}', 'sha512').hex()}"]],
       "X-Affirm-Signature", window=300)
for id, header, at, time, key, prefix, encode, window in [
    ("webflow", "x-webflow-signature", "x-webflow-timestamp", f"{NOW}000", "{t}:{b}", "", bytes.hex, 300),
    ("podium", "podium-signature", "podium-timestamp", f"{NOW}000", "{t}.{b}", "", bytes.hex, 300),
    ("grafana-timestamp", "X-Grafana-Alerting-Signature", "X-Grafana-Alerting-Timestamp", NOW, "{t}:{b}", "", bytes.hex, 300),
    ("airship", "X-UA-Signature", "X-UA-Timestamp", NOW, "{t}:{b}", "", bytes.hex, 300),
    ("customer-io", "X-CIO-Signature", "X-CIO-Timestamp", NOW, "v0:{t}:{b}", "", bytes.hex, 300),
    ("airwallex", "x-signature", "x-timestamp", f"{NOW}000", "{t}{b}", "", bytes.hex, 300),
    ("front", "X-Front-Signature", "X-Front-Request-Timestamp", f"{NOW}000", "{t}:{b}", "", b64, 300),
]:
    def make(s, b, header=header, at=at, time=time, key=key, prefix=prefix, encode=encode):
        return [[at, str(time)], [header, prefix + encode(mac(s, key.format(t=time, b=b)))]]
    scheme(id, make, header, window=window, bad=prefix + "zz")
TIMED = '{"time_ms":%d,"events":[{"n":%d}]}'
scheme("pusher", lambda s, b: [["X-Pusher-Signature", mac(s, b).hex()]], "X-Pusher-Signature",
       body=TIMED % (NOW * 1000, 1), other=TIMED % (NOW * 1000, 2), window=300)
scheme("sinch-conversation", lambda s, b: [["x-sinch-webhook-signature-nonce", "01FJA8B4A7BM43YGWSG9GBV067"],
        ["x-sinch-webhook-signature-timestamp", str(NOW)],
        ["x-sinch-webhook-signature", b64(mac(s, f"{b}.01FJA8B4A7BM43YGWSG9GBV067.{NOW}"))]],
       "x-sinch-webhook-signature", window=300)
scheme("standard-webhooks-text", lambda s, b: [["webhook-id", "msg_1"], ["webhook-timestamp", str(NOW)],
        ["webhook-signature", "v1," + b64(mac(s, f"msg_1.{NOW}.{b}"))]], "webhook-signature", window=300, bad="v1,!!",
       secret="polar_whs_0123456789abcdef", wrong="polar_whs_fedcba9876543210")
scheme("finch", lambda s, b: [["Finch-Event-Id", "e-1"], ["Finch-Timestamp", str(NOW)],
        ["Finch-Signature", "v1," + b64(mac(base64.b64decode(s), f"e-1.{NOW}.{b}"))]], "Finch-Signature", window=300, bad="v1,!!",
       secret=b64(b"k" * 24), wrong=b64(b"l" * 24))
scheme("sanity", lambda s, b: [["sanity-webhook-signature", f"t={NOW}000,v1={b64url(mac(s, f'{NOW}000.{b}'))}"]],
       "sanity-webhook-signature", window=300)
scheme("slack", lambda s, b: [["X-Slack-Request-Timestamp", str(NOW)], ["X-Slack-Signature", "v0=" + mac(s, f"v0:{NOW}:{b}").hex()]],
       "X-Slack-Signature", window=300)
scheme("zoom", lambda s, b: [["x-zm-request-timestamp", str(NOW)], ["x-zm-signature", "v0=" + mac(s, f"v0:{NOW}:{b}").hex()]],
       "x-zm-signature", window=300)
scheme("zendesk", lambda s, b: [["X-Zendesk-Webhook-Signature-Timestamp", ISO], ["X-Zendesk-Webhook-Signature", b64(mac(s, ISO + b))]],
       "X-Zendesk-Webhook-Signature", window=300)
scheme("twitch", lambda s, b: [["Twitch-Eventsub-Message-Id", "m-1"], ["Twitch-Eventsub-Message-Timestamp", ISO.replace("Z", ".123456789Z")],
                              ["Twitch-Eventsub-Message-Signature", "sha256=" + mac(s, "m-1" + ISO.replace("Z", ".123456789Z") + b).hex()]],
       "Twitch-Eventsub-Message-Signature")
scheme("box", lambda s, b: [["box-delivery-timestamp", "2025-09-18T01:33:11-07:00"],
                           ["box-signature-secondary", b64(mac(s, b + "2025-09-18T01:33:11-07:00"))]],
       "box-signature-secondary", window=600)
scheme("toss-payments", lambda s, b: [["tosspayments-webhook-transmission-time", ISO],
                                     ["tosspayments-webhook-signature", f"v1:{b64(bytes(32))},{b64(mac(s, f'{b}:{ISO}'))}"]],
       "tosspayments-webhook-signature", window=600)
scheme("hygraph", lambda s, b: [["gcms-signature", "sign=%s, env=master, t=%d" % (
           b64(mac(s, '{"Body":%s,"EnvironmentName":"master","TimeStamp":%d}' % (json.dumps(b), NOW * 1000))), NOW * 1000)]],
       "gcms-signature", window=300)

# --- addresses, queries, forms -------------------------------------------------------------------

URL = "https://hooks.example.com/in?a=1&b=2"
for id, header, digest, encode, message, path in [
    ("square", "x-square-hmacsha256-signature", "sha256", b64, lambda b: URL + b, "/in"),
    ("trello", "X-Trello-Webhook", "sha1", b64, lambda b: b + URL, "/in?a=1&b=2"),
]:
    body = '{"event_id":"e1","action":{"id":"a1"},"n":1}'
    scheme(id, lambda s, b, h=header, d=digest, e=encode, m=message: [[h, e(mac(s, m(b), d))]], header,
           body=body, other=body.replace(":1}", ":2}"), lines=route(id, public_url=URL), path=path)
case("square", "other-query", route("square", public_url=URL, secret=[SECRET]),
     [["x-square-hmacsha256-signature", b64(mac(SECRET, URL + "{}"))]], "{}", NOW, "reject:bad_signature", path="/in?a=2")
scheme("twilio", lambda s, b: [["X-Twilio-Signature", b64(mac(s, URL + "Body" + ("hi" if "hi" in b else "ho") + "To+1", "sha1"))]],
       "X-Twilio-Signature", body="To=%2B1&Body=hi", other="To=%2B1&Body=hu", lines=route("twilio", public_url=URL))
EVENTS = "mandrill_events=%5B%7B%22event%22%3A%22open%22%2C%22n%22%3A{}%7D%5D"
scheme("mandrill", lambda s, b: [["X-Mandrill-Signature", b64(mac(s, URL + 'mandrill_events[{"event":"open","n":' + b[-7] + "}]", "sha1"))]],
       "X-Mandrill-Signature", body=EVENTS.format(1), other=EVENTS.format(2), lines=route("mandrill", public_url=URL), path="/in?a=1&b=2")
JURL = URL + "&bodySHA256=" + sha('{"a":1}')
TW = route("twilio", public_url=URL, secret=[SECRET])
TH = [["X-Twilio-Signature", b64(mac(SECRET, JURL, "sha1"))]]
TP = "/in?a=1&b=2&bodySHA256=" + sha('{"a":1}')
case("twilio", "json", TW, TH, '{"a":1}', NOW, "accept", path=TP)
case("twilio", "json-other-body", TW, TH, '{"a":2}', NOW, "reject:inconsistent", path=TP)
scheme("hubspot-v1", lambda s, b: [["X-HubSpot-Signature", sha(s + b)]], "X-HubSpot-Signature")
scheme("hubspot-v2", lambda s, b: [["X-HubSpot-Signature", sha(s + "POST" + URL + b)]], "X-HubSpot-Signature",
       lines=route("hubspot-v2", public_url=URL))
HU = "https://hooks.example.com/in?x=%40y%20z"
scheme("hubspot-v3", lambda s, b: [["X-HubSpot-Request-Timestamp", f"{NOW}000"],
        ["X-HubSpot-Signature-v3", b64(mac(s, f"POSThttps://hooks.example.com/in?x=@y%20z{b}{NOW}000"))]],
       "X-HubSpot-Signature-v3", window=300, lines=route("hubspot-v3", public_url=HU))
scheme("mercado-pago", lambda s, b: [["x-request-id", "r-1"], ["x-signature", f"ts={NOW},v1=" + mac(s, f"id:abc;request-id:r-1;ts:{NOW};").hex()]],
       "x-signature", window=300, covers=False, path="/in?data.id=ABC&type=payment")
case("mercado-pago", "other-id", route("mercado-pago", secret=[SECRET]),
     [["x-request-id", "r-1"], ["x-signature", f"ts={NOW},v1=" + mac(SECRET, f"id:abc;request-id:r-1;ts:{NOW};").hex()]],
     "{}", NOW, "reject:bad_signature", path="/in?data.id=ABD")


def mailgun(signature, token="tok"):
    return json.dumps({"signature": {"timestamp": str(NOW), "token": token, "signature": signature}, "event-data": {"id": "e"}})


good = mac(SECRET, f"{NOW}tok").hex()
for name, body, now, expect in [
    ("accept", mailgun(good), NOW, "accept"), ("wrong-token", mailgun(good, "tik"), NOW, "reject:bad_signature"),
    ("malformed", mailgun("zz"), NOW, "reject:malformed_signature"), ("stale", mailgun(good), NOW + 9 * 3600 + 1, "reject:stale"),
    ("not-json", "x", NOW, "reject:malformed_body"), ("future", mailgun(good), NOW - 301, "reject:future"),
]:
    case("mailgun", name, route("mailgun", secret=[SECRET]), [], body, now, expect)

ADYEN = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"


def adyen_item(value, sign_value=None, **change):
    item = {"pspReference": "p1", "merchantAccountCode": "m", "merchantReference": "r",
            "amount": {"value": value, "currency": "EUR"}, "eventCode": "AUTHORISATION", "success": "true"}
    text = f"p1::m:r:{sign_value or value}:EUR:AUTHORISATION:true"
    item["additionalData"] = {"hmacSignature": b64(mac(bytes.fromhex(ADYEN), text))}
    item.update(change)
    return {"NotificationRequestItem": item}


for name, items, expect in [
    ("accept", [adyen_item(1130), adyen_item(7)], "accept"),
    ("second-unsigned", [adyen_item(1130), adyen_item(7, 8)], "reject:bad_signature"),
    ("other-success", [adyen_item(1130, success="false")], "reject:bad_signature"),
    ("second-empty", [adyen_item(1130), {}], "reject:malformed_signature"),
    ("no-items", [], "reject:malformed_body"),
]:
    case("adyen", name, route("adyen", secret=[ADYEN]), [], json.dumps({"live": "false", "notificationItems": items}), NOW, expect)
for name, states, expect in [
    ("accept", [SECRET, SECRET], "accept"), ("second-wrong", [SECRET, OTHER], "reject:bad_signature"),
    ("second-missing", [SECRET, None], "reject:malformed_signature"), ("none", [], "reject:malformed_body"),
]:
    values = [{"clientState": s} if s else {} for s in states]
    case("microsoft-graph", name, route("microsoft-graph", secret=[SECRET]), [], json.dumps({"value": values}), NOW, expect)

# --- tokens --------------------------------------------------------------------------------------

for id, header, prefix in [
    ("gitlab", "X-Gitlab-Token", ""), ("okta", "Authorization", ""), ("auth0", "Authorization", ""),
    ("flutterwave", "verif-hash", ""), ("telegram", "X-Telegram-Bot-Api-Secret-Token", ""),
    ("kakao-unlink", "Authorization", "KakaoAK "), ("brevo", "Authorization", "Bearer "),
    ("bearer", "Authorization", "Bearer "), ("alertmanager", "Authorization", "Bearer "),
]:
    scheme(id, lambda s, b, h=header, p=prefix: [[h, p + s]], header, covers=False,
           body='{"id":1,"eventId":"e","update_id":7}', bad="Basic x" if prefix else "",
           malformed="malformed_signature")
scheme("postmark", lambda s, b: [["Authorization", "Basic " + b64(s.encode())]], "Authorization",
       secret="user:" + SECRET, wrong="user:" + OTHER, covers=False, bad="Basic !!",
       body='{"RecordType":"Bounce","MessageID":"m1"}')

scheme("basic", lambda s, b: [["Authorization", "Basic " + b64(s.encode())]], "Authorization",
       secret="user:" + SECRET, wrong="user:" + OTHER, covers=False, bad="Basic !!")

# --- public keys ---------------------------------------------------------------------------------


def spki(key):
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def raw(key):
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


eds = [ed25519.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2)]
ecs = [ec.derive_private_key(1000 + n, ec.SECP256R1()) for n in (1, 2)]
rsas = [rsa.generate_private_key(65537, 2048) for _ in (1, 2)]
edhex = {raw(k).hex(): k for k in eds}
edb64 = {b64(raw(k)): k for k in eds}
ecb64 = {b64(spki(k)): k for k in ecs}
rsapem = {pem(k): k for k in rsas}
rsign = lambda k, m: k.sign(m.encode(), padding.PKCS1v15(), hashes.SHA256())
pk = dict(secret_key="public_key")
scheme("discord", lambda s, b: [["X-Signature-Timestamp", str(NOW)], ["X-Signature-Ed25519", edhex[s].sign(f"{NOW}{b}".encode()).hex()]],
       "X-Signature-Ed25519", secret=list(edhex)[0], wrong=list(edhex)[1], window=300, **pk)
whpk = {"whpk_" + key: private for key, private in edb64.items()}
scheme("standard-webhooks-ed25519", lambda s, b: [["webhook-id", "msg_1"], ["webhook-timestamp", str(NOW)],
        ["webhook-signature", "v1,xxxx v1a," + b64(whpk[s].sign(f"msg_1.{NOW}.{b}".encode()))]], "webhook-signature",
       secret=list(whpk)[0], wrong=list(whpk)[1], window=300, bad="v1a,!!", **pk)
scheme("telnyx", lambda s, b: [["telnyx-timestamp", str(NOW)], ["telnyx-signature-ed25519", b64(edb64[s].sign(f"{NOW}|{b}".encode()))]],
       "telnyx-signature-ed25519", secret=list(edb64)[0], wrong=list(edb64)[1], window=300, **pk)
scheme("sendgrid", lambda s, b: [["X-Twilio-Email-Event-Webhook-Timestamp", str(NOW)],
        ["X-Twilio-Email-Event-Webhook-Signature", b64(ecb64[s].sign(f"{NOW}{b}".encode(), ec.ECDSA(hashes.SHA256())))]],
       "X-Twilio-Email-Event-Webhook-Signature", secret=list(ecb64)[0], wrong=list(ecb64)[1], window=86400,
       body='[{"sg_event_id":"1"}]\r\n', other='[{"sg_event_id":"1"}]', bad="!!", **pk)
scheme("wise", lambda s, b: [["X-Signature-SHA256", b64(rsign(rsapem[s], b))]], "X-Signature-SHA256",
       secret=list(rsapem)[0], wrong=list(rsapem)[1], bad="!!", **pk)
scheme("kick", lambda s, b: [["Kick-Event-Message-Id", "m-1"], ["Kick-Event-Message-Timestamp", ISO],
        ["Kick-Event-Signature", b64(rsign(rsapem[s], f"m-1.{ISO}.{b}"))]], "Kick-Event-Signature",
       secret=list(rsapem)[0], wrong=list(rsapem)[1], window=300, bad="!!", **pk)

# --- JSON Web Tokens -----------------------------------------------------------------------------


def token(claims, sign, alg="HS256", **header):
    head = b64url(json.dumps({"alg": alg, "typ": "JWT", **header})) + "." + b64url(json.dumps(claims))
    return head + "." + b64url(sign(head))


def hs(secret):
    return lambda head: mac(secret, head)


scheme("netlify", lambda s, b: [["X-Webhook-Signature", token({"iss": "netlify", "sha256": sha(b)}, hs(s))]],
       "X-Webhook-Signature", covers="claim", bad="a.b", malformed="malformed_token")
scheme("vonage", lambda s, b: [["Authorization", "Bearer " + token({"iat": NOW, "jti": "j", "payload_hash": sha(b)}, hs(s))]],
       "Authorization", covers="claim", bad="Bearer a.b.c=", malformed="malformed_token", window=300)
scheme("messagebird", lambda s, b: [["MessageBird-Signature-JWT", token(
        {"iss": "MessageBird", "nbf": NOW, "exp": NOW + 60, "jti": "j", "url_hash": sha(URL), "payload_hash": sha(b)}, hs(s))]],
       "MessageBird-Signature-JWT", covers="claim", bad="", malformed="malformed_token", window=61,
       lines=route("messagebird", public_url=URL))
scheme("monday", lambda s, b: [["Authorization", token({"aud": URL, "iat": NOW, "exp": NOW + 300}, hs(s))]], "Authorization",
       covers=False, bad="a.b.c=", malformed="malformed_token", window=360, body='{"event":{"type":"update","triggerUuid":"u"}}')
raw_sha = lambda b: hashlib.sha256(b.encode()).digest()
scheme("livekit", lambda s, b: [["Authorization", token({"iss": "key-1", "nbf": NOW, "exp": NOW + 300, "sha256": b64(raw_sha(b))}, hs(s))]],
       "Authorization", covers="claim", bad="a.b.c=", malformed="malformed_token", window=360,
       lines=route("livekit"), more_lines='[route.jwt]\nissuer = "key-1"\n')
scheme("qstash", lambda s, b: [["Upstash-Message-Id", "msg_1"], ["Upstash-Signature", token(
        {"iss": "Upstash", "sub": URL, "iat": NOW, "nbf": NOW, "exp": NOW + 300, "jti": "jwt_1", "body": b64url(raw_sha(b)) + "="}, hs(s))]],
       "Upstash-Signature", covers="claim", bad="a.b.c=", malformed="malformed_token", window=360)
NONE = token({"iss": "netlify", "sha256": sha("{}")}, lambda head: b"", "none")
case("netlify", "alg-none", route("netlify", secret=[SECRET]), [["X-Webhook-Signature", NONE]], "{}", NOW, "reject:bad_alg")


def number(value):
    return b64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def jwk(key, kid):
    n = key.public_key().public_numbers()
    return {"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig", "n": number(n.n), "e": number(n.e)}


KEYS = json.dumps({"keys": [jwk(rsas[0], "k1")]})
PEM0 = pem(rsas[0])
rs = lambda key: lambda head: rsign(key, head)
for id, jwt, iss in [
    ("pitchpoint", {"issuer": "https://securetoken.google.com/acme", "audience": "acme", "subject": ["svc"]}, "https://securetoken.google.com/acme"),
    ("google-pubsub", {"audience": "acme", "subject": ["svc"]}, "https://accounts.google.com"),
    ("google-pubsub-unwrapped", {"audience": "acme", "subject": ["svc"]}, "https://accounts.google.com"),
]:
    lines = f'scheme = "{id}"\n[route.jwt]\njwks = "file:KEYS"\n' + "".join(f"{k} = {toml(v)}\n" for k, v in jwt.items())
    base = {"iss": iss, "aud": "acme", "sub": "svc", "iat": NOW, "exp": NOW + 3600}
    body = '{"message":{"messageId":"1"}}'

    def send(name, expect, claims=None, alg="RS256", kid="k1", sign=None, now=NOW, body=body, make=None, **header):
        text = token({k: v for k, v in {**base, **(claims or {})}.items() if v is not None}, sign or rs(rsas[0]), alg, kid=kid, **header)
        text = make(text) if make else text
        headers = [["Authorization", "Bearer " + text]] if text is not None else []
        case(id, name, lines, headers, body, now, expect, keys=KEYS)

    send("accept", "accept")
    send("audience-list", "accept", {"aud": ["x", "acme"]})
    send("missing", "reject:missing_header", make=lambda t: None)
    send("padded", "reject:malformed_token", make=lambda t: t + "=")
    send("two-parts", "reject:malformed_token", make=lambda t: t.rsplit(".", 1)[0])
    send("crit", "reject:malformed_token", crit=["b64"])
    send("none", "reject:bad_alg", alg="none", sign=lambda head: b"")
    send("hs256-with-public-key", "reject:bad_alg", alg="HS256", sign=hs(PEM0))
    send("unknown-kid", "reject:unknown_kid", kid="k2")
    send("other-key", "reject:bad_signature", sign=rs(rsas[1]))
    send("jwk-in-token", "reject:bad_signature", sign=rs(rsas[1]), jwk=jwk(rsas[1], "k1"))
    send("issuer", "reject:claim", {"iss": "https://securetoken.google.com/other"})
    send("audience", "reject:claim", {"aud": "other"})
    send("subject", "reject:claim", {"sub": "user"})
    send("no-exp", "reject:claim", {"exp": None})
    send("exp-as-text", "reject:malformed_token", {"exp": str(NOW + 60)})
    send("expired", "reject:stale", now=NOW + 3600 + 61)
    send("future", "reject:future", {"iat": NOW + 120})

# --- keys that requests name ---------------------------------------------------------------------


def certificate(subject, key, issuer, issuer_key, *, authority=False, start=NOW - 86400, days=30):
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
    at = lambda seconds: datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(at(start)).not_valid_after(at(start + days * 86400))
    builder = builder.add_extension(x509.BasicConstraints(authority, None), True)
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), False)
    made = builder.sign(issuer_key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


authority, elsewhere = [rsa.generate_private_key(65537, 2048) for _ in (1, 2)]
ROOT = certificate("Root", authority, "Root", authority, authority=True)


def named(id, settings, served, headers, body, now, expect, name, **more):
    lines = f'scheme = "{id}"\n[route.settings]\n' + "".join(f"{k} = {toml(v)}\n" for k, v in settings.items())
    case(id, name, lines, headers, body, now, expect, keys=json.dumps(served), roots=ROOT, **more)


# `plumless` and `buckeroo` have the same CRC-32.
PAYPAL = '{"id":"WH-1","event_type":"PAYMENT.SALE.COMPLETED","summary":"plumless"}'


def paypal(name, expect, *, key=rsas[0], cert=None, host="api.paypal.com", path="/v1/notifications/certs/CERT-1",
           sent=None, webhook="WH-1", algorithm="SHA256withRSA", now=NOW, drop=None):
    cert = cert or certificate("messageverificationcerts.paypal.com", rsas[0], "Root", authority)
    body = PAYPAL
    signed = f"tr-1|{ISO}|{webhook}|{zlib.crc32(body.encode())}"
    headers = [["PayPal-Transmission-Id", "tr-1"], ["PayPal-Transmission-Time", ISO], ["PayPal-Auth-Algo", algorithm],
               ["PayPal-Cert-Url", f"https://{host}{path}"], ["PayPal-Transmission-Sig", b64(rsign(key, signed))]]
    named("paypal", {"webhook_id": "WH-1"}, {"CERT-1": cert}, [h for h in headers if h[0] != drop], sent or body, now, expect, name)


LIVE = "messageverificationcerts.paypal.com"
paypal("accept", "accept")
paypal("same-checksum", "accept", sent=PAYPAL.replace("plumless", "buckeroo"))
paypal("missing", "reject:missing_header", drop="PayPal-Transmission-Sig")
paypal("no-address", "reject:unknown_kid", drop="PayPal-Cert-Url")
paypal("other-key", "reject:bad_signature", key=rsas[1])
paypal("other-body", "reject:bad_signature", sent="{}")
paypal("other-webhook", "reject:bad_signature", webhook="WH-2")
paypal("sha1", "reject:bad_alg", algorithm="SHA1withRSA")
paypal("sandbox-host", "reject:unknown_kid", host="api.sandbox.paypal.com")
paypal("other-host", "reject:unknown_kid", host="api.paypal.com.example.com")
paypal("other-path", "reject:unknown_kid", path="/v1/notifications/certs/../x")
paypal("other-name", "reject:unknown_kid", cert=certificate("www.paypal.com", rsas[0], "Root", authority))
paypal("expired", "reject:unknown_kid", cert=certificate(LIVE, rsas[0], "Root", authority, start=NOW - 90 * 86400))
paypal("not-yet-valid", "reject:unknown_kid", cert=certificate(LIVE, rsas[0], "Root", authority, start=NOW + 60))
paypal("forged-chain", "reject:unknown_kid", cert=certificate(LIVE, rsas[0], "Root", elsewhere))
paypal("unknown-root", "the key must be fetched first", cert=certificate(LIVE, rsas[0], "Other", elsewhere))
paypal("stale", "reject:stale", now=NOW + 73 * 3600 + 1)


def ecjwk(key, kid, **more):
    n = key.public_key().public_numbers()
    return {"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "use": "sig",
            "x": b64url(n.x.to_bytes(32, "big")), "y": b64url(n.y.to_bytes(32, "big")), **more}


def es(key):
    def sign(head):
        r, s = utils.decode_dss_signature(key.sign(head.encode(), ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return sign


def plaid(name, expect, *, key=ecs[0], served=None, kid="k1", now=NOW, claims=None, alg="ES256", sign=None, headers=None):
    body = '{\n  "webhook_type": "ITEM"\n}'
    base = {"iat": NOW, "request_body_sha256": sha(body), **(claims or {})}
    made = token(base, sign or es(key), alg, kid=kid)
    served = served or {"k1": ecjwk(ecs[0], "k1", created_at=NOW - 9, expired_at=None)}
    served = {name: json.dumps({"key": key, "request_id": "r"}) for name, key in served.items()}
    settings = {"client_id": "client", "client_secret": "derived-secret-of-the-client"}
    named("plaid", settings, served, [["Plaid-Verification", made]] if headers is None else headers, body, now, expect, name)


plaid("accept", "accept")
plaid("at-the-edge", "accept", now=NOW + 300)
plaid("missing", "reject:missing_header", headers=[])
plaid("other-key", "reject:bad_signature", key=ecs[1])
plaid("other-body", "reject:claim", claims={"request_body_sha256": sha("{}")})
plaid("no-hash", "reject:claim", claims={"request_body_sha256": None})
plaid("stale", "reject:stale", now=NOW + 301)
plaid("future", "reject:future", claims={"iat": NOW + 120})
plaid("hs256", "reject:bad_alg", alg="HS256", sign=hs(SECRET))
plaid("none", "reject:bad_alg", alg="none", sign=lambda head: b"")
plaid("expired-key", "reject:unknown_kid", served={"k1": ecjwk(ecs[0], "k1", expired_at=NOW - 1)})
plaid("kid-is-a-path", "reject:unknown_kid", kid="../k1")
plaid("not-fetched", "the key must be fetched first", kid="k2")


def ebay(name, expect, *, key=ecs[0], sent=None, header=None, alg="ecdsa", digest="SHA1", hash=hashes.SHA1(), kid="k1"):
    body = '{"notification":{"notificationId":"n-1"}}'
    made = b64(json.dumps({"alg": alg, "kid": kid, "digest": digest,
                           "signature": b64(key.sign(body.encode(), ec.ECDSA(hash)))}).encode())
    served = {"k1": json.dumps({"algorithm": "ECDSA", "digest": "SHA1", "key": pem(ecs[0])})}
    settings = {"client_id": "client", "client_secret": "derived-secret-of-the-client",
                "verification_token": "derived-verification-token-of-32", "endpoint": URL}
    named("ebay", settings, served, [["X-EBAY-SIGNATURE", made if header is None else header]], sent or body, NOW, expect, name)


ebay("accept", "accept")
ebay("upper-case", "accept", alg="ECDSA")
ebay("other-key", "reject:bad_signature", key=ecs[1])
ebay("other-body", "reject:bad_signature", sent='{"notification":{"notificationId":"n-2"}}')
ebay("sha256", "reject:bad_signature", hash=hashes.SHA256())
ebay("names-sha256", "reject:bad_alg", digest="SHA256", hash=hashes.SHA256())
ebay("names-rsa", "reject:bad_alg", alg="rsa")
ebay("not-json", "reject:malformed_signature", header=b64(b"{"))
ebay("not-base64", "reject:malformed_signature", header="!")
ebay("kid-is-a-path", "reject:unknown_kid", kid="../../x")

print('{"format": "As published.json; path and method are those of the request.", "vectors": [')
print(",\n".join(json.dumps(vector) for vector in vectors))
print("]}")
