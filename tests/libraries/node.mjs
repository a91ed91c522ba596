// Signs and verifies with the senders' libraries. Reads a list of jobs as JSON and writes a list of
// results: the headers and the body of a signed request, or whether the library accepts a request.
// Run it with `node --input-type=module -e` in the directory where the libraries are installed.
// Each library is loaded only for its jobs.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

/// Returns a check that passes if `call` neither throws nor returns `false`.
const passes = (call) => async (job) => {
  try {
    return (await call(job)) !== false;
  } catch {
    return false;
  }
};
const request = (job) => new Request("https://hooks.example.com/", { method: "POST", headers: job.headers, body: job.body });
const whole = (job) => Object.fromEntries(job.headers.map(([name, value]) => [name.toLowerCase(), value]));
const seconds = () => Math.floor(Date.now() / 1000);
const standard = (job, make) => {
  const headers = { "webhook-id": job.id, "webhook-timestamp": String(seconds()) };
  return Object.entries({ ...headers, "webhook-signature": make(job.id, new Date(seconds() * 1000)) });
};

const libraries = {
  github: async () => {
    const { sign, verify } = await import("@octokit/webhooks-methods");
    return {
      sign: async (job) => [["X-Hub-Signature-256", await sign(job.secret, job.body)], ["X-GitHub-Delivery", job.id]],
      verify: (job) => verify(job.secret, job.body, whole(job)["x-hub-signature-256"]),
    };
  },
  contentful: async () => {
    const { signRequest, verifyRequest } = await import("@contentful/node-apps-toolkit");
    const canonical = (job, headers) => ({ method: "POST", path: "/contentful", headers, body: job.body });
    const topic = { "X-Contentful-Topic": "ContentManagement.Entry.publish" };
    return {
      sign: async (job) => [...Object.entries(topic), ...Object.entries(signRequest(job.secret, canonical(job, topic), Date.now()))],
      verify: passes((job) => verifyRequest(job.secret, canonical(job, Object.fromEntries(job.headers)), 30)),
    };
  },
  notion: async () => {
    const { signWebhookPayload, verifyWebhookSignature } = await import("@notionhq/client");
    return {
      sign: async ({ body, secret }) => [["X-Notion-Signature", await signWebhookPayload({ body, verificationToken: secret })]],
      verify: (job) => verifyWebhookSignature({
        body: job.body, signature: whole(job)["x-notion-signature"], verificationToken: job.secret,
      }),
    };
  },
  sanity: async () => {
    const { encodeSignatureHeader, isValidSignature } = await import("@sanity/webhook");
    return {
      sign: async (job) => [["sanity-webhook-signature", await encodeSignatureHeader(job.body, Date.now(), job.secret)]],
      verify: (job) => isValidSignature(job.body, whole(job)["sanity-webhook-signature"], job.secret),
    };
  },
  hygraph: async () => {
    const { default: { generateWebhookSignature, verifyWebhookSignature } } = await import("@hygraph/utils");
    return {
      sign: async (job) => [["gcms-signature", generateWebhookSignature({ rawPayload: job.body, secret: job.secret })]],
      verify: passes((job) => verifyWebhookSignature({ rawPayload: job.body, signature: whole(job)["gcms-signature"], secret: job.secret })),
    };
  },
  workos: async () => {
    const { createWorkOS } = await import("@workos-inc/node");
    const { webhooks } = createWorkOS({ apiKey: "sk_test", clientId: "client" });
    return {
      // The library signs its own serialization of the payload.
      verify: passes((job) => webhooks.verifyHeader({ payload: JSON.parse(job.body), sigHeader: whole(job)["workos-signature"], secret: job.secret })),
    };
  },
  retell: async () => {
    const { sign, verify } = await import("retell-sdk");
    return {
      sign: async (job) => [["x-retell-signature", await sign(job.body, job.secret)]],
      verify: (job) => verify(job.body, job.secret, whole(job)["x-retell-signature"]),
    };
  },
  svix: async () => {
    const { Webhook } = await import("svix");
    return {
      sign: async (job) => standard(job, (id, at) => new Webhook(job.secret).sign(id, at, job.body))
        .map(([name, value]) => [name.replace("webhook", "svix"), value]),
      verify: passes((job) => { new Webhook(job.secret).verify(job.body, whole(job)); }),
    };
  },
  livekit: async () => {
    const { AccessToken, WebhookReceiver } = await import("livekit-server-sdk");
    return {
      sign: async (job) => {
        const token = new AccessToken("key-1", job.secret, { ttl: 300 });
        token.sha256 = createHash("sha256").update(job.body).digest("base64");
        return [["Authorization", await token.toJwt()]];
      },
      verify: passes((job) => new WebhookReceiver("key-1", job.secret).receive(job.body, whole(job).authorization)),
    };
  },
  line: async () => {
    const { validateSignature } = await import("@line/bot-sdk");
    return { verify: (job) => validateSignature(job.body, job.secret, whole(job)["x-line-signature"]) };
  },
  mux: async () => {
    const { default: Mux } = await import("@mux/mux-node");
    const { webhooks } = new Mux({ tokenId: "id", tokenSecret: "secret" });
    return { verify: passes((job) => webhooks.verifySignature(job.body, whole(job), job.secret)) };
  },
  portone: async () => {
    const { Webhook } = await import("@portone/server-sdk");
    return { verify: passes((job) => Webhook.verify(job.secret, job.body, whole(job))) };
  },
  replicate: async () => {
    const { validateWebhook } = await import("replicate");
    return { verify: passes((job) => validateWebhook(request(job), job.secret)) };
  },
  resend: async () => {
    const { Resend } = await import("resend");
    const { webhooks } = new Resend("re_test");
    return {
      verify: passes((job) => {
        const [id, timestamp, signature] = ["id", "timestamp", "signature"].map((name) => whole(job)[`svix-${name}`]);
        webhooks.verify({ payload: job.body, headers: { id, timestamp, signature }, webhookSecret: job.secret });
      }),
    };
  },
  liveblocks: async () => {
    const { WebhookHandler } = await import("@liveblocks/node");
    return { verify: passes((job) => { new WebhookHandler(job.secret).verifyRequest({ headers: whole(job), rawBody: job.body }); }) };
  },
  terra: async () => {
    const { verifyTerraWebhookSignature } = await import("terra-api");
    return { verify: passes((job) => verifyTerraWebhookSignature(job.body, whole(job)["terra-signature"], job.secret)) };
  },
  mailersend: async () => {
    const { default: { MailerSendUtils } } = await import("mailersend/lib/services/mailersend.utils.js");
    return { verify: passes((job) => MailerSendUtils.verifyWebHook(job.body, whole(job).signature, job.secret)) };
  },
  onfido: async () => {
    const { WebhookEventVerifier } = await import("@onfido/api");
    return { verify: passes((job) => { new WebhookEventVerifier(job.secret).readPayload(job.body, whole(job)["x-sha2-signature"]); }) };
  },
  easypost: async () => {
    const { default: EasyPost } = await import("@easypost/api");
    const { Utils } = new EasyPost("test");
    return { verify: passes((job) => { Utils.validateWebhook(Buffer.from(job.body), whole(job), job.secret); }) };
  },
  gocardless: async () => {
    const { verifySignature } = await import("gocardless-nodejs/webhooks");
    return { verify: passes((job) => { verifySignature(job.body, job.secret, whole(job)["webhook-signature"]); }) };
  },
  lithic: async () => {
    const { default: Lithic } = await import("lithic");
    const { webhooks } = new Lithic({ apiKey: "test" });
    return { verify: passes((job) => { webhooks.verifySignature(job.body, whole(job), job.secret); }) };
  },
  imagekit: async () => {
    const { default: ImageKit } = await import("@imagekit/nodejs");
    const { webhooks } = new ImageKit({ privateKey: "test" });
    return { verify: passes((job) => { webhooks.unwrap(job.body, { headers: whole(job), key: job.secret }); }) };
  },
  qstash: async () => {
    const { Receiver } = await import("@upstash/qstash");
    return {
      verify: passes((job) => new Receiver({ currentSigningKey: job.secret, nextSigningKey: job.secret })
        .verify({ signature: whole(job)["upstash-signature"], body: job.body })),
    };
  },
};

const loaded = {};
const results = [];
for (const job of JSON.parse(readFileSync(0, "utf8"))) {
  const library = await (loaded[job.library] ??= libraries[job.library]());
  results.push(job.act === "sign"
    ? { headers: await library.sign(job), body: job.body, query: "" }
    : await library.verify(job));
}
process.stdout.write(JSON.stringify(results));
