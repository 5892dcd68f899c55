// Requests of the page to the server.

import type { components } from "../generated/openapi";

export type Model = components["schemas"]["ModelDescription"];
export type Example = components["schemas"]["ExampleDescription"];
export type Classification = components["schemas"]["Classification"];
export type Problem = components["schemas"]["Problem"];

/** The image or text to classify. */
export interface Input {
  body: Blob | string;
  contentType: string;
  /** Name of the file that the curl command reads. A text is part of the command itself. */
  fileName?: string;
  /** Shown with the image, for example that it was resized. */
  note?: string;
  /** The true label, if known. */
  truth?: string;
}

export interface Timing {
  decode: number;
  queue: number;
  inference: number;
}

export interface TimedResponse {
  classification: Classification;
  /** The response body. */
  text: string;
  timing: Timing | undefined;
  /** Milliseconds from the call to the complete response. */
  total: number;
}

/** An unsuccessful response. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly code: string | undefined,
    readonly requestId: string | undefined,
    readonly retryAfter: string | undefined,
  ) {
    super(title);
  }
}

/** Kept in memory only, never in storage or in the page. */
let key: string | undefined;

export function useKey(value: string): void {
  key = value;
}

export function hasKey(): boolean {
  return key !== undefined;
}

/** The number of labels to show. */
export const TOP_K = 5;

export function url(path: string): URL {
  return new URL(path, document.baseURI);
}

export function classifyPath(model: string): string {
  return `v1/classify?model=${encodeURIComponent(model)}&top_k=${TOP_K}`;
}

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key !== undefined) {
    headers.set("Authorization", `Bearer ${key}`);
  }
  let response: Response;
  try {
    response = await fetch(url(path), { ...init, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") {
      throw error;
    }
    const detail = "The server did not respond. Is it running, and are you connected?";
    throw new Refusal(0, "The server cannot be reached", detail, undefined, undefined, undefined);
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

async function refusal(response: Response): Promise<Refusal> {
  let problem: Partial<Problem> = {};
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    problem = (await response.json()) as Problem;
  }
  return new Refusal(
    response.status,
    problem.title ?? `The server returned ${response.status} ${response.statusText}`.trim(),
    problem.detail ?? "The server gave no reason.",
    problem.code,
    problem.request_id ?? response.headers.get("X-Request-Id") ?? undefined,
    response.headers.get("Retry-After") ?? undefined,
  );
}

export async function models(): Promise<Model[]> {
  const response = await request("v1/models");
  return ((await response.json()) as components["schemas"]["Models"]).models;
}

function examplesPath(model: string): string {
  return `v1/models/${encodeURIComponent(model)}/examples`;
}

export async function examples(model: string): Promise<Example[]> {
  const response = await request(examplesPath(model));
  return ((await response.json()) as components["schemas"]["Examples"]).examples;
}

export async function example(model: string, name: string): Promise<Blob> {
  const response = await request(`${examplesPath(model)}/${encodeURIComponent(name)}`);
  return response.blob();
}

export async function classify(model: string, input: Input, signal: AbortSignal): Promise<TimedResponse> {
  const started = performance.now();
  const response = await request(classifyPath(model), {
    method: "POST",
    headers: { "Content-Type": input.contentType },
    body: input.body,
    signal,
  });
  const text = await response.text();
  return {
    classification: JSON.parse(text) as Classification,
    text,
    timing: serverTiming(response.headers.get("Server-Timing")),
    total: performance.now() - started,
  };
}

/** Milliseconds of each stage, from a Server-Timing header. */
export function serverTiming(header: string | null): Timing | undefined {
  const durations = new Map<string, number>();
  for (const metric of (header ?? "").split(",")) {
    const [name, ...parameters] = metric.split(";").map((part) => part.trim());
    const duration = parameters.find((parameter) => parameter.startsWith("dur="));
    if (name && duration) {
      durations.set(name, Number(duration.slice("dur=".length)));
    }
  }
  const [decode, queue, inference] = ["decode", "queue", "inference"].map((name) => durations.get(name));
  if (decode === undefined || queue === undefined || inference === undefined) {
    return undefined;
  }
  return { decode, queue, inference };
}
