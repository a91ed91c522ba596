// Makes pictures of the inspector of `sealgate demo`; `scripts/screenshots` runs it.

import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.LIBRARIES, "package.json"))("playwright-core");
const [, , directory] = process.argv;

const demo = spawn(process.env.SEALGATE, ["demo"], { stdio: ["ignore", "pipe", "inherit"] });
const [address, token] = await new Promise((resolve, reject) => {
  let text = "";
  demo.stdout.on("data", (data) => {
    text += data;
    const found = /inspector:\s+(\S+)\s+token:\s+(\S+)\n/.exec(text);
    if (found) resolve(found.slice(1));
  });
  demo.on("exit", () => reject(new Error(`the demo ended:\n${text}`)));
});
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox"],
});
try {
  const viewport = { width: 1200, height: 760 };
  const page = await browser.newPage({ viewport, colorScheme: "light" });
  await page.goto(address);
  await page.getByLabel("Token").fill(token);
  await page.keyboard.press("Enter");
  await page.locator(".card").first().waitFor();
  const { events } = await (await page.request.get(`${address}api/v1/events?limit=100`)).json();
  const most = events
    .filter((event) => event.has_request)
    .reduce((a, b) => (b.attempts > a.attempts ? b : a));
  mkdirSync(directory, { recursive: true });
  for (const [name, hash, shown] of [
    ["overview", "overview", ".card"],
    ["event", `events/${most.id}`, ".detail h1"],
    ["rejected", "rejected", ".group"],
  ]) {
    await page.goto(`${address}#/${hash}`);
    await page.locator(shown).first().waitFor();
    await page.getByText("live", { exact: true }).waitFor();
    await page.screenshot({ path: join(directory, `${name}.png`) });
  }
} finally {
  await browser.close();
  demo.kill("SIGTERM");
}
