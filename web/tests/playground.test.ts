// The pages in a real browser, on the real server.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import axe from "axe-core";
import type { BrowserContextOptions, Page } from "playwright-core";
import { Chromium, ROOT, Server, makeKey } from "./server";

let server: Server;

before(async () => {
  server = await Server.start();
});

after(() => server.stop());

/** Opens the playground; afterwards nothing may have been complained about, and nothing asked for elsewhere. */
async function playground(
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

/** Waits until the answer is this label. */
async function answers(page: Page, label: string): Promise<void> {
  try {
    await page.locator("#answer:not([hidden]) #label", { hasText: new RegExp(`^${label}$`) }).waitFor();
  } catch (error) {
    throw new Error(`expected ${label}, found ${await page.locator("#label").textContent()}`, { cause: error });
  }
}

async function choose(page: Page, model: string): Promise<void> {
  await page.locator(".model", { has: page.locator(`input[value="${model}"]`) }).click();
}

const SEVEN = [[0.3, 0.25], [0.7, 0.25], [0.45, 0.8]] as const;

/** Where these parts of the drawing area are on the page. */
async function places(page: Page, parts: readonly (readonly [number, number])[]): Promise<[number, number][]> {
  const canvas = page.locator("#canvas");
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  assert.ok(box);
  return parts.map(([x, y]) => [box.x + box.width * x, box.y + box.height * y]);
}

async function drawSeven(page: Page): Promise<void> {
  const [start, ...rest] = await places(page, SEVEN);
  assert.ok(start);
  await page.mouse.move(...start);
  await page.mouse.down();
  for (const place of rest) {
    await page.mouse.move(...place, { steps: 10 });
  }
  await page.mouse.up();
}

const golden = (file: string) => readFile(path.join(ROOT, "models", file));

/** Gives the page a file as a drop or a paste would. */
async function give(page: Page, how: "drop" | "paste", file: { name: string; type: string; bytes: Buffer }): Promise<void> {
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

test("a drawn 7 is read as 7, and scores come while it is drawn", () =>
  playground(async (page) => {
    const [start, corner, end] = await places(page, SEVEN);
    assert.ok(start && corner && end);
    await page.mouse.move(...start);
    await page.mouse.down();
    await page.mouse.move(...corner, { steps: 10 });
    await page.locator("#answer:not([hidden])").waitFor();
    await page.mouse.move(...end, { steps: 10 });
    await answers(page, "7");
    await page.mouse.up();
    assert.equal(await page.locator("#bars li").count(), 5);
    assert.deepEqual(await page.locator("#timing dt").allTextContents(), ["Decode", "Queue", "Inference", "Network and browser"]);
    assert.equal(await page.locator("#announcement", { hasText: /^7, / }).textContent({ timeout: 5000 }).then(Boolean), true);
    await page.getByRole("button", { name: "Undo" }).click();
    await page.getByText("Draw something").waitFor();
  }));

test("a finger draws as well, on a phone, in the dark", () =>
  playground(
    async (page) => {
      const view = page.viewportSize();
      assert.ok(view);
      const below = async (selector: string) => {
        const box = await page.locator(selector).boundingBox();
        assert.ok(box, selector);
        return box.y + box.height;
      };
      assert.ok((await below("#canvas")) <= view.height, "the whole drawing area is seen without scrolling");
      assert.ok((await below("#echo")) <= (await page.locator("#canvas").boundingBox())!.y, "the short answer is above the finger");
      assert.ok((await page.locator("#models").boundingBox())!.height < 120, "the models are one row");
      assert.equal(await page.locator("#canvas-help").innerText(), "Draw with a finger or a pen.");
      const touch = await page.context().newCDPSession(page);
      const [start, ...rest] = await places(page, SEVEN);
      assert.ok(start);
      const send = (type: "touchStart" | "touchMove" | "touchEnd", at?: [number, number]) =>
        touch.send("Input.dispatchTouchEvent", { type, touchPoints: at ? [{ x: at[0], y: at[1] }] : [] });
      await send("touchStart", start);
      let from = start;
      for (const to of rest) {
        for (let step = 1; step <= 10; step++) {
          await send("touchMove", [from[0] + ((to[0] - from[0]) * step) / 10, from[1] + ((to[1] - from[1]) * step) / 10]);
        }
        from = to;
      }
      await send("touchEnd");
      await answers(page, "7");
      assert.match((await page.locator("#echo").textContent()) ?? "", /^7 · /, "the answer is also where the finger is");
      assert.ok(await page.locator("#echo").isVisible());
      await page.locator("label", { hasText: /^Picture$/ }).click();
      assert.ok(await page.getByText("Take a photo", { exact: true }).isVisible(), "a phone has a camera");
      const buffer = await golden("digits/1/golden/4_4.png");
      await page.locator("#camera").setInputFiles({ name: "image.png", mimeType: "image/png", buffer });
      await answers(page, "4");
    },
    { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, colorScheme: "dark" },
  ));

test("a request is given up when there is a newer input", () =>
  playground(async (page) => {
    let held = 0;
    await page.route("**/v1/classify*", async (route) => {
      if (held++ > 0) {
        await route.continue();
      }
    });
    const aborted = page.waitForEvent("requestfailed", { predicate: (request) => request.url().includes("/v1/classify") });
    await page.locator("label", { hasText: /^Draw$/ }).click();
    const [dot] = await places(page, [[0.5, 0.5]]);
    assert.ok(dot);
    await page.mouse.click(...dot);
    await page.waitForTimeout(400);
    await drawSeven(page);
    assert.equal((await aborted).failure()?.errorText, "net::ERR_ABORTED");
    await answers(page, "7");
  }));

/** A picture as a camera takes it: 2,000 x 1,500 pixels with noise, several MB. */
async function photograph(page: Page, picture: Buffer): Promise<Buffer> {
  const base64 = await page.evaluate(async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const picture = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    const canvas = new OffscreenCanvas(2000, 1500);
    const context = canvas.getContext("2d")!;
    context.drawImage(picture, 0, 0, 2000, 1500);
    const pixels = context.getImageData(0, 0, 2000, 1500);
    let state = 1;
    pixels.data.forEach((value, at) => {
      state = (state * 1103515245 + 12345) % 2147483648;
      if (at % 4 !== 3) {
        pixels.data[at] = value + (state >> 20) % 8;
      }
    });
    context.putImageData(pixels, 0, 0);
    const photo = new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
    let text = "";
    for (let at = 0; at < photo.length; at += 32768) {
      text += String.fromCharCode(...photo.subarray(at, at + 32768));
    }
    return btoa(text);
  }, picture.toString("base64"));
  return Buffer.from(base64, "base64");
}

test("a photo is made smaller, classified, and shown", () =>
  playground(async (page) => {
    await choose(page, "images");
    const buffer = await photograph(page, await golden("images/1/golden/ship_1.png"));
    assert.ok(buffer.length > 2 * 1024 * 1024, `${buffer.length}`);
    await page.locator("#file").setInputFiles({ name: "IMG_0001.png", mimeType: "image/png", buffer });
    await answers(page, "ship");
    assert.equal(await page.locator("#picture-note").textContent(), "Sent as a JPEG of 1024 × 768 pixels, made in this browser.");
    assert.ok(await page.getByAltText("The picture that was classified").isVisible());
    assert.ok((await page.locator("#curl").textContent())?.includes("@IMG_0001.jpg"));
  }));

test("a picture can be dropped and pasted, also while a text model is chosen", () =>
  playground(async (page) => {
    await choose(page, "sentiment");
    await give(page, "paste", { name: "a.png", type: "image/png", bytes: await golden("digits/1/golden/4_4.png") });
    await answers(page, "4");
    await choose(page, "fashion");
    await give(page, "drop", { name: "b.png", type: "image/png", bytes: await golden("fashion/1/golden/trouser_2.png") });
    await answers(page, "Trouser");
  }));

test("a typed review is positive or negative", () =>
  playground(async (page) => {
    await choose(page, "sentiment");
    const text = page.getByRole("textbox", { name: "Text" });
    await text.pressSequentially("A wonderful film, I was moved to tears.", { delay: 10 });
    await answers(page, "positive");
    await text.fill("Two hours that I will not get back. Boring and badly acted.");
    await answers(page, "negative");
    await text.fill(`${"good ".repeat(900)}`);
    await page.getByText("only a part of it was looked at").waitFor();
    await text.fill("");
    await page.getByText("Type something").waitFor();
  }));

test("the row of models on a phone follows the choice", () =>
  playground(
    async (page) => {
      const top = () => page.evaluate(() => scrollY);
      await page.locator('input[value="sentiment"]').focus();
      await page.keyboard.press("Space");
      await page.getByText("sentiment says one of: ").waitFor();
      const { inner, outer } = await page.evaluate(() => ({
        inner: document.querySelector('.model:has(input[value="sentiment"])')!.getBoundingClientRect().toJSON() as DOMRect,
        outer: document.querySelector("#models")!.getBoundingClientRect().toJSON() as DOMRect,
      }));
      assert.ok(inner.left >= outer.left && inner.right <= outer.right, JSON.stringify({ inner, outer }));
      await page.locator("#live").scrollIntoViewIfNeeded();
      const before = await top();
      await give(page, "drop", { name: "b.png", type: "image/png", bytes: await golden("digits/1/golden/4_4.png") });
      await answers(page, "4");
      assert.ok(before > 0 && (await top()) > 0, "the page does not jump to the models");
    },
    { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true },
  ));

test("the page says what a model can say", () =>
  playground(async (page) => {
    await choose(page, "images");
    await page.getByText("images says one of: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.").waitFor();
    await page.route("**/v1/models", async (route) => {
      const answer = (await (await route.fetch()).json()) as { models: { labels: string[]; problem_type: string }[] };
      answer.models[0]!.labels = Array.from({ length: 1000 }, (_, at) => `label ${at}`);
      answer.models[0]!.problem_type = "multi_label_classification";
      await route.fulfill({ json: answer });
    });
    await page.reload();
    await page.getByText(/says any of: label 0, .*, label 29 and 970 more\.$/).waitFor();
  }));

test("errors are said in words", () =>
  playground(async (page) => {
    await choose(page, "sentiment");
    const alert = page.getByRole("alert");
    await give(page, "drop", { name: "letter.pdf", type: "application/pdf", bytes: Buffer.from("%PDF-1.7") });
    await alert.getByText("This model looks at pictures, and letter.pdf is none. Choose a PNG, JPEG, WebP, GIF or BMP file.").waitFor();
    assert.equal(await page.locator("#drop-text").textContent(), "letter.pdf");
    await choose(page, "images");
    await alert.getByText("letter.pdf is none").waitFor();
    await give(page, "drop", { name: "IMG_1.heic", type: "image/heic", bytes: Buffer.from("ftypheic") });
    await alert.getByText("This browser cannot show IMG_1.heic").waitFor();
    await page.locator("#file").setInputFiles({ name: "broken.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
    await alert.getByText("The picture cannot be decoded").waitFor();
    await alert.getByText("found bytes that begin with 6e6f207069637475").waitFor();
    await alert.getByText("422 invalid_image · request ").waitFor();
    // And the next input is answered.
    await page.getByRole("button", { name: "Example: cat" }).click();
    await answers(page, "cat");
    assert.equal(await alert.isVisible(), false);
    await page.route("**/v1/classify*", (route) => route.abort("connectionrefused"));
    await page.getByRole("button", { name: "Example: ship" }).click();
    await alert.getByText("The server cannot be reached").waitFor();
  }));

test("a busy server says when to try again", () =>
  playground(async (page) => {
    const problem = {
      type: "urn:classifyd:error:queue_full",
      title: "The server is busy",
      status: 503,
      detail: "1 inputs wait already, which is as many as may",
      code: "queue_full",
      request_id: "1",
    };
    await page.route("**/v1/classify*", (route) =>
      route.fulfill({ status: 503, contentType: "application/problem+json", headers: { "Retry-After": "1" }, json: problem }),
    );
    await drawSeven(page);
    await page.getByRole("alert").getByText("Try again in 1 s · 503 queue_full · request 1").waitFor();
  }));

test("each model has examples that fit it", () =>
  playground(async (page) => {
    for (const model of ["digits", "fashion", "images", "sentiment"]) {
      await choose(page, model);
      await page.locator("#answer-model", { hasText: model }).or(page.locator("#empty")).first().waitFor();
      const [{ label }] = await page.evaluate(async (model) => {
        const response = await fetch(`v1/models/${model}/examples`);
        return ((await response.json()) as { examples: [{ label: string }] }).examples;
      }, model);
      const first = model === "sentiment" ? page.locator(".text-example").first() : page.getByRole("button", { name: `Example: ${label}`, exact: true });
      await first.click();
      await answers(page, label);
      await page.getByText(`Labelled ${label}: right.`).waitFor();
    }
  }));

test("the curl line and the saved picture give the same answer", () =>
  playground(
    async (page) => {
      const folder = await mkdtemp(path.join(tmpdir(), "classifyd-curl-"));
      try {
        const same = async () => {
          const line = (await page.locator("#curl").textContent()) ?? "";
          const answer: unknown = JSON.parse(execFileSync("sh", ["-c", line], { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
          assert.deepEqual(answer, JSON.parse((await page.locator("#json").textContent()) ?? ""));
        };
        await drawSeven(page);
        await answers(page, "7");
        await page.waitForTimeout(500);
        const download = page.waitForEvent("download");
        await page.getByRole("link", { name: "Save the picture" }).click();
        await (await download).saveAs(path.join(folder, (await download).suggestedFilename()));
        await same();
        await page.getByRole("button", { name: "Copy" }).click();
        await page.getByRole("button", { name: "Copied" }).waitFor();
        assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await page.locator("#curl").textContent());

        await choose(page, "sentiment");
        await page.getByRole("textbox", { name: "Text" }).fill("It's the \"best\" film & $cheap;\nI loved it 🎬");
        await page.locator("#answer-model", { hasText: "sentiment" }).waitFor();
        await same();
      } finally {
        await rm(folder, { recursive: true });
      }
    },
    { permissions: ["clipboard-read", "clipboard-write"] },
  ));

test("everything can be done by keyboard", () =>
  playground(async (page) => {
    const focus = () => page.evaluate(() => document.activeElement?.id || (document.activeElement as HTMLInputElement).value);
    const tabTo = async (wanted: string) => {
      for (let presses = 0; presses < 40; presses++) {
        if ((await focus()) === wanted) {
          return;
        }
        await page.keyboard.press("Tab");
      }
      throw new Error(`Tab does not get to ${wanted}`);
    };
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement?.textContent), "Skip to the input");
    await tabTo("canvas");
    // A seven: to the left, pen down, to the right, down and to the left, pen up.
    const press = async (keys: string[], times = 1) => {
      for (let at = 0; at < times; at++) {
        for (const key of keys) {
          await page.keyboard.press(key);
        }
      }
    };
    await press(["ArrowLeft"], 4);
    await press(["Space"]);
    await press(["ArrowRight"], 8);
    await press(["ArrowDown", "ArrowDown", "ArrowLeft"], 5);
    await press(["Space"]);
    await answers(page, "7");
    await tabTo("clear");
    await press(["Enter"]);
    await page.getByText("Draw something").waitFor();

    await page.keyboard.press("Tab");
    await press(["Enter"]);
    await answers(page, "0");

    await tabTo("copy");
    await press(["Tab", "Tab", "Enter"]);
    await page.getByLabel("Answer as JSON").waitFor();

    await page.keyboard.press("Home");
    await page.evaluate(() => (document.activeElement as HTMLElement).blur());
    await tabTo("digits");
    await press(["ArrowRight"], 3);
    assert.equal(await focus(), "sentiment");
    await tabTo("text");
    await page.keyboard.type("I loved every minute of it.");
    await answers(page, "positive");
  }));

test("the live panel shows what the server does", () =>
  playground(async (page) => {
    await drawSeven(page);
    await answers(page, "7");
    const tiles = page.locator("#live:not([hidden]) .tile");
    await tiles.first().waitFor();
    assert.deepEqual(await tiles.locator("dt").allTextContents(), ["Requests/s", "p99 latency", "Batch size", "Queue depth"]);
    await drawSeven(page);
    await tiles.nth(0).locator(".tile-value", { hasText: /^(0\.[1-9]|[1-9])/ }).waitFor();
    await tiles.nth(1).locator(".tile-value", { hasText: /^[\d.]+ ms$/ }).waitFor();
    await tiles.nth(2).locator(".tile-value", { hasText: /^1\.0$/ }).waitFor();
    await tiles.nth(3).locator(".tile-value", { hasText: /^0$/ }).waitFor();
  }));

test("the live panel says when the metrics are served elsewhere", async () => {
  const elsewhere = await Server.start(["--admin-listen", "127.0.0.1:0"]);
  try {
    await playground((page) => page.getByText("The metrics are not served on this address").waitFor(), {}, elsewhere);
  } finally {
    await elsewhere.stop();
  }
});

test("a server that asks for an API key gets it, and the page forgets it", async () => {
  const { key, entry } = makeKey();
  const folder = await mkdtemp(path.join(tmpdir(), "classifyd-key-"));
  const config = path.join(folder, "classifyd.toml");
  await writeFile(config, (await readFile(path.join(ROOT, "classifyd.toml"), "utf8")) + entry);
  const guarded = await Server.start([], config);
  const browser = await Chromium.start();
  try {
    const watched = await browser.open();
    const { page } = watched;
    await page.goto(guarded.url);
    const field = page.getByLabel("API key");
    await field.fill("cfd_wrong");
    await page.keyboard.press("Enter");
    await page.getByText("That key is not known to the server").waitFor();
    await field.fill(key);
    await page.getByRole("button", { name: "Use the key" }).click();
    await page.locator("#models .model").first().waitFor();
    await drawSeven(page);
    await answers(page, "7");
    assert.equal(await field.isVisible(), false);
    await page.locator("#live:not([hidden]) .tile").first().waitFor();
    assert.ok(!(await page.content()).includes(key), "the key stands nowhere in the page");
    assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length + document.cookie.length), 0);
    await page.reload();
    await field.waitFor();
    assert.deepEqual(watched.complaints, []);
    assert.deepEqual(watched.outside(guarded), []);
  } finally {
    await browser.stop();
    await guarded.stop();
    await rm(folder, { recursive: true });
  }
});

for (const colorScheme of ["light", "dark"] as const) {
  for (const viewport of [{ width: 1280, height: 900 }, { width: 320, height: 640 }]) {
    test(`nobody is kept out: ${colorScheme}, ${viewport.width} pixels wide`, () =>
      playground(
        async (page) => {
          const check = async (state: string) => {
            await page.waitForTimeout(300);
            const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
            assert.ok(wide <= 0, `${state}: ${wide} pixels wider than the window`);
            // As an expression, for the page's policy lets no script be added.
            await page.evaluate(axe.source);
            const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run());
            const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n")}`);
            assert.deepEqual(found, [], state);
          };
          await page.locator("#live:not([hidden])").waitFor();
          await check("empty");
          await drawSeven(page);
          await answers(page, "7");
          await page.locator("summary").click();
          await check("a drawing");
          await choose(page, "fashion");
          await page.getByRole("button", { name: "Example: Bag" }).click();
          await answers(page, "Bag");
          await check("a picture");
          await choose(page, "sentiment");
          await page.locator(".text-example").nth(1).click();
          await answers(page, "positive");
          await check("a text");
          await page.route("**/v1/classify*", (route) => route.abort());
          await page.getByRole("textbox", { name: "Text" }).fill("a");
          await page.getByRole("alert").waitFor();
          await check("a problem");
        },
        { colorScheme, viewport },
      ));
  }
}

test("the API document is shown, and every form of request can be tried as it stands there", async () => {
  const browser = await Chromium.start();
  try {
    const watched = await browser.open();
    const { page } = watched;
    for (const [type, labels] of [
      ["application/json", ["7"]],
      ["multipart/form-data", ["positive", "negative"]],
      ["text/plain", ["positive"]],
      ["image/png", ["horse"]],
    ] as const) {
      await page.goto("about:blank");
      await page.goto(`${server.url}docs`);
      const operation = page.locator("#operations-classify-classify");
      await operation.locator(".opblock-summary-control").click();
      await operation.getByLabel("Request content type").selectOption(type);
      await operation.getByRole("button", { name: "Try it out" }).click();
      if (type.startsWith("image/")) {
        await operation.locator("input[type=file]").setInputFiles(path.join(ROOT, "models/images/1/golden/horse_13.png"));
      }
      await operation.getByRole("button", { name: "Execute" }).click();
      const answer = await operation.locator(".live-responses-table pre").first().textContent();
      const { results } = JSON.parse(answer ?? "") as { results: { label: string }[] };
      assert.deepEqual(results.map(({ label }) => label), labels, type);
    }
    // Swagger UI says so of every format for which it has no field of its own, and takes another one.
    const complaints = watched.complaints.filter((text) => !text.startsWith("Could not find component: JsonSchema_"));
    assert.deepEqual(complaints, []);
    assert.deepEqual(watched.outside(server), []);
  } finally {
    await browser.stop();
  }
});

test("the API document has padlocks only where there are keys", async () => {
  const { entry } = makeKey();
  const folder = await mkdtemp(path.join(tmpdir(), "classifyd-key-"));
  const config = path.join(folder, "classifyd.toml");
  await writeFile(config, (await readFile(path.join(ROOT, "classifyd.toml"), "utf8")) + entry);
  const guarded = await Server.start([], config);
  const browser = await Chromium.start();
  try {
    for (const [of, some] of [[server, false], [guarded, true]] as const) {
      const { page } = await browser.open();
      await page.goto(`${of.url}docs`);
      await page.locator(".opblock").last().waitFor();
      for (const part of [".auth-wrapper .authorize", ".authorization__btn"]) {
        assert.equal((await page.locator(part).count()) > 0, some, `${of.url}: ${part}`);
      }
    }
  } finally {
    await browser.stop();
    await guarded.stop();
    await rm(folder, { recursive: true });
  }
});
