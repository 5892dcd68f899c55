// Computes the live panel's numbers from Prometheus' text format.

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

export function parse(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    const match = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    if (!match || !match[1] || !match[3]) {
      continue;
    }
    const labels: Record<string, string> = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
      if (name !== undefined && value !== undefined) {
        labels[name] = value.replace(/\\(.)/g, (_, escaped: string) => (escaped === "n" ? "\n" : escaped));
      }
    }
    const written = match[3];
    samples.push({ name: match[1], labels, value: written === "+Inf" ? Infinity : Number(written) });
  }
  return samples;
}

/** The numbers of one scrape that the panel needs. */
export interface Scrape {
  /** Time of the scrape, in seconds. */
  time: number;
  requests: number;
  /** Maps the upper bound of each bucket, in seconds, to the number of requests that took at most that long. */
  durations: Map<number, number>;
  batches: number;
  batchedInputs: number;
  queueDepth: number;
}

const ROUTE = "/v1/classify";

export function scrape(text: string, time: number): Scrape {
  const samples = parse(text);
  const sum = (name: string, keep: (labels: Record<string, string>) => boolean = () => true) =>
    samples.reduce((total, sample) => (sample.name === name && keep(sample.labels) ? total + sample.value : total), 0);
  const durations = new Map<number, number>();
  for (const { name, labels, value } of samples) {
    if (name === "classifyd_http_request_duration_seconds_bucket" && labels["route"] === ROUTE) {
      const bound = labels["le"] === "+Inf" ? Infinity : Number(labels["le"]);
      durations.set(bound, (durations.get(bound) ?? 0) + value);
    }
  }
  return {
    time,
    requests: sum("classifyd_http_requests_total", (labels) => labels["route"] === ROUTE),
    durations,
    batches: sum("classifyd_batch_size_count"),
    batchedInputs: sum("classifyd_batch_size_sum"),
    queueDepth: sum("classifyd_queue_depth"),
  };
}

export interface Rates {
  requestsPerSecond: number;
  /** Seconds; undefined if there was no request. */
  p99: number | undefined;
  /** Undefined if there was no batch. */
  batchSize: number | undefined;
  queueDepth: number;
}

/** The rates between two scrapes. */
export function rates(before: Scrape, after: Scrape): Rates {
  // After a restart, counters begin at zero.
  const restarted = after.requests < before.requests;
  const since = (value: number, earlier: number) => (restarted ? value : value - earlier);
  const batches = since(after.batches, before.batches);
  const durations = [...after.durations]
    .sort(([a], [b]) => a - b)
    .map(([bound, count]) => [bound, since(count, before.durations.get(bound) ?? 0)] as const);
  return {
    requestsPerSecond: since(after.requests, before.requests) / Math.max(after.time - before.time, 1e-3),
    p99: quantile(0.99, durations),
    batchSize: batches > 0 ? since(after.batchedInputs, before.batchedInputs) / batches : undefined,
    queueDepth: after.queueDepth,
  };
}

/** Like Prometheus' histogram_quantile: linear within a bucket. Buckets are cumulative and sorted by bound. */
export function quantile(q: number, buckets: readonly (readonly [number, number])[]): number | undefined {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) {
    return undefined;
  }
  const rank = q * total;
  let below = { bound: 0, count: 0 };
  for (const [bound, count] of buckets) {
    if (count >= rank) {
      if (bound === Infinity) {
        return below.bound;
      }
      const inBucket = count - below.count;
      return below.bound + (bound - below.bound) * (inBucket > 0 ? (rank - below.count) / inBucket : 1);
    }
    below = { bound, count };
  }
  return below.bound;
}
