// The playground: choose a model, enter an input, see the result as the input changes.

import * as result from "./result";
import * as api from "./api";
import { byId, make, show } from "./dom";
import { Drawing } from "./drawing";
import * as live from "./live";
import { fromFile, imageOf } from "./image";

/** Milliseconds between a change and its request. */
const DRAWING_PAUSE = 120;
const TYPING_PAUSE = 250;
/** The number of examples to show. */
const MAX_EXAMPLES = 10;
/** The number of labels to list. */
const MAX_LABELS = 30;

type Mode = "draw" | "image" | "text";

let models: api.Model[] = [];
let model: api.Model | undefined;
let mode: Mode = "draw";
/** The last chosen image, which is classified again when the model changes. */
let image: api.Input | undefined;
/** Why the last chosen file cannot be classified. */
let unusable: api.Refusal | undefined;
/** The true label while the text is an unchanged example. */
let textTruth: string | undefined;
let running: AbortController | undefined;
let planned: ReturnType<typeof setTimeout> | undefined;
/** Object URLs of the thumbnails. */
let thumbnails: string[] = [];
let previewUrl: string | undefined;

const drawing = new Drawing(byId<HTMLCanvasElement>("canvas"), () => plan(DRAWING_PAUSE));

// Models

async function loadModels(): Promise<void> {
  const state = byId("models-state");
  try {
    models = await api.models();
  } catch (error) {
    if (isKeyWanted(error)) {
      state.textContent = "Enter the key to see the models.";
      askForKey();
    } else {
      state.textContent = error instanceof api.Refusal ? `${error.title}. ${error.detail}` : String(error);
    }
    return;
  }
  show(state, false);
  show(byId("key-form"), false);
  byId("models").replaceChildren(...models.map(modelCard));
  const first = models[0];
  if (first) {
    choose(first);
  }
}

function modelCard(candidate: api.Model): HTMLElement {
  const radio = make("input", "");
  radio.type = "radio";
  radio.name = "model";
  radio.value = candidate.name;
  radio.addEventListener("change", () => choose(candidate));
  const { measured } = candidate;
  const kind = candidate.task === "text-classification" ? "Text" : "Images";
  const facts = [`${kind} · ${candidate.labels.length} labels`];
  if (measured) {
    facts.push(`${(measured.accuracy * 100).toFixed(1)} % on ${measured.dataset}`);
  }
  const lines = facts.map((fact) => make("span", "model-fact muted", fact));
  return make("label", "model", radio, make("span", "model-body", make("span", "model-name", candidate.name), ...lines));
}

function choose(next: api.Model): void {
  model = next;
  for (const radio of document.querySelectorAll<HTMLInputElement>('input[name="model"]')) {
    radio.checked = radio.value === next.name;
    if (radio.checked) {
      revealIn(byId("models"), radio.closest(".model"));
    }
  }
  byId("labels").textContent = whatItCanSay(next);
  show(byId("labels"), true);
  const takesText = next.task === "text-classification";
  show(byId("modes"), !takesText);
  show(byId("workbench"), true);
  // Digits and letters can be drawn; for other labels, offer image files.
  const drawable = next.labels.every((label) => label.length === 1);
  setMode(takesText ? "text" : image || unusable ? "image" : drawable ? "draw" : "image");
  void loadExamples(next);
}

/** Scrolls a row sideways until this part of it is visible. The page itself does not scroll. */
function revealIn(row: HTMLElement, part: Element | null): void {
  if (part) {
    const [outer, inner] = [row.getBoundingClientRect(), part.getBoundingClientRect()];
    row.scrollLeft += Math.min(0, inner.left - outer.left - 5) + Math.max(0, inner.right - outer.right + 5);
  }
}

function whatItCanSay({ name, labels, problem_type }: api.Model): string {
  const listed = labels.slice(0, MAX_LABELS).join(", ");
  const more = labels.length > MAX_LABELS ? ` and ${labels.length - MAX_LABELS} more` : "";
  const which = problem_type === "multi_label_classification" ? "any" : "one";
  return `For any input, ${name} returns ${which} of these labels: ${listed}${more}.`;
}

function setMode(next: Mode): void {
  mode = next;
  for (const panel of ["draw", "image", "text"] as const) {
    show(byId(`${panel}-panel`), panel === next);
  }
  for (const radio of document.querySelectorAll<HTMLInputElement>('input[name="mode"]')) {
    radio.checked = radio.value === next;
  }
  plan(0);
}

// Requests

function plan(pause: number): void {
  clearTimeout(planned);
  planned = setTimeout(() => void run(), pause);
}

async function currentInput(): Promise<api.Input | undefined> {
  switch (mode) {
    case "draw":
      if (drawing.isEmpty) {
        return undefined;
      }
      return { body: await drawing.image(), contentType: "image/png", fileName: "drawing.png" };
    case "image":
      if (unusable) {
        throw unusable;
      }
      return image;
    case "text": {
      const text = byId<HTMLTextAreaElement>("text").value;
      if (text.trim() === "") {
        return undefined;
      }
      const input: api.Input = { body: text, contentType: "text/plain" };
      return textTruth === undefined ? input : { ...input, truth: textTruth };
    }
  }
}

const EMPTY: Record<Mode, string> = {
  draw: "Draw something. The result updates as you draw.",
  image: "Choose an image or one of the examples.",
  text: "Type something or choose one of the examples.",
};

async function run(): Promise<void> {
  // Cancels the previous request, so that the server drops its work.
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const selected = model;
  try {
    const input = await currentInput();
    if (!selected || !input) {
      result.showEmpty(EMPTY[mode]);
      return;
    }
    result.showBusy(true);
    const got = await api.classify(selected.name, input, mine.signal);
    if (running === mine) {
      result.showResult(selected.name, input, got);
    }
  } catch (error) {
    if (running !== mine) {
      return;
    }
    result.showProblem(error);
    if (isKeyWanted(error)) {
      askForKey();
    }
  } finally {
    if (running === mine) {
      running = undefined;
      result.showBusy(false);
    }
  }
}

// Keys

function isKeyWanted(error: unknown): boolean {
  return error instanceof api.Refusal && error.status === 401;
}

function askForKey(): void {
  show(byId("key-wrong"), api.hasKey());
  show(byId("key-form"), true);
  byId("key").focus();
}

// Images

async function takeImage(file: File): Promise<void> {
  try {
    useImage(await fromFile(file));
  } catch (error) {
    if (!(error instanceof api.Refusal)) {
      throw error;
    }
    unusable = error;
    image = undefined;
    show(byId("preview"), false);
    byId("drop-text").textContent = file.name;
    show(byId("image-note"), false);
    showImages();
  }
}

function useImage(input: api.Input): void {
  image = input;
  unusable = undefined;
  if (previewUrl) {
    URL.revokeObjectURL(previewUrl);
  }
  const preview = byId<HTMLImageElement>("preview");
  previewUrl = URL.createObjectURL(input.body as Blob);
  preview.src = previewUrl;
  show(preview, true);
  byId("drop-text").textContent = input.fileName ?? "";
  byId("image-note").textContent = input.note ?? "";
  show(byId("image-note"), input.note !== undefined);
  showImages();
}

/** Shows the image panel, and selects an image model if a text model is selected. */
function showImages(): void {
  const taking = model?.task === "image-classification" ? undefined : models.find((one) => one.task === "image-classification");
  if (taking) {
    choose(taking);
  } else {
    setMode("image");
  }
}

function listenForImages(): void {
  for (const id of ["file", "camera"]) {
    const chooser = byId<HTMLInputElement>(id);
    chooser.addEventListener("change", () => {
      const file = chooser.files?.[0];
      // Otherwise choosing the same file again would be no change.
      chooser.value = "";
      if (file) {
        void takeImage(file);
      }
    });
  }
  document.addEventListener("paste", (event) => {
    const file = imageOf(event.clipboardData, false);
    if (file) {
      event.preventDefault();
      void takeImage(file);
    }
  });
  const veil = byId("drop-veil");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    show(veil, event.dataTransfer?.types.includes("Files") ?? false);
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) {
      show(veil, false);
    }
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    show(veil, false);
    const file = imageOf(event.dataTransfer, true);
    if (file) {
      void takeImage(file);
    }
  });
  // Shows a small image as sharp pixels, not blurred.
  byId<HTMLImageElement>("preview").addEventListener("load", (event) => {
    const image = event.currentTarget as HTMLImageElement;
    image.classList.toggle("pixels", image.naturalWidth <= 96);
  });
  // The browser cannot show this image; the server explains the error.
  byId<HTMLImageElement>("preview").addEventListener("error", () => show(byId("preview"), false));
}

// Examples

async function loadExamples(of: api.Model): Promise<void> {
  const section = byId("examples");
  show(section, false);
  try {
    const chosen = oneOfEachLabel(await api.examples(of.name)).slice(0, MAX_EXAMPLES);
    const contents = await Promise.all(chosen.map((example) => api.example(of.name, example.name)));
    const texts = await Promise.all(
      contents.map((content) => (of.task === "text-classification" ? content.text() : undefined)),
    );
    if (model !== of) {
      return;
    }
    thumbnails.forEach((thumbnail) => URL.revokeObjectURL(thumbnail));
    thumbnails = [];
    const items = chosen.map((example, at) => {
      const text = texts[at];
      const content = contents[at];
      const button = text === undefined && content ? imageExample(example, content) : textExample(example, text ?? "");
      return make("li", "", button);
    });
    const list = byId("example-list");
    list.className = of.task === "text-classification" ? "text-examples" : "image-examples";
    list.replaceChildren(...items);
    show(section, items.length > 0);
  } catch {
    // The page works without examples.
  }
}

/** The first example of each label, then the second of each, and so on. */
function oneOfEachLabel(examples: api.Example[]): api.Example[] {
  const seen = new Map<string, number>();
  const ranked = examples.map((example) => {
    const rank = seen.get(example.label) ?? 0;
    seen.set(example.label, rank + 1);
    return { example, rank };
  });
  return ranked.sort((a, b) => a.rank - b.rank).map(({ example }) => example);
}

function imageExample(example: api.Example, content: Blob): HTMLElement {
  const image = make("img", "pixels");
  const thumbnail = URL.createObjectURL(content);
  thumbnails.push(thumbnail);
  image.src = thumbnail;
  image.alt = `Example: ${example.label}`;
  const button = make("button", "thumbnail", image);
  button.type = "button";
  button.title = example.label;
  button.addEventListener("click", () =>
    useImage({ body: content, contentType: example.media_type, fileName: example.name, truth: example.label }),
  );
  return button;
}

function textExample(example: api.Example, text: string): HTMLElement {
  const button = make("button", "text-example", make("span", "tag", example.label), " ", text.slice(0, 160));
  button.type = "button";
  button.addEventListener("click", () => {
    byId<HTMLTextAreaElement>("text").value = text;
    textTruth = example.label;
    plan(0);
  });
  return button;
}

// Start

function listen(): void {
  for (const radio of document.querySelectorAll<HTMLInputElement>('input[name="mode"]')) {
    radio.addEventListener("change", () => setMode(radio.value as Mode));
  }
  byId("undo").addEventListener("click", () => drawing.undo());
  byId("clear").addEventListener("click", () => drawing.clear());
  byId("text").addEventListener("input", () => {
    textTruth = undefined;
    plan(TYPING_PAUSE);
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId<HTMLInputElement>("key");
    api.useKey(field.value);
    field.value = "";
    show(byId("key-form"), false);
    void loadModels();
  });
  listenForImages();
}

listen();
result.start();
live.start();
void loadModels();
