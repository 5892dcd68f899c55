// Opens the playground in a real browser, with the real server, and gives it input.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before } from "node:test";
import type { BrowserContextOptions, Page } from "playwright-core";
import { Chromium, ROOT, Server, makeKey } from "./server";

/** Runs while the tests of a file run. */
export let server: Server;

before(async () => {
  server = await Server.start();
});

after(() => server.stop());

/** Opens the playground, and afterwards asserts that the console has no errors and that no request went to another host. */
export async function playground(
  run: (page: Page) => Promise<void>,
  options: BrowserContextOptions = {},
  of = server,
): Promise<void> {
  const browser = await Chromium.start(options);
  try {
    const watched = await browser.open();
    const { page } = watched;
    await page.goto(of.url);
    await page.locator("#models .model").first().waitFor();
    await run(page);
    assert.deepEqual(watched.complaints, []);
    assert.deepEqual(watched.outside(of), []);
  } finally {
    await browser.stop();
  }
}

/** Waits until the result is this label. */
export async function expectLabel(page: Page, label: string): Promise<void> {
  try {
    await page.locator("#result:not([hidden]) #label", { hasText: new RegExp(`^${label}$`) }).waitFor();
  } catch (error) {
    throw new Error(`expected ${label}, found ${await page.locator("#label").textContent()}`, { cause: error });
  }
}

export async function choose(page: Page, model: string): Promise<void> {
  await page.locator(".model", { has: page.locator(`input[value="${model}"]`) }).click();
}

export const SEVEN = [[0.3, 0.25], [0.7, 0.25], [0.45, 0.8]] as const;

/** Page coordinates of these points of the drawing area. */
export async function places(page: Page, parts: readonly (readonly [number, number])[]): Promise<[number, number][]> {
  const canvas = page.locator("#canvas");
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  assert.ok(box);
  return parts.map(([x, y]) => [box.x + box.width * x, box.y + box.height * y]);
}

export async function drawSeven(page: Page): Promise<void> {
  const [start, ...rest] = await places(page, SEVEN);
  assert.ok(start);
  await page.mouse.move(...start);
  await page.mouse.down();
  for (const place of rest) {
    await page.mouse.move(...place, { steps: 10 });
  }
  await page.mouse.up();
}

export const golden = (file: string) => readFile(path.join(ROOT, "models", file));

/** Drops or pastes a file. */
export async function give(page: Page, how: "drop" | "paste", file: { name: string; type: string; bytes: Buffer }): Promise<void> {
  const { name, type } = file;
  await page.evaluate(
    ({ how, name, type, base64 }) => {
      const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name, { type }));
      const options = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(
        how === "drop"
          ? new DragEvent("drop", { ...options, dataTransfer: transfer })
          : new ClipboardEvent("paste", { ...options, clipboardData: transfer }),
      );
    },
    { how, name, type, base64: file.bytes.toString("base64") },
  );
}

/** Runs a second server that requires an API key, and a browser. */
export async function withApiKey(run: (guarded: Server, browser: Chromium, key: string) => Promise<void>): Promise<void> {
  const { key, entry } = makeKey();
  const directory = await mkdtemp(path.join(tmpdir(), "classifyd-key-"));
  const config = path.join(directory, "classifyd.toml");
  await writeFile(config, (await readFile(path.join(ROOT, "classifyd.toml"), "utf8")) + entry);
  const guarded = await Server.start([], config);
  const browser = await Chromium.start();
  try {
    await run(guarded, browser, key);
  } finally {
    await browser.stop();
    await guarded.stop();
    await rm(directory, { recursive: true });
  }
}
