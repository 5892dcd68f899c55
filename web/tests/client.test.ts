// A client generated from openapi.json, with types by openapi-typescript and calls by openapi-fetch. The build checks that
// it compiles; these tests check that it works.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import createClient, { type Client } from "openapi-fetch";
import type { paths } from "../generated/openapi";
import { ROOT, Server } from "./server";

let server: Server;
let client: Client<paths>;

before(async () => {
  server = await Server.start();
  client = createClient<paths>({ baseUrl: server.url.replace(/\/$/, "") });
});

after(() => server.stop());

const digit = (name: string) => readFile(path.join(ROOT, "models/digits/1/golden", name));

test("classifies a digit as JSON", async () => {
  const image = (await digit("7_0.png")).toString("base64");
  const { data, error } = await client.POST("/v1/classify", { body: { model: "digits", inputs: [{ image }], top_k: 2 } });
  assert.equal(error, undefined);
  assert.equal(data?.model, "digits");
  assert.equal(data.results[0]?.label, "7");
  assert.equal(data.results[0].top.length, 2);
});

test("classifies a digit sent as the request body", async () => {
  const image = await digit("3_18.png");
  const { data } = await client.POST("/v1/classify", {
    params: { query: { model: "digits", top_k: 1 } },
    headers: { "Content-Type": "image/png" },
    // OpenAPI describes bytes as `string` with `format: binary`.
    body: image as unknown as string,
    bodySerializer: (body: unknown) => body as BodyInit,
  });
  assert.equal(data?.results[0]?.label, "3");
});

test("gets a typed problem document for an invalid request", async () => {
  const { data, error, response } = await client.POST("/v1/classify", { body: { model: "nope", inputs: "a" } });
  assert.equal(data, undefined);
  assert.equal(response.status, 404);
  assert.equal(error?.code, "model_not_found");
  assert.ok(error.detail.includes('"nope"'), error.detail);
});

test("lists the models", async () => {
  const { data } = await client.GET("/v1/models");
  assert.deepEqual(data?.models.map((model) => model.name), ["digits", "fashion", "images", "sentiment"]);
  const { data: shown } = await client.GET("/v1/models/{name}", { params: { path: { name: "sentiment" } } });
  assert.equal(shown?.task, "text-classification");
});
