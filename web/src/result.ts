// Shows the result: labels, bars, timing, the curl command and the JSON; or the error.

import { type TimedResponse, type Input, Refusal, classifyPath, hasKey, url } from "./api";
import { curl } from "./curl";
import { byId, make, milliseconds, percent, show } from "./dom";

/** Milliseconds that a result must stay before screen readers hear it, so that half-drawn digits are skipped. */
const CALM = 700;

let announcing: ReturnType<typeof setTimeout> | undefined;
let savedUrl: string | undefined;

export function showEmpty(text: string): void {
  byId("empty").textContent = text;
  show(byId("empty"), true);
  show(byId("result"), false);
  show(byId("problem"), false);
  show(byId("wire"), false);
  byId("result-model").textContent = "";
  byId("echo").textContent = "";
  clearTimeout(announcing);
}

export function showBusy(busy: boolean): void {
  byId("result").setAttribute("aria-busy", String(busy));
}

export function showResult(model: string, input: Input, response: TimedResponse): void {
  const result = response.classification.results[0];
  if (!result) {
    return;
  }
  show(byId("empty"), false);
  show(byId("problem"), false);
  byId("result-model").textContent = `${response.classification.model}, version ${response.classification.version}`;
  byId("label").textContent = result.label;
  byId("score").textContent = percent(result.score);
  // Repeated above the input, because a narrow screen has the result further down.
  byId("echo").textContent = `${result.label} · ${percent(result.score)}`;
  const { truth } = input;
  byId("truth").textContent = truth === undefined ? "" : truth === result.label ? `True label: ${truth}. Correct.` : `True label: ${truth}. Wrong.`;
  show(byId("truth"), truth !== undefined);
  show(byId("truncated"), result.truncated === true);
  byId("bars").replaceChildren(...result.top.map(({ label, score }) => bar(label, score)));
  showTiming(response);
  showRequest(model, input);
  byId("json").textContent = JSON.stringify(response.classification, undefined, 2);
  show(byId("result"), true);
  announce(`${result.label}, ${percent(result.score)}`);
}

function announce(text: string): void {
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    byId("announcement").textContent = text;
  }, CALM);
}

function bar(label: string, score: number): HTMLElement {
  const fill = make("span", "bar-fill");
  fill.style.setProperty("--score", String(score));
  const track = make("span", "bar-track", fill);
  track.setAttribute("aria-hidden", "true");
  return make("li", "bar", make("span", "bar-label", label), track, make("span", "bar-score", percent(score)));
}

function showTiming({ timing, total }: TimedResponse): void {
  const parts: [string, string, number][] = [];
  if (timing) {
    parts.push(["decode", "Decode", timing.decode], ["queue", "Queue", timing.queue], ["inference", "Inference", timing.inference]);
    const rest = total - timing.decode - timing.queue - timing.inference;
    parts.push(["rest", "Network and browser", Math.max(0, rest)]);
  } else {
    parts.push(["rest", "Total", total]);
  }
  byId("timing-bar").replaceChildren(
    ...parts.map(([kind, , duration]) => {
      const part = make("span", `part ${kind}`);
      part.style.setProperty("--part", String(duration));
      return part;
    }),
  );
  byId("timing").replaceChildren(
    ...parts.map(([kind, name, duration]) =>
      make("div", `part ${kind}`, make("dt", "", name), make("dd", "", milliseconds(duration))),
    ),
  );
}

function showRequest(model: string, input: Input): void {
  const body = typeof input.body === "string" ? { text: input.body } : { file: input.fileName ?? "image.png" };
  const { contentType } = input;
  byId("curl").textContent = curl({ url: url(classifyPath(model)).href, contentType, body, withKey: hasKey() });
  if (savedUrl) {
    URL.revokeObjectURL(savedUrl);
    savedUrl = undefined;
  }
  if (input.body instanceof Blob) {
    savedUrl = URL.createObjectURL(input.body);
    const save = byId<HTMLAnchorElement>("save");
    save.href = savedUrl;
    save.download = input.fileName ?? "image.png";
    byId("save-name").textContent = save.download;
  }
  show(byId("save-line"), input.body instanceof Blob);
  show(byId("wire"), true);
}

export function showProblem(error: unknown): void {
  const problem =
    error instanceof Refusal
      ? error
      : new Refusal(0, "Error in this page", String(error), undefined, undefined, undefined);
  byId("problem-title").textContent = problem.title;
  byId("problem-detail").textContent = problem.detail;
  const notes = [];
  if (problem.retryAfter !== undefined) {
    notes.push(`Try again in ${problem.retryAfter} s`);
  }
  if (problem.code !== undefined) {
    notes.push(`${problem.status} ${problem.code}`);
  }
  if (problem.requestId !== undefined) {
    notes.push(`request ${problem.requestId}`);
  }
  byId("problem-code").textContent = notes.join(" · ");
  show(byId("problem-code"), notes.length > 0);
  show(byId("problem"), true);
  show(byId("empty"), false);
  show(byId("result"), false);
  show(byId("wire"), false);
  byId("echo").textContent = problem.title;
  clearTimeout(announcing);
}

export function start(): void {
  const copy = byId<HTMLButtonElement>("copy");
  copy.addEventListener("click", () => {
    void copyText(byId("curl")).then((copied) => {
      copy.textContent = copied ? "Copied" : "Press Ctrl+C to copy";
      setTimeout(() => (copy.textContent = "Copy"), 2000);
    });
  });
}

/** Browsers offer the clipboard only on HTTPS and localhost. Elsewhere this selects the command, to be copied by hand. */
async function copyText(element: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(element.textContent ?? "");
    return true;
  } catch {
    getSelection()?.selectAllChildren(element);
    return false;
  }
}
