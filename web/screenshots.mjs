// Takes the screenshots in docs/images/ in Chromium, with the server that CLASSIFYD_BINARY names: `make screenshots`.

import { spawn } from "node:child_process";
import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const images = path.join(root, "docs/images");
await mkdir(images, { recursive: true });

const binary = path.resolve(process.env.CLASSIFYD_BINARY);
const server = spawn(binary, ["serve", "--config", "classifyd.toml", "--listen", "127.0.0.1:8080", "--log-format", "json"], {
  cwd: root,
  stdio: ["ignore", "ignore", "pipe"],
});
const lines = [];
for await (const line of createInterface({ input: server.stderr })) {
  lines.push(line);
  if (line.includes('"ready"')) {
    break;
  }
}
if (!lines.at(-1)?.includes('"ready"')) {
  throw new Error(`the server did not become ready:\n${lines.join("\n")}`);
}
server.stderr.resume();
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
});

/** Half a minute of varying load, so that the live panel shows something. */
async function load() {
  const url = "http://127.0.0.1:8080/v1/classify?model=images";
  const request = { method: "POST", headers: { "Content-Type": "image/png" }, body: await readFile(path.join(root, "models/images/1/golden/ship_1.png")) };
  const ends = Date.now() + 30_000;
  for (let at = 0; Date.now() < ends; at++) {
    const clients = Math.round(4 + 3 * Math.sin(at / 40));
    await Promise.all(Array.from({ length: clients }, async () => (await fetch(url, request)).arrayBuffer()));
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
}

async function open(options) {
  const page = await browser.newPage(options);
  await page.goto("http://127.0.0.1:8080/");
  await page.locator("#models .model").first().waitFor();
  return page;
}

async function draw(page) {
  const canvas = page.locator("#canvas");
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  const at = (x, y) => [box.x + box.width * x, box.y + box.height * y];
  // Slightly uneven, like a hand-drawn line.
  const [start, ...rest] = [[0.28, 0.27], [0.4, 0.25], [0.58, 0.24], [0.7, 0.25], [0.64, 0.4], [0.55, 0.58], [0.48, 0.82]];
  await page.mouse.move(...at(...start));
  await page.mouse.down();
  for (const point of rest) {
    await page.mouse.move(...at(...point), { steps: 6 });
  }
  await page.mouse.up();
  await page.locator("#result:not([hidden])").waitFor();
}

async function save(page, name, options) {
  await page.screenshot({ path: path.join(images, name), ...options });
  await page.close();
}

for (const [colorScheme, name] of [["light", "playground.png"], ["dark", "playground-dark.png"]]) {
  const page = await open({ viewport: { width: 1180, height: 800 }, colorScheme });
  await load();
  await draw(page);
  await page.waitForTimeout(1500);
  await page.evaluate(() => scrollTo(0, 0));
  await save(page, name, { fullPage: true });
}

const phone = await open({ viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
await phone.locator(".model", { has: phone.locator('input[value="images"]') }).click();
await phone.getByRole("button", { name: "Example: horse" }).click();
await phone.locator("#label", { hasText: "horse" }).waitFor();
await phone.locator("#input").evaluate((input) => scrollTo(0, input.getBoundingClientRect().top + scrollY - 16));
await phone.waitForTimeout(500);
await save(phone, "playground-phone.png");

const docs = await browser.newPage({ viewport: { width: 1180, height: 780 } });
await docs.goto("http://127.0.0.1:8080/docs");
await docs.locator(".opblock").last().waitFor();
await save(docs, "docs.png");

await browser.close();
server.kill("SIGINT");
