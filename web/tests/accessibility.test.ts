// The playground in every theme and width: no overflow, and no finding of axe.

import assert from "node:assert/strict";
import { test } from "node:test";
import axe from "axe-core";
import { choose, drawSeven, expectLabel, playground } from "./playground";

for (const colorScheme of ["light", "dark"] as const) {
  for (const viewport of [{ width: 1280, height: 900 }, { width: 320, height: 640 }]) {
    test(`the pages are accessible: ${colorScheme}, ${viewport.width} pixels wide`, () =>
      playground(
        async (page) => {
          const check = async (state: string) => {
            await page.waitForTimeout(300);
            const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
            assert.ok(wide <= 0, `${state}: ${wide} pixels wider than the window`);
            // As an expression, because the page's policy forbids adding scripts.
            await page.evaluate(axe.source);
            const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run());
            const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n")}`);
            assert.deepEqual(found, [], state);
          };
          await page.locator("#live:not([hidden])").waitFor();
          await check("empty");
          await drawSeven(page);
          await expectLabel(page, "7");
          await page.locator("summary").click();
          await check("a drawing");
          await choose(page, "fashion");
          await page.getByRole("button", { name: "Example: Bag" }).click();
          await expectLabel(page, "Bag");
          await check("an image");
          await choose(page, "sentiment");
          await page.locator(".text-example").nth(1).click();
          await expectLabel(page, "positive");
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
