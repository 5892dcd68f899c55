// The answer: labels, bars, time, the curl line and the JSON; or what went wrong.

import { type Answer, type Input, Refusal, classifyPath, hasKey, url } from "./api";
import { curl } from "./curl";
import { byId, make, milliseconds, percent, show } from "./dom";

/** A screen reader is told an answer when it has stayed for so long, or it would be told half-drawn digits. */
const CALM = 700;

let announcing: ReturnType<typeof setTimeout> | undefined;
let savedUrl: string | undefined;

/** Before anything was classified. */
export function showEmpty(text: string): void {
  byId("empty").textContent = text;
  show(byId("empty"), true);
  show(byId("answer"), false);
  show(byId("problem"), false);
  show(byId("wire"), false);
  byId("answer-model").textContent = "";
  byId("echo").textContent = "";
  clearTimeout(announcing);
}

export function showBusy(busy: boolean): void {
  byId("answer").setAttribute("aria-busy", String(busy));
}

export function showAnswer(model: string, input: Input, answer: Answer): void {
  const result = answer.classification.results[0];
  if (!result) {
    return;
  }
  show(byId("empty"), false);
  show(byId("problem"), false);
  byId("answer-model").textContent = `${answer.classification.model}, version ${answer.classification.version}`;
  byId("label").textContent = result.label;
  byId("score").textContent = percent(result.score);
  // Above the input, where a narrow screen has the answer further down.
  byId("echo").textContent = `${result.label} · ${percent(result.score)}`;
  const { truth } = input;
  byId("truth").textContent = truth === undefined ? "" : truth === result.label ? `Labelled ${truth}: right.` : `Labelled ${truth}: wrong.`;
  show(byId("truth"), truth !== undefined);
  show(byId("truncated"), result.truncated === true);
  byId("bars").replaceChildren(...result.top.map(({ label, score }) => bar(label, score)));
  showTiming(answer);
  showRequest(model, input);
  byId("json").textContent = JSON.stringify(answer.classification, undefined, 2);
  show(byId("answer"), true);
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

function showTiming({ timing, total }: Answer): void {
  const parts: [string, string, number][] = [];
  if (timing) {
    parts.push(["decode", "Decode", timing.decode], ["queue", "Queue", timing.queue], ["inference", "Inference", timing.inference]);
    const rest = total - timing.decode - timing.queue - timing.inference;
    parts.push(["rest", "Network and browser", Math.max(0, rest)]);
  } else {
    parts.push(["rest", "In all", total]);
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
  const body = typeof input.body === "string" ? { text: input.body } : { file: input.fileName ?? "picture.png" };
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
    save.download = input.fileName ?? "picture.png";
    byId("save-name").textContent = save.download;
  }
  show(byId("save-line"), input.body instanceof Blob);
  show(byId("wire"), true);
}

export function showProblem(error: unknown): void {
  const problem =
    error instanceof Refusal
      ? error
      : new Refusal(0, "The page failed", String(error), undefined, undefined, undefined);
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
  show(byId("answer"), false);
  show(byId("wire"), false);
  byId("echo").textContent = problem.title;
  clearTimeout(announcing);
}

export function start(): void {
  const copy = byId<HTMLButtonElement>("copy");
  copy.addEventListener("click", () => {
    void copyText(byId("curl")).then((copied) => {
      copy.textContent = copied ? "Copied" : "Select it to copy";
      setTimeout(() => (copy.textContent = "Copy"), 2000);
    });
  });
}

/** The clipboard is only there over https and on localhost; elsewhere the line is selected, to be copied by hand. */
async function copyText(element: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(element.textContent ?? "");
    return true;
  } catch {
    getSelection()?.selectAllChildren(element);
    return false;
  }
}
