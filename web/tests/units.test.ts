// Tests without a browser.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { serverTiming } from "../src/api";
import { curl, quote } from "../src/curl";
import { milliseconds, percent } from "../src/dom";
import { parse, quantile, rates, scrape } from "../src/metrics";

test("samples are parsed with their labels", () => {
  const text = '# HELP a help\n# TYPE a counter\na 1\nb{x="1",y="a \\"b\\" \\\\ {c}"} 2.5e-3\nc_bucket{le="+Inf"} 7\nd +Inf\n';
  assert.deepEqual(parse(text), [
    { name: "a", labels: {}, value: 1 },
    { name: "b", labels: { x: "1", y: 'a "b" \\ {c}' }, value: 0.0025 },
    { name: "c_bucket", labels: { le: "+Inf" }, value: 7 },
    { name: "d", labels: {}, value: Infinity },
  ]);
});

test("a quantile lies within its bucket", () => {
  assert.equal(quantile(0.5, [[1, 0], [2, 10], [Infinity, 10]]), 1.5);
  assert.equal(quantile(0.99, [[1, 0], [2, 10], [Infinity, 20]]), 2, "as far as the buckets know");
  assert.equal(quantile(0.99, [[1, 0], [Infinity, 0]]), undefined);
  assert.equal(quantile(0.99, []), undefined);
});

function metrics(requests: number, batches: number, inputs: number, depth: number): string {
  return [
    `classifyd_http_requests_total{method="POST",route="/v1/classify",status="200"} ${requests - 1}`,
    `classifyd_http_requests_total{method="POST",route="/v1/classify",status="422"} 1`,
    `classifyd_http_requests_total{method="GET",route="/livez",status="200"} 500`,
    `classifyd_http_request_duration_seconds_bucket{route="/v1/classify",le="0.01"} ${requests}`,
    `classifyd_http_request_duration_seconds_bucket{route="/v1/classify",le="+Inf"} ${requests}`,
    `classifyd_http_request_duration_seconds_bucket{route="/livez",le="0.01"} 500`,
    `classifyd_batch_size_sum{model="a"} ${inputs}`,
    `classifyd_batch_size_count{model="a"} ${batches}`,
    `classifyd_queue_depth{model="a"} ${depth}`,
    `classifyd_queue_depth{model="b"} 1`,
  ].join("\n");
}

test("rates are differences between two scrapes", () => {
  const before = scrape(metrics(10, 5, 10, 0), 100);
  const after = scrape(metrics(30, 10, 30, 2), 110);
  const now = rates(before, after);
  assert.equal(now.requestsPerSecond, 2);
  assert.equal(now.batchSize, 4);
  assert.equal(now.queueDepth, 3);
  assert.ok(now.p99 !== undefined && Math.abs(now.p99 - 0.0099) < 1e-9);
});

test("counters restart at zero after a server restart", () => {
  const now = rates(scrape(metrics(1000, 500, 1000, 0), 100), scrape(metrics(20, 10, 20, 0), 110));
  assert.equal(now.requestsPerSecond, 2);
  assert.equal(now.batchSize, 2);
});

test("rates are zero without requests", () => {
  const same = metrics(10, 5, 10, 0);
  const now = rates(scrape(same, 100), scrape(same, 110));
  assert.deepEqual(now, { requestsPerSecond: 0, p99: undefined, batchSize: undefined, queueDepth: 1 });
});

test("the shell reads a quoted text unchanged", () => {
  for (const text of ["plain", "it's", "'", "a\nb", '$(id) `id` "x" \\ @file !', "", "naïve 🎬"]) {
    assert.equal(execFileSync("sh", ["-c", `printf %s ${quote(text)}`], { encoding: "utf8" }), text);
  }
});

test("the curl command does not contain the API key itself", () => {
  const line = curl({ url: "http://h/v1/classify", contentType: "text/plain", body: { text: "a" }, withKey: true });
  assert.ok(line.includes('"Authorization: Bearer $CLASSIFYD_API_KEY"'), line);
});

test("the Server-Timing header is parsed", () => {
  assert.deepEqual(serverTiming("decode;dur=0.081, queue;dur=0.010, inference;dur=1.5"), { decode: 0.081, queue: 0.01, inference: 1.5 });
  assert.equal(serverTiming("decode;dur=1"), undefined);
  assert.equal(serverTiming(null), undefined);
});

test("numbers are formatted with their units", () => {
  assert.deepEqual([1, 0.99999, 0.9991, 0.982, 0.0712, 0.0001, 0.00009, 0].map(percent), ["100 %", "> 99.99 %", "99.91 %", "98.2 %", "7.12 %", "0.01 %", "< 0.01 %", "< 0.01 %"]);
  assert.deepEqual([0.0812, 12.34, 123.4].map(milliseconds), ["0.08 ms", "12.3 ms", "123 ms"]);
});
