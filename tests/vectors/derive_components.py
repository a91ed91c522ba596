#!/usr/bin/env python3
"""Generates components.json: vectors of the schemes whose senders choose what they sign, written from
RFC 9421, RFC 9530 and the senders' documents. Needs the package `cryptography`.
Usage: derive_components.py > components.json"""

import base64, hashlib, hmac, json
from urllib.parse import quote
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

NOW = 1_758_184_391
SECRET, OTHER = "derived-secret-0123456789", "derived-secret-9876543210"
BODY, CHANGED = '{"id":"evt_1","type":"x"}', '{"id":"evt_1","type":"y"}'
vectors = []


def b64(data):
    return base64.b64encode(data).decode()


def case(scheme, name, route, headers, body, now, expect, path="/webhooks/x", method="POST"):
    vectors.append({
        "name": f"{scheme}-{name}", "scheme": scheme, "label": "derived",
        "source": "tests/vectors/derive_components.py", "route": f'scheme = "{scheme}"\n{route}',
        "method": method, "path": path, "headers": [list(h) for h in headers], "body": body, "now": now,
        "expect": expect,
    })


def pem(key):
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


def fixed(key, base):
    r, s = utils.decode_dss_signature(key.sign(base, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def pss(key, base):
    return key.sign(base, padding.PSS(padding.MGF1(hashes.SHA512()), 64), hashes.SHA512())


def pkcs1(key, base):
    return key.sign(base, padding.PKCS1v15(), hashes.SHA256())


edwards = [ed25519.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (3, 4)]
curve = [ec.derive_private_key(n, ec.SECP256R1()) for n in (1_000_003, 1_000_033)]
rsas = [rsa.generate_private_key(65537, 2048) for _ in (1, 2)]
secrets = [SECRET, OTHER]
ALL = ["@method", "@authority", "@path", "@query"]

for scheme, algorithm, keys, sign, cover in [
    ("http-message-signatures", "ed25519", edwards, lambda k, b: k.sign(b), ALL),
    ("http-message-signatures-ecdsa", "ecdsa-p256-sha256", curve, fixed, ALL),
    ("http-message-signatures-rsa", "rsa-v1_5-sha256", rsas, pkcs1, ALL),
    ("http-message-signatures-rsa-pss", "rsa-pss-sha512", rsas, pss, ALL),
    ("http-message-signatures-hmac", "hmac-sha256", secrets,
     lambda k, b: hmac.new(k.encode(), b, "sha256").digest(), ALL),
    ("mailchannels", "ed25519", edwards, lambda k, b: k.sign(b), ["content-digest"]),
]:
    secret = isinstance(keys[0], str)
    route = f'secret = {json.dumps([keys[0]])}\n' if secret else f'public_key = {json.dumps([pem(keys[0])])}\n'

    def send(name, expect, *, key=keys[0], body=BODY, sent=None, names=cover + ["content-digest"], query="a=1&b=2",
             created=NOW, now=NOW, alg=algorithm, more="", label="sig1", digest="sha-256", change=lambda h: h,
             sent_query=None):
        hashed = hashlib.new(digest.replace("-", ""), body.encode()).digest()
        names = list(dict.fromkeys(names))
        content_digest = f"{digest}=:{b64(hashed)}:"
        value = {
            "@method": "POST", "@authority": "hooks.example.com", "@path": "/webhooks/x", "@query": f"?{query}",
            "@scheme": "https", "@target-uri": f"https://hooks.example.com/webhooks/x?{query}",
            "@request-target": f"/webhooks/x?{query}", "content-digest": content_digest,
            "x-event": "e-1", '@query-param";name="a': "1",
        }
        quoted = [f'"{name}"' for name in names]
        created = f";created={created}" if created is not None else ""
        parameters = f"({' '.join(quoted)}){created};keyid=\"k1\"" + (f';alg="{alg}"' if alg else "") + more
        lines = [f'"{name}": {value[name]}' for name in names] + [f'"@signature-params": {parameters}']
        signature = sign(key, "\n".join(lines).encode())
        headers = [["Host", "hooks.example.com"], ["X-Event", "e-1"], ["Content-Digest", content_digest],
                   ["Signature-Input", f"{label}={parameters}"], ["Signature", f"{label}=:{b64(signature)}:"]]
        target = query if sent_query is None else sent_query
        case(scheme, name, route, change(headers), body if sent is None else sent, now, f"{expect}",
             path="/webhooks/x" + (f"?{target}" if target else ""))

    def replaced(name, edit):
        return lambda headers: [[n, edit(v) if n == name else v] for n, v in headers]

    send("accept", "accept")
    send("sha-512", "accept", digest="sha-512")
    send("no-alg", "accept", alg=None)
    send("expires", "accept", more=f";expires={NOW + 60}")
    send("other-label", "accept", label="proxy-2")
    send("more-covered", "accept", names=["x-event", *cover, "content-digest"])
    send("at-the-edge", "accept", now=NOW + 300)
    send("wrong-key", "reject:bad_signature", key=keys[1])
    send("other-body", "reject:inconsistent", sent=CHANGED)
    send("stale", "reject:stale", now=NOW + 301)
    send("future", "reject:future", now=NOW - 301)
    send("expired", "reject:stale", now=NOW + 60, more=f";expires={NOW + 60}")
    send("expires-first", "reject:malformed_timestamp", more=f";expires={NOW - 1}")
    send("other-alg", "reject:bad_alg", alg="hmac-sha512")
    send("no-created", "reject:malformed_signature", created=None)
    send("missing", "reject:missing_header", change=lambda h: [x for x in h if x[0] != "Signature"])
    send("no-input", "reject:missing_header", change=lambda h: [x for x in h if x[0] != "Signature-Input"])
    send("twice", "reject:duplicate_header", change=lambda h: h + [h[-1]])
    send("digest-twice", "reject:duplicate_header", change=lambda h: h + [["content_digest", h[2][1]]])
    send("no-digest", "reject:malformed_signature", names=cover[:-1] if scheme == "mailchannels" else cover)
    send("digest-header-gone", "reject:bad_signature", change=lambda h: [x for x in h if x[0] != "Content-Digest"])
    send("label-twice", "reject:malformed_signature", change=replaced("Signature-Input", lambda v: f"{v}, {v}"))
    send("parameter-twice", "reject:malformed_signature",
         change=replaced("Signature-Input", lambda v: f"{v};created={NOW + 9}"))
    send("component-twice", "reject:malformed_signature",
         change=replaced("Signature-Input", lambda v: v.replace('"content-digest"', '"content-digest" "content-digest"')))
    send("not-base64", "reject:malformed_signature", change=replaced("Signature", lambda v: "sig1=:!:"))
    send("another-signature-label", "reject:malformed_signature",
         change=replaced("Signature", lambda v: v.replace("sig1", "sig2")))
    send("status", "reject:malformed_signature",
         change=replaced("Signature-Input", lambda v: v.replace("(", '("@status" ')))
    if cover == ALL:
        send("target-uri", "accept", names=["@method", "@target-uri", "content-digest"])
        send("request-target", "accept", names=["@method", "@authority", "@request-target", "content-digest"])
        send("no-query", "accept", names=["@method", "@authority", "@path", "content-digest"], query="")
        send("query-uncovered", "reject:malformed_signature", names=["@method", "@authority", "@path", "content-digest"])
        send("path-uncovered", "reject:malformed_signature", names=["@method", "@authority", "@query", "content-digest"])
        send("other-query", "reject:bad_signature", sent_query="a=1&b=3")
        send("other-host", "reject:bad_signature", change=replaced("Host", lambda v: "other.example.com"))

# --- Keys of a set: the parameter `keyid` names the key -------------------------------------------

def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key, kid, **more):
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "x": b64url(raw), "kid": kid, **more}


SET = json.dumps({"keys": [jwk(edwards[0], "k0"), jwk(edwards[1], "k1", alg="EdDSA"), jwk(edwards[0], "k3", use="enc")]})
for name, key, kid, expect in [
    ("key-of-set", edwards[1], "k1", "accept"),
    ("other-key-of-set", edwards[0], "k1", "reject:bad_signature"),
    ("unknown-keyid", edwards[1], "k2", "reject:unknown_kid"),
    ("keyid-for-encryption", edwards[0], "k3", "reject:unknown_kid"),
    ("no-keyid", edwards[1], None, "reject:unknown_kid"),
]:
    digest = f"sha-256=:{b64(hashlib.sha256(BODY.encode()).digest())}:"
    parameters = '("@method" "@target-uri" "content-digest")' + f";created={NOW}" + (f';keyid="{kid}"' if kid else "")
    base = (f'"@method": POST\n"@target-uri": https://hooks.example.com/webhooks/x\n"content-digest": {digest}\n'
            f'"@signature-params": {parameters}')
    case("http-message-signatures", name, '[route.jwt]\njwks = "file:KEYS"\n',
         [["Host", "hooks.example.com"], ["Content-Digest", digest], ["Signature-Input", f"a={parameters}"],
          ["Signature", f"a=:{b64(key.sign(base.encode()))}:"]], BODY, NOW, expect)
    vectors[-1]["keys"] = SET

# --- Contentful: the canonical request of its toolkit ---------------------------------------------

def contentful(secret, body, path="/webhooks/x", listed=("x-contentful-topic",), method="POST", t=NOW * 1000):
    headers = {"x-contentful-topic": "ContentManagement.Entry.publish", "x-contentful-timestamp": str(t)}
    names = sorted([*listed, "x-contentful-signed-headers", "x-contentful-timestamp"])
    headers["x-contentful-signed-headers"] = ",".join(names)
    pathname, _, search = path.partition("?")
    uri = pathname + (f"?{quote(search, safe=chr(39) + '-_.!~*()')}" if search else "")
    uri = quote(uri, safe=";,/?:@&=+$-_.!~*'()#")
    text = "\n".join([method, uri, ";".join(f"{n}:{headers[n]}" for n in names), body])
    signature = hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()
    return [["X-Contentful-Topic", headers["x-contentful-topic"]], ["X-Contentful-Timestamp", str(t)],
            ["X-Contentful-Signed-Headers", headers["x-contentful-signed-headers"]],
            ["X-Contentful-Signature", signature]]


route = f'secret = ["{SECRET}"]\n'
good = contentful(SECRET, BODY)
case("contentful", "accept", route, good, BODY, NOW, "accept")
for name, path in [("query", "/webhooks/x?a=1&b=%20c"), ("escapes", "/webhooks/a%20b")]:
    case("contentful", name, route, contentful(SECRET, BODY, path), BODY, NOW, "accept", path=path)
case("contentful", "at-the-edge", route, good, BODY, NOW + 30, "accept")
case("contentful", "stale", route, good, BODY, NOW + 31, "reject:stale")
case("contentful", "wrong-key", route, contentful(OTHER, BODY), BODY, NOW, "reject:bad_signature")
case("contentful", "other-body", route, good, CHANGED, NOW, "reject:bad_signature")
case("contentful", "other-path", route, good, BODY, NOW, "reject:bad_signature", path="/webhooks/y")
case("contentful", "other-method", route, good, BODY, NOW, "reject:bad_signature", method="PUT")
case("contentful", "missing", route, good[:-1], BODY, NOW, "reject:missing_header")
case("contentful", "twice", route, good + good[-1:], BODY, NOW, "reject:duplicate_header")
case("contentful", "other-topic", route, [[good[0][0], "ContentManagement.Entry.delete"]] + good[1:], BODY, NOW,
     "reject:bad_signature")
case("contentful", "listed-header-twice", route, good + [good[0]], BODY, NOW, "reject:bad_signature")
case("contentful", "listed-header-twin", route, good + [["x_contentful_topic", "x"]], BODY, NOW, "reject:bad_signature")
case("contentful", "listed-header-gone", route, good[1:], BODY, NOW, "reject:bad_signature")
unlisted = [[n, "x-contentful-topic,x-contentful-timestamp" if n == "X-Contentful-Signed-Headers" else v] for n, v in good]
case("contentful", "list-unlisted", route, unlisted, BODY, NOW, "reject:malformed_signature")

# --- Coinbase Developer Platform: the values of listed headers -----------------------------------

def coinbase(secret, body, names=("content-type", "x-hook0-id"), t=NOW, more={}):
    values = {"content-type": "application/json", "x-hook0-id": "0192f0ab-1", **more}
    listed = " ".join(names)
    text = f"{t}.{listed}.{'.'.join(values[n] for n in names)}.{body}"
    v1 = hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()
    return [[n, v] for n, v in values.items()] + [["X-Hook0-Signature", f"t={t},h={listed},v1={v1}"]]


good = coinbase(SECRET, BODY)
case("coinbase-cdp", "accept", route, good, BODY, NOW, "accept")
case("coinbase-cdp", "at-the-edge", route, good, BODY, NOW + 300, "accept")
case("coinbase-cdp", "stale", route, good, BODY, NOW + 301, "reject:stale")
case("coinbase-cdp", "wrong-key", route, coinbase(OTHER, BODY), BODY, NOW, "reject:bad_signature")
case("coinbase-cdp", "other-body", route, good, CHANGED, NOW, "reject:bad_signature")
case("coinbase-cdp", "missing", route, good[:-1], BODY, NOW, "reject:missing_header")
case("coinbase-cdp", "other-id", route, good[:1] + [["x-hook0-id", "other"]] + good[2:], BODY, NOW, "reject:bad_signature")
case("coinbase-cdp", "separator-in-value", route, coinbase(SECRET, BODY, more={"x-hook0-id": "a.b"}), BODY, NOW,
     "reject:bad_signature")
case("coinbase-cdp", "name-in-capitals", route, coinbase(SECRET, BODY, ["Content-Type"], more={"Content-Type": "a"}), BODY,
     NOW, "reject:malformed_signature")

# --- Mailgun: fields of a form, in either media type ---------------------------------------------

def mailgun(secret, t=NOW, token="tok-1", multipart=False, more=(), drop=()):
    signature = hmac.new(secret.encode(), f"{t}{token}".encode(), "sha256").hexdigest()
    fields = [("recipient", "a@example.com"), ("timestamp", str(t)), ("token", token), ("signature", signature), *more]
    fields = [(name, value) for name, value in fields if name not in drop]
    if not multipart:
        return "application/x-www-form-urlencoded", "&".join(f"{n}={quote(v)}" for n, v in fields)
    parts = [f'--b1\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields]
    file = '--b1\r\nContent-Disposition: form-data; name="attachment-1"; filename="a.txt"\r\n\r\nx\r\n'
    return "multipart/form-data; boundary=b1", "".join(parts) + file + "--b1--\r\n"


for name, expect, now, made in [
    ("accept", "accept", NOW, mailgun(SECRET)),
    ("multipart", "accept", NOW, mailgun(SECRET, multipart=True)),
    ("at-the-edge", "accept", NOW + 9 * 3600, mailgun(SECRET)),
    ("stale", "reject:stale", NOW + 9 * 3600 + 1, mailgun(SECRET)),
    ("wrong-key", "reject:bad_signature", NOW, mailgun(OTHER)),
    ("multipart-wrong-key", "reject:bad_signature", NOW, mailgun(OTHER, multipart=True)),
    ("no-signature", "reject:malformed_signature", NOW, mailgun(SECRET, drop=["signature"])),
    ("no-token", "reject:missing_header", NOW, mailgun(SECRET, drop=["token"])),
    ("two-tokens", "reject:missing_header", NOW, mailgun(SECRET, more=[("token", "tok-2")])),
    ("two-timestamps", "reject:malformed_timestamp", NOW, mailgun(SECRET, multipart=True, more=[("timestamp", "1")])),
    ("other-media-type", "reject:malformed_signature", NOW,
     ("multipart/form-data; boundary=b2", mailgun(SECRET, multipart=True)[1])),
]:
    case("mailgun-form", name, route, [["Content-Type", made[0]]], made[1], now, expect)
case("mailgun-form", "media-type-twice", route, [["Content-Type", "application/x-www-form-urlencoded"],
     ["content_type", "multipart/form-data; boundary=b1"]], mailgun(SECRET)[1], NOW, "reject:duplicate_header")

print('{"format": "As published.json; path and method are those of the request.", "vectors": [')
print(",\n".join(json.dumps(vector) for vector in vectors))
print("]}")
