// Builds the scripts of the pages into dist/. It is checked in, so that cargo needs no Node.js.
// `--check` fails if dist/ is out of date; `--tests` also builds the tests into build/tests/.

import { execFileSync } from "node:child_process";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import esbuild from "esbuild";
import openapiTS, { astToString } from "openapi-typescript";

const root = path.dirname(fileURLToPath(import.meta.url));
const at = (...parts) => path.join(root, ...parts);
const has = (flag) => process.argv.includes(flag);

// The types of requests and responses come from the server's OpenAPI document.
await mkdir(at("generated"), { recursive: true });
const document = new URL("../openapi/openapi.json", import.meta.url);
await writeFile(at("generated/openapi.d.ts"), astToString(await openapiTS(document)));

execFileSync(process.execPath, [at("node_modules/typescript/bin/tsc"), "-p", at("tsconfig.json")], { stdio: "inherit" });

const { outputFiles } = await esbuild.build({
  entryPoints: [at("src/playground.ts"), at("src/docs.ts")],
  outdir: at("dist"),
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  write: false,
});
for (const file of outputFiles) {
  if (has("--check")) {
    const committed = await readFile(file.path, "utf8").catch(() => "");
    if (committed !== file.text) {
      console.error(`web/dist/${path.basename(file.path)} is out of date: run \`make web\``);
      process.exitCode = 1;
    }
  } else {
    await mkdir(at("dist"), { recursive: true });
    await writeFile(file.path, file.text);
    console.log(`dist/${path.basename(file.path)}: ${file.text.length} bytes`);
  }
}

if (has("--tests")) {
  await rm(at("build/tests"), { recursive: true, force: true });
  const tests = (await readdir(at("tests"))).filter((name) => name.endsWith(".test.ts"));
  await esbuild.build({
    entryPoints: tests.map((name) => at("tests", name)),
    outdir: at("build/tests"),
    bundle: true,
    packages: "external",
    platform: "node",
    format: "esm",
    target: "node20",
  });
}
