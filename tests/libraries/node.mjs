// Signs and verifies with GitHub's own library. Reads a list of jobs as JSON and writes a list of
// results: the headers and the body of a signed request, or whether the library accepts a request.
// Run it with `node --input-type=module -e` in the directory where the library is installed.

import { readFileSync } from "node:fs";
import { sign, verify } from "@octokit/webhooks-methods";

const NAME = "X-Hub-Signature-256";
const results = JSON.parse(readFileSync(0, "utf8")).map(async (job) => {
  if (job.act === "sign") {
    const headers = [[NAME, await sign(job.secret, job.body)], ["X-GitHub-Delivery", job.id]];
    return { headers, body: job.body, query: "" };
  }
  const [, signature] = job.headers.find(([name]) => name.toLowerCase() === NAME.toLowerCase());
  return verify(job.secret, job.body, signature);
});
process.stdout.write(JSON.stringify(await Promise.all(results)));
