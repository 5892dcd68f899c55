// The playground: a model, an input, and the answer as the input changes.

import * as answer from "./answer";
import * as api from "./api";
import { byId, make, show } from "./dom";
import { Drawing } from "./drawing";
import * as live from "./live";
import { fromFile, pictureOf } from "./picture";

/** Milliseconds between a change and its request. */
const DRAWING_PAUSE = 120;
const TYPING_PAUSE = 250;
/** Pictures and texts shown as examples. */
const MAX_EXAMPLES = 10;
/** Labels that are listed. */
const MAX_LABELS = 30;

type Mode = "draw" | "picture" | "text";

let models: api.Model[] = [];
let model: api.Model | undefined;
let mode: Mode = "draw";
/** The last picture that was chosen, classified again when the model changes. */
let picture: api.Input | undefined;
/** Why the last file that was given cannot be classified. */
let unusable: api.Refusal | undefined;
/** Set while the text is that of an example. */
let textTruth: string | undefined;
let running: AbortController | undefined;
let planned: ReturnType<typeof setTimeout> | undefined;
/** Thumbnails that are shown. */
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
      state.textContent = "The models are shown when the key is there.";
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
  const kind = candidate.task === "text-classification" ? "Texts" : "Pictures";
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
  // Digits and letters can be drawn; a horse is better photographed.
  const drawable = next.labels.every((label) => label.length === 1);
  setMode(takesText ? "text" : picture || unusable ? "picture" : drawable ? "draw" : "picture");
  void loadExamples(next);
}

/** Scrolls a row sideways until this part of it is seen; the page itself stays where it is. */
function revealIn(row: HTMLElement, part: Element | null): void {
  if (part) {
    const [outer, inner] = [row.getBoundingClientRect(), part.getBoundingClientRect()];
    row.scrollLeft += Math.min(0, inner.left - outer.left - 5) + Math.max(0, inner.right - outer.right + 5);
  }
}

/** A model knows its labels and nothing else, whatever it is shown. */
function whatItCanSay({ name, labels, problem_type }: api.Model): string {
  const listed = labels.slice(0, MAX_LABELS).join(", ");
  const more = labels.length > MAX_LABELS ? ` and ${labels.length - MAX_LABELS} more` : "";
  const which = problem_type === "multi_label_classification" ? "any" : "one";
  return `Whatever it is given, ${name} says ${which} of: ${listed}${more}.`;
}

function setMode(next: Mode): void {
  mode = next;
  for (const panel of ["draw", "picture", "text"] as const) {
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
      return { body: await drawing.picture(), contentType: "image/png", fileName: "drawing.png" };
    case "picture":
      if (unusable) {
        throw unusable;
      }
      return picture;
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
  draw: "Draw something, and the answer comes as you draw.",
  picture: "Choose a picture, or one of the examples.",
  text: "Type something, or choose one of the examples.",
};

async function run(): Promise<void> {
  // What was asked before is of no interest any more, and the server is told so.
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const asked = model;
  try {
    const input = await currentInput();
    if (!asked || !input) {
      answer.showEmpty(EMPTY[mode]);
      return;
    }
    answer.showBusy(true);
    const got = await api.classify(asked.name, input, mine.signal);
    if (running === mine) {
      answer.showAnswer(asked.name, input, got);
    }
  } catch (error) {
    if (running !== mine) {
      return;
    }
    answer.showProblem(error);
    if (isKeyWanted(error)) {
      askForKey();
    }
  } finally {
    if (running === mine) {
      running = undefined;
      answer.showBusy(false);
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

// Pictures

async function takePicture(file: File): Promise<void> {
  try {
    usePicture(await fromFile(file));
  } catch (error) {
    if (!(error instanceof api.Refusal)) {
      throw error;
    }
    unusable = error;
    picture = undefined;
    show(byId("preview"), false);
    byId("drop-text").textContent = file.name;
    show(byId("picture-note"), false);
    toPictures();
  }
}

function usePicture(input: api.Input): void {
  picture = input;
  unusable = undefined;
  if (previewUrl) {
    URL.revokeObjectURL(previewUrl);
  }
  const preview = byId<HTMLImageElement>("preview");
  previewUrl = URL.createObjectURL(input.body as Blob);
  preview.src = previewUrl;
  show(preview, true);
  byId("drop-text").textContent = input.fileName ?? "";
  byId("picture-note").textContent = input.note ?? "";
  show(byId("picture-note"), input.note !== undefined);
  toPictures();
}

/** A picture is for a model that takes pictures. */
function toPictures(): void {
  const taking = model?.task === "image-classification" ? undefined : models.find((one) => one.task === "image-classification");
  if (taking) {
    choose(taking);
  } else {
    setMode("picture");
  }
}

function listenForPictures(): void {
  for (const id of ["file", "camera"]) {
    const chooser = byId<HTMLInputElement>(id);
    chooser.addEventListener("change", () => {
      const file = chooser.files?.[0];
      // The same file chosen again is a change again.
      chooser.value = "";
      if (file) {
        void takePicture(file);
      }
    });
  }
  document.addEventListener("paste", (event) => {
    const file = pictureOf(event.clipboardData, false);
    if (file) {
      event.preventDefault();
      void takePicture(file);
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
    const file = pictureOf(event.dataTransfer, true);
    if (file) {
      void takePicture(file);
    }
  });
  // A small picture is shown as its pixels, not as a blur.
  byId<HTMLImageElement>("preview").addEventListener("load", (event) => {
    const image = event.currentTarget as HTMLImageElement;
    image.classList.toggle("pixels", image.naturalWidth <= 96);
  });
  // It cannot be shown here; the server says the rest.
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
      const button = text === undefined && content ? pictureExample(example, content) : textExample(example, text ?? "");
      return make("li", "", button);
    });
    const list = byId("example-list");
    list.className = of.task === "text-classification" ? "text-examples" : "picture-examples";
    list.replaceChildren(...items);
    show(section, items.length > 0);
  } catch {
    // The page works without them.
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

function pictureExample(example: api.Example, content: Blob): HTMLElement {
  const image = make("img", "pixels");
  const thumbnail = URL.createObjectURL(content);
  thumbnails.push(thumbnail);
  image.src = thumbnail;
  image.alt = `Example: ${example.label}`;
  const button = make("button", "thumbnail", image);
  button.type = "button";
  button.title = example.label;
  button.addEventListener("click", () =>
    usePicture({ body: content, contentType: example.media_type, fileName: example.name, truth: example.label }),
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
  listenForPictures();
}

listen();
answer.start();
live.start();
void loadModels();
