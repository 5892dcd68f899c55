// The API page in a real browser, with the real server.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { server, withApiKey } from "./playground";
import { Chromium, ROOT } from "./server";

test("the API page works, and every request example can be sent unchanged", async () => {
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
      const response = await operation.locator(".live-responses-table pre").first().textContent();
      const { results } = JSON.parse(response ?? "") as { results: { label: string }[] };
      assert.deepEqual(results.map(({ label }) => label), labels, type);
    }
    // Swagger UI logs this for every format for which it has no specific field, and uses a generic one.
    const complaints = watched.complaints.filter((text) => !text.startsWith("Could not find component: JsonSchema_"));
    assert.deepEqual(complaints, []);
    assert.deepEqual(watched.outside(server), []);
  } finally {
    await browser.stop();
  }
});

test("the API page shows padlocks only if there are API keys", () =>
  withApiKey(async (guarded, browser) => {
    for (const [of, some] of [[server, false], [guarded, true]] as const) {
      const { page } = await browser.open();
      await page.goto(`${of.url}docs`);
      await page.locator(".opblock").last().waitFor();
      for (const part of [".auth-wrapper .authorize", ".authorization__btn"]) {
        assert.equal((await page.locator(part).count()) > 0, some, `${of.url}: ${part}`);
      }
    }
  }));
