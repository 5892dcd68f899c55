// The playground in a real browser, with the real server.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import type { Page } from "playwright-core";
import { SEVEN, choose, drawSeven, expectLabel, give, golden, places, playground, withApiKey } from "./playground";
import { Server } from "./server";

test("a drawn 7 is classified as 7, and scores update during drawing", () =>
  playground(async (page) => {
    const [start, corner, end] = await places(page, SEVEN);
    assert.ok(start && corner && end);
    await page.mouse.move(...start);
    await page.mouse.down();
    await page.mouse.move(...corner, { steps: 10 });
    await page.locator("#result:not([hidden])").waitFor();
    await page.mouse.move(...end, { steps: 10 });
    await expectLabel(page, "7");
    await page.mouse.up();
    assert.equal(await page.locator("#bars li").count(), 5);
    assert.deepEqual(await page.locator("#timing dt").allTextContents(), ["Decode", "Queue", "Inference", "Network and browser"]);
    assert.equal(await page.locator("#announcement", { hasText: /^7, / }).textContent({ timeout: 5000 }).then(Boolean), true);
    await page.getByRole("button", { name: "Undo" }).click();
    await page.getByText("Draw something").waitFor();
  }));

test("drawing works with a finger on a phone in dark mode", () =>
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
      assert.ok((await below("#echo")) <= (await page.locator("#canvas").boundingBox())!.y, "the short result is above the finger");
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
      await expectLabel(page, "7");
      assert.match((await page.locator("#echo").textContent()) ?? "", /^7 · /, "the result is also shown above the finger");
      assert.ok(await page.locator("#echo").isVisible());
      await page.locator("label", { hasText: /^Image$/ }).click();
      assert.ok(await page.getByText("Take a photo", { exact: true }).isVisible(), "a phone has a camera");
      const buffer = await golden("digits/1/golden/4_4.png");
      await page.locator("#camera").setInputFiles({ name: "image.png", mimeType: "image/png", buffer });
      await expectLabel(page, "4");
    },
    { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, colorScheme: "dark" },
  ));

test("a newer input cancels the previous request", () =>
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
    await expectLabel(page, "7");
  }));

/** An image like a camera's: 2,000 x 1,500 pixels with noise, several MB. */
async function photograph(page: Page, image: Buffer): Promise<Buffer> {
  const base64 = await page.evaluate(async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    const canvas = new OffscreenCanvas(2000, 1500);
    const context = canvas.getContext("2d")!;
    context.drawImage(image, 0, 0, 2000, 1500);
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
  }, image.toString("base64"));
  return Buffer.from(base64, "base64");
}

test("a photo is resized, classified and shown", () =>
  playground(async (page) => {
    await choose(page, "images");
    const buffer = await photograph(page, await golden("images/1/golden/ship_1.png"));
    assert.ok(buffer.length > 2 * 1024 * 1024, `${buffer.length}`);
    await page.locator("#file").setInputFiles({ name: "IMG_0001.png", mimeType: "image/png", buffer });
    await expectLabel(page, "ship");
    assert.equal(await page.locator("#image-note").textContent(), "Resized in this browser and sent as a JPEG of 1024 × 768 pixels.");
    assert.ok(await page.getByAltText("The classified image").isVisible());
    assert.ok((await page.locator("#curl").textContent())?.includes("@IMG_0001.jpg"));
  }));

test("an image can be dropped or pasted, even if a text model is selected", () =>
  playground(async (page) => {
    await choose(page, "sentiment");
    await give(page, "paste", { name: "a.png", type: "image/png", bytes: await golden("digits/1/golden/4_4.png") });
    await expectLabel(page, "4");
    await choose(page, "fashion");
    await give(page, "drop", { name: "b.png", type: "image/png", bytes: await golden("fashion/1/golden/trouser_2.png") });
    await expectLabel(page, "Trouser");
  }));

test("a typed review is classified as positive or negative", () =>
  playground(async (page) => {
    await choose(page, "sentiment");
    const text = page.getByRole("textbox", { name: "Text" });
    await text.pressSequentially("A wonderful film, I was moved to tears.", { delay: 10 });
    await expectLabel(page, "positive");
    await text.fill("Two hours that I will not get back. Boring and badly acted.");
    await expectLabel(page, "negative");
    await text.fill(`${"good ".repeat(900)}`);
    await page.getByText("only part of it was classified").waitFor();
    await text.fill("");
    await page.getByText("Type something").waitFor();
  }));

test("on a phone, the row of models scrolls to the selected one", () =>
  playground(
    async (page) => {
      const top = () => page.evaluate(() => scrollY);
      await page.locator('input[value="sentiment"]').focus();
      await page.keyboard.press("Space");
      await page.getByText("sentiment returns one of these labels: ").waitFor();
      const { inner, outer } = await page.evaluate(() => ({
        inner: document.querySelector('.model:has(input[value="sentiment"])')!.getBoundingClientRect().toJSON() as DOMRect,
        outer: document.querySelector("#models")!.getBoundingClientRect().toJSON() as DOMRect,
      }));
      assert.ok(inner.left >= outer.left && inner.right <= outer.right, JSON.stringify({ inner, outer }));
      await page.locator("#live").scrollIntoViewIfNeeded();
      const before = await top();
      await give(page, "drop", { name: "b.png", type: "image/png", bytes: await golden("digits/1/golden/4_4.png") });
      await expectLabel(page, "4");
      assert.ok(before > 0 && (await top()) > 0, "the page does not jump to the models");
    },
    { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true },
  ));

test("the page lists the labels of a model", () =>
  playground(async (page) => {
    await choose(page, "images");
    await page.getByText("images returns one of these labels: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.").waitFor();
    await page.route("**/v1/models", async (route) => {
      const response = (await (await route.fetch()).json()) as { models: { labels: string[]; problem_type: string }[] };
      response.models[0]!.labels = Array.from({ length: 1000 }, (_, at) => `label ${at}`);
      response.models[0]!.problem_type = "multi_label_classification";
      await route.fulfill({ json: response });
    });
    await page.reload();
    await page.getByText(/returns any of these labels: label 0, .*, label 29 and 970 more\.$/).waitFor();
  }));

test("errors are explained in plain words", () =>
  playground(async (page) => {
    await choose(page, "sentiment");
    const alert = page.getByRole("alert");
    await give(page, "drop", { name: "letter.pdf", type: "application/pdf", bytes: Buffer.from("%PDF-1.7") });
    await alert.getByText("This model classifies images, and letter.pdf is not one. Choose a PNG, JPEG, WebP, GIF or BMP file.").waitFor();
    assert.equal(await page.locator("#drop-text").textContent(), "letter.pdf");
    await choose(page, "images");
    await alert.getByText("letter.pdf is not one").waitFor();
    await give(page, "drop", { name: "IMG_1.heic", type: "image/heic", bytes: Buffer.from("ftypheic") });
    await alert.getByText("Neither this browser nor the server can read IMG_1.heic").waitFor();
    await page.locator("#file").setInputFiles({ name: "broken.png", mimeType: "image/png", buffer: Buffer.from("no image") });
    await alert.getByText("cannot be decoded").first().waitFor();
    await alert.getByText("6e6f20696d616765").waitFor();
    await alert.getByText("422 invalid_image · request ").waitFor();
    // The next input is classified.
    await page.getByRole("button", { name: "Example: cat" }).click();
    await expectLabel(page, "cat");
    assert.equal(await alert.isVisible(), false);
    await page.route("**/v1/classify*", (route) => route.abort("connectionrefused"));
    await page.getByRole("button", { name: "Example: ship" }).click();
    await alert.getByText("The server cannot be reached").waitFor();
  }));

test("the page shows when to retry a busy server", () =>
  playground(async (page) => {
    const problem = {
      type: "urn:classifyd:error:queue_full",
      title: "The server is busy",
      status: 503,
      detail: "the queue is full",
      code: "queue_full",
      request_id: "1",
    };
    await page.route("**/v1/classify*", (route) =>
      route.fulfill({ status: 503, contentType: "application/problem+json", headers: { "Retry-After": "1" }, json: problem }),
    );
    await drawSeven(page);
    await page.getByRole("alert").getByText("Try again in 1 s · 503 queue_full · request 1").waitFor();
  }));

test("each model has matching examples", () =>
  playground(async (page) => {
    for (const model of ["digits", "fashion", "images", "sentiment"]) {
      await choose(page, model);
      await page.locator("#result-model", { hasText: model }).or(page.locator("#empty")).first().waitFor();
      const [{ label }] = await page.evaluate(async (model) => {
        const response = await fetch(`v1/models/${model}/examples`);
        return ((await response.json()) as { examples: [{ label: string }] }).examples;
      }, model);
      const first = model === "sentiment" ? page.locator(".text-example").first() : page.getByRole("button", { name: `Example: ${label}`, exact: true });
      await first.click();
      await expectLabel(page, label);
      await page.getByText(`True label: ${label}. Correct.`).waitFor();
    }
  }));

test("the curl command with the saved image gives the same result", () =>
  playground(
    async (page) => {
      const directory = await mkdtemp(path.join(tmpdir(), "classifyd-curl-"));
      try {
        const same = async () => {
          const line = (await page.locator("#curl").textContent()) ?? "";
          const response: unknown = JSON.parse(execFileSync("sh", ["-c", line], { cwd: directory, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
          assert.deepEqual(response, JSON.parse((await page.locator("#json").textContent()) ?? ""));
        };
        await drawSeven(page);
        await expectLabel(page, "7");
        await page.waitForTimeout(500);
        const download = page.waitForEvent("download");
        await page.getByRole("link", { name: "save the image" }).click();
        await (await download).saveAs(path.join(directory, (await download).suggestedFilename()));
        await same();
        await page.getByRole("button", { name: "Copy" }).click();
        await page.getByRole("button", { name: "Copied" }).waitFor();
        assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await page.locator("#curl").textContent());

        await choose(page, "sentiment");
        await page.getByRole("textbox", { name: "Text" }).fill("It's the \"best\" film & $cheap;\nI loved it 🎬");
        await page.locator("#result-model", { hasText: "sentiment" }).waitFor();
        await same();
      } finally {
        await rm(directory, { recursive: true });
      }
    },
    { permissions: ["clipboard-read", "clipboard-write"] },
  ));

test("the keyboard is enough for everything", () =>
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
    // Draws a seven: to the left, pen down, to the right, down and to the left, pen up.
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
    await expectLabel(page, "7");
    await tabTo("clear");
    await press(["Enter"]);
    await page.getByText("Draw something").waitFor();

    await page.keyboard.press("Tab");
    await press(["Enter"]);
    await expectLabel(page, "0");

    await tabTo("copy");
    await press(["Tab", "Tab", "Enter"]);
    await page.getByLabel("Response as JSON").waitFor();

    await page.keyboard.press("Home");
    await page.evaluate(() => (document.activeElement as HTMLElement).blur());
    await tabTo("digits");
    await press(["ArrowRight"], 3);
    assert.equal(await focus(), "sentiment");
    await tabTo("text");
    await page.keyboard.type("I loved every minute of it.");
    await expectLabel(page, "positive");
  }));

test("the live panel shows the server's metrics", () =>
  playground(async (page) => {
    await drawSeven(page);
    await expectLabel(page, "7");
    const tiles = page.locator("#live:not([hidden]) .tile");
    await tiles.first().waitFor();
    assert.deepEqual(await tiles.locator("dt").allTextContents(), ["Requests/s", "p99 latency", "Batch size", "Queue depth"]);
    await drawSeven(page);
    await tiles.nth(0).locator(".tile-value", { hasText: /^(0\.[1-9]|[1-9])/ }).waitFor();
    await tiles.nth(1).locator(".tile-value", { hasText: /^[\d.]+ ms$/ }).waitFor();
    await tiles.nth(2).locator(".tile-value", { hasText: /^1\.0$/ }).waitFor();
    await tiles.nth(3).locator(".tile-value", { hasText: /^0$/ }).waitFor();
  }));

test("the live panel says that metrics are served at another address", async () => {
  const elsewhere = await Server.start(["--admin-listen", "127.0.0.1:0"]);
  try {
    await playground((page) => page.getByText("This address does not serve metrics").waitFor(), {}, elsewhere);
  } finally {
    await elsewhere.stop();
  }
});

test("the page sends the API key and forgets it", () =>
  withApiKey(async (guarded, browser, key) => {
    const watched = await browser.open();
    const { page } = watched;
    await page.goto(guarded.url);
    const field = page.getByLabel("API key");
    await field.fill("cfd_wrong");
    await page.keyboard.press("Enter");
    await page.getByText("The server does not know that API key").waitFor();
    await field.fill(key);
    await page.getByRole("button", { name: "Use API key" }).click();
    await page.locator("#models .model").first().waitFor();
    await drawSeven(page);
    await expectLabel(page, "7");
    assert.equal(await field.isVisible(), false);
    await page.locator("#live:not([hidden]) .tile").first().waitFor();
    assert.ok(!(await page.content()).includes(key), "the page does not contain the key");
    assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length + document.cookie.length), 0);
    await page.reload();
    await field.waitFor();
    assert.deepEqual(watched.complaints, []);
    assert.deepEqual(watched.outside(guarded), []);
  }));
