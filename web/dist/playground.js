// src/api.ts
var Refusal = class extends Error {
  constructor(status, title, detail, code, requestId, retryAfter) {
    super(title);
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.code = code;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
  status;
  title;
  detail;
  code;
  requestId;
  retryAfter;
};
var key;
function useKey(value) {
  key = value;
}
function hasKey() {
  return key !== void 0;
}
var TOP_K = 5;
function url(path) {
  return new URL(path, document.baseURI);
}
function classifyPath(model2) {
  return `v1/classify?model=${encodeURIComponent(model2)}&top_k=${TOP_K}`;
}
async function request(path, init = {}) {
  const headers = new Headers(init.headers);
  if (key !== void 0) {
    headers.set("Authorization", `Bearer ${key}`);
  }
  let response;
  try {
    response = await fetch(url(path), { ...init, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") {
      throw error;
    }
    const detail = "The server did not respond. Is it running, and are you connected?";
    throw new Refusal(0, "The server cannot be reached", detail, void 0, void 0, void 0);
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}
async function refusal(response) {
  let problem = {};
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    problem = await response.json();
  }
  return new Refusal(
    response.status,
    problem.title ?? `The server returned ${response.status} ${response.statusText}`.trim(),
    problem.detail ?? "The server gave no reason.",
    problem.code,
    problem.request_id ?? response.headers.get("X-Request-Id") ?? void 0,
    response.headers.get("Retry-After") ?? void 0
  );
}
async function models() {
  const response = await request("v1/models");
  return (await response.json()).models;
}
function examplesPath(model2) {
  return `v1/models/${encodeURIComponent(model2)}/examples`;
}
async function examples(model2) {
  const response = await request(examplesPath(model2));
  return (await response.json()).examples;
}
async function example(model2, name) {
  const response = await request(`${examplesPath(model2)}/${encodeURIComponent(name)}`);
  return response.blob();
}
async function classify(model2, input, signal) {
  const started = performance.now();
  const response = await request(classifyPath(model2), {
    method: "POST",
    headers: { "Content-Type": input.contentType },
    body: input.body,
    signal
  });
  const text = await response.text();
  return {
    classification: JSON.parse(text),
    text,
    timing: serverTiming(response.headers.get("Server-Timing")),
    total: performance.now() - started
  };
}
function serverTiming(header) {
  const durations = /* @__PURE__ */ new Map();
  for (const metric of (header ?? "").split(",")) {
    const [name, ...parameters] = metric.split(";").map((part) => part.trim());
    const duration = parameters.find((parameter) => parameter.startsWith("dur="));
    if (name && duration) {
      durations.set(name, Number(duration.slice("dur=".length)));
    }
  }
  const [decode, queue, inference] = ["decode", "queue", "inference"].map((name) => durations.get(name));
  if (decode === void 0 || queue === void 0 || inference === void 0) {
    return void 0;
  }
  return { decode, queue, inference };
}

// src/curl.ts
function quote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
function curl(request2) {
  const options = [`-H ${quote(`Content-Type: ${request2.contentType}`)}`];
  if (request2.withKey) {
    options.push(`-H "Authorization: Bearer $CLASSIFYD_API_KEY"`);
  }
  options.push("text" in request2.body ? `--data-raw ${quote(request2.body.text)}` : `--data-binary ${quote(`@${request2.body.file}`)}`);
  return `curl ${[quote(request2.url), ...options].join(" \\\n  ")}`;
}

// src/dom.ts
function byId(id) {
  const element = document.getElementById(id);
  if (!element) {
    throw new Error(`no element #${id}`);
  }
  return element;
}
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}
function show(element, visible) {
  element.hidden = !visible;
}
function percent(score) {
  const value = score * 100;
  if (value > 99.99 && value < 100) {
    return "> 99.99 %";
  }
  if (value < 0.01) {
    return "< 0.01 %";
  }
  return `${value === 100 ? "100" : value >= 99.9 || value < 10 ? value.toFixed(2) : value.toFixed(1)} %`;
}
function milliseconds(value) {
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

// src/result.ts
var CALM = 700;
var announcing;
var savedUrl;
function showEmpty(text) {
  byId("empty").textContent = text;
  show(byId("empty"), true);
  show(byId("result"), false);
  show(byId("problem"), false);
  show(byId("wire"), false);
  byId("result-model").textContent = "";
  byId("echo").textContent = "";
  clearTimeout(announcing);
}
function showBusy(busy) {
  byId("result").setAttribute("aria-busy", String(busy));
}
function showResult(model2, input, response) {
  const result = response.classification.results[0];
  if (!result) {
    return;
  }
  show(byId("empty"), false);
  show(byId("problem"), false);
  byId("result-model").textContent = `${response.classification.model}, version ${response.classification.version}`;
  byId("label").textContent = result.label;
  byId("score").textContent = percent(result.score);
  byId("echo").textContent = `${result.label} · ${percent(result.score)}`;
  const { truth } = input;
  byId("truth").textContent = truth === void 0 ? "" : truth === result.label ? `True label: ${truth}. Correct.` : `True label: ${truth}. Wrong.`;
  show(byId("truth"), truth !== void 0);
  show(byId("truncated"), result.truncated === true);
  byId("bars").replaceChildren(...result.top.map(({ label, score }) => bar(label, score)));
  showTiming(response);
  showRequest(model2, input);
  byId("json").textContent = JSON.stringify(response.classification, void 0, 2);
  show(byId("result"), true);
  announce(`${result.label}, ${percent(result.score)}`);
}
function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    byId("announcement").textContent = text;
  }, CALM);
}
function bar(label, score) {
  const fill = make("span", "bar-fill");
  fill.style.setProperty("--score", String(score));
  const track = make("span", "bar-track", fill);
  track.setAttribute("aria-hidden", "true");
  return make("li", "bar", make("span", "bar-label", label), track, make("span", "bar-score", percent(score)));
}
function showTiming({ timing, total }) {
  const parts = [];
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
    })
  );
  byId("timing").replaceChildren(
    ...parts.map(
      ([kind, name, duration]) => make("div", `part ${kind}`, make("dt", "", name), make("dd", "", milliseconds(duration)))
    )
  );
}
function showRequest(model2, input) {
  const body = typeof input.body === "string" ? { text: input.body } : { file: input.fileName ?? "image.png" };
  const { contentType } = input;
  byId("curl").textContent = curl({ url: url(classifyPath(model2)).href, contentType, body, withKey: hasKey() });
  if (savedUrl) {
    URL.revokeObjectURL(savedUrl);
    savedUrl = void 0;
  }
  if (input.body instanceof Blob) {
    savedUrl = URL.createObjectURL(input.body);
    const save = byId("save");
    save.href = savedUrl;
    save.download = input.fileName ?? "image.png";
    byId("save-name").textContent = save.download;
  }
  show(byId("save-line"), input.body instanceof Blob);
  show(byId("wire"), true);
}
function showProblem(error) {
  const problem = error instanceof Refusal ? error : new Refusal(0, "Error in this page", String(error), void 0, void 0, void 0);
  byId("problem-title").textContent = problem.title;
  byId("problem-detail").textContent = problem.detail;
  const notes = [];
  if (problem.retryAfter !== void 0) {
    notes.push(`Try again in ${problem.retryAfter} s`);
  }
  if (problem.code !== void 0) {
    notes.push(`${problem.status} ${problem.code}`);
  }
  if (problem.requestId !== void 0) {
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
function start() {
  const copy = byId("copy");
  copy.addEventListener("click", () => {
    void copyText(byId("curl")).then((copied) => {
      copy.textContent = copied ? "Copied" : "Press Ctrl+C to copy";
      setTimeout(() => copy.textContent = "Copy", 2e3);
    });
  });
}
async function copyText(element) {
  try {
    await navigator.clipboard.writeText(element.textContent ?? "");
    return true;
  } catch {
    getSelection()?.selectAllChildren(element);
    return false;
  }
}

// src/drawing.ts
var WIDTH = 0.075;
var STEP = 0.05;
var SENT = 280;
var Drawing = class {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.open.delete(event.pointerId));
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.leave());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.paint();
  }
  canvas;
  changed;
  /** Coordinates are fractions of the drawing area, so that it can be painted at any size. */
  strokes = [];
  /** The stroke of each active pointer: several fingers can draw at once. */
  open = /* @__PURE__ */ new Map();
  pen = { x: 0.5, y: 0.3 };
  penStroke;
  penShown = false;
  get isEmpty() {
    return this.strokes.length === 0;
  }
  clear() {
    this.strokes = [];
    this.open.clear();
    this.penStroke = void 0;
    this.touched();
  }
  undo() {
    this.strokes.pop();
    this.open.clear();
    this.penStroke = void 0;
    this.touched();
  }
  /** The drawing as a PNG, white on black in every theme. */
  async image() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SENT;
    this.paintOn(canvas, "#fff", "#000");
    return new Promise(
      (resolve, reject) => canvas.toBlob((blob) => blob ? resolve(blob) : reject(new Error("the drawing cannot be encoded")), "image/png")
    );
  }
  down(event) {
    if (event.button !== 0) {
      return;
    }
    this.canvas.setPointerCapture(event.pointerId);
    this.penShown = false;
    const stroke = [this.place(event)];
    this.open.set(event.pointerId, stroke);
    this.strokes.push(stroke);
    this.touched();
  }
  move(event) {
    const stroke = this.open.get(event.pointerId);
    if (!stroke) {
      return;
    }
    const events = event.getCoalescedEvents();
    for (const part of events.length > 0 ? events : [event]) {
      stroke.push(this.place(part));
    }
    this.touched();
  }
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }
  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) {
      return;
    }
    const moves = {
      ArrowLeft: [-STEP, 0],
      ArrowRight: [STEP, 0],
      ArrowUp: [0, -STEP],
      ArrowDown: [0, STEP]
    };
    const move = moves[event.key];
    if (move) {
      const inside = (value) => Math.min(1, Math.max(0, value));
      this.pen = { x: inside(this.pen.x + move[0]), y: inside(this.pen.y + move[1]) };
      this.penStroke?.push(this.pen);
    } else if (event.key === " ") {
      if (this.penStroke) {
        this.penStroke = void 0;
      } else {
        this.penStroke = [this.pen];
        this.strokes.push(this.penStroke);
      }
    } else {
      return;
    }
    event.preventDefault();
    this.penShown = true;
    if (this.penStroke) {
      this.touched();
    } else {
      this.paint();
    }
  }
  leave() {
    this.penShown = false;
    this.penStroke = void 0;
    this.paint();
  }
  touched() {
    this.paint();
    this.changed();
  }
  paint() {
    const style = getComputedStyle(this.canvas);
    this.paintOn(this.canvas, style.color, style.backgroundColor);
    const context = this.canvas.getContext("2d");
    if (!this.penShown || !context) {
      return;
    }
    const side = this.canvas.width;
    context.beginPath();
    context.arc(this.pen.x * side, this.pen.y * side, WIDTH / 2 * side, 0, 2 * Math.PI);
    context.lineWidth = 4;
    context.strokeStyle = style.outlineColor;
    context.stroke();
    if (this.penStroke) {
      context.fillStyle = style.outlineColor;
      context.fill();
    }
  }
  paintOn(canvas, ink, paper) {
    const context = canvas.getContext("2d");
    if (!context) {
      return;
    }
    const side = canvas.width;
    context.fillStyle = paper;
    context.fillRect(0, 0, side, side);
    context.strokeStyle = ink;
    context.lineWidth = WIDTH * side;
    context.lineCap = context.lineJoin = "round";
    for (const stroke of this.strokes) {
      context.beginPath();
      for (const [at, { x, y }] of stroke.entries()) {
        if (at === 0) {
          context.moveTo(x * side, y * side);
        }
        context.lineTo(x * side, y * side);
      }
      context.stroke();
    }
  }
};

// src/metrics.ts
function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    if (!match || !match[1] || !match[3]) {
      continue;
    }
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
      if (name !== void 0 && value !== void 0) {
        labels[name] = value.replace(/\\(.)/g, (_, escaped) => escaped === "n" ? "\n" : escaped);
      }
    }
    const written = match[3];
    samples.push({ name: match[1], labels, value: written === "+Inf" ? Infinity : Number(written) });
  }
  return samples;
}
var ROUTE = "/v1/classify";
function scrape(text, time) {
  const samples = parse(text);
  const sum = (name, keep = () => true) => samples.reduce((total, sample) => sample.name === name && keep(sample.labels) ? total + sample.value : total, 0);
  const durations = /* @__PURE__ */ new Map();
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
    queueDepth: sum("classifyd_queue_depth")
  };
}
function rates(before, after) {
  const restarted = after.requests < before.requests;
  const since = (value, earlier) => restarted ? value : value - earlier;
  const batches = since(after.batches, before.batches);
  const durations = [...after.durations].sort(([a], [b]) => a - b).map(([bound, count]) => [bound, since(count, before.durations.get(bound) ?? 0)]);
  return {
    requestsPerSecond: since(after.requests, before.requests) / Math.max(after.time - before.time, 1e-3),
    p99: quantile(0.99, durations),
    batchSize: batches > 0 ? since(after.batchedInputs, before.batchedInputs) / batches : void 0,
    queueDepth: after.queueDepth
  };
}
function quantile(q, buckets) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) {
    return void 0;
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

// src/live.ts
var PERIOD = 2e3;
var WINDOW = 30;
var HISTORY = 60;
var TILES = [
  { title: "Requests/s", read: (now) => now.requestsPerSecond, write: (value) => value.toFixed(1) },
  { title: "p99 latency", read: (now) => now.p99, write: (value) => milliseconds(value * 1e3) },
  { title: "Batch size", read: (now) => now.batchSize, write: (value) => value.toFixed(1) },
  { title: "Queue depth", read: (now) => now.queueDepth, write: (value) => value.toFixed(0) }
];
function start2() {
  const list = byId("live");
  const tiles = TILES.map(({ title }) => tile(list, title));
  const scrapes = [];
  const read = async () => {
    if (document.hidden) {
      return;
    }
    try {
      const response = await request("metrics");
      const now = scrape(await response.text(), performance.now() / 1e3);
      scrapes.push(now);
      while (scrapes.length > 2 && scrapes[1] && now.time - scrapes[1].time >= WINDOW) {
        scrapes.shift();
      }
      const first = scrapes[0];
      if (first && first !== now) {
        update(tiles, rates(first, now));
      }
      show(list, scrapes.length > 1);
      say(scrapes.length > 1 ? "" : "Loading the metrics…");
    } catch (error) {
      show(list, false);
      say(reason(error));
    }
  };
  const loop = async () => {
    await read();
    setTimeout(() => void loop(), PERIOD);
  };
  void loop();
}
function say(text) {
  const state = byId("live-state");
  if (state.textContent !== text) {
    state.textContent = text;
  }
  show(state, text !== "");
}
function reason(error) {
  if (error instanceof Refusal) {
    if (error.status === 404) {
      return "This address does not serve metrics.";
    }
    if (error.status === 401 || error.status === 403) {
      return "The metrics require an API key.";
    }
    return `${error.title}. ${error.detail}`;
  }
  return "The metrics cannot be loaded.";
}
var SVG = "http://www.w3.org/2000/svg";
function tile(list, title) {
  const value = make("dd", "tile-value", "–");
  const line = document.createElementNS(SVG, "polyline");
  const curve = document.createElementNS(SVG, "svg");
  curve.setAttribute("viewBox", `0 0 ${HISTORY - 1} 20`);
  curve.setAttribute("preserveAspectRatio", "none");
  curve.setAttribute("aria-hidden", "true");
  curve.append(line);
  const drawn = make("dd", "tile-curve");
  drawn.setAttribute("aria-hidden", "true");
  drawn.append(curve);
  list.append(make("div", "tile", make("dt", "", title), value, drawn));
  return { value, line, history: [] };
}
function update(tiles, now) {
  for (const [at, { read, write }] of TILES.entries()) {
    const tile2 = tiles[at];
    if (!tile2) {
      continue;
    }
    const value = read(now);
    tile2.value.textContent = value === void 0 ? "–" : write(value);
    tile2.history.push(value ?? 0);
    if (tile2.history.length > HISTORY) {
      tile2.history.shift();
    }
    const top = Math.max(...tile2.history, 1e-9);
    const right = HISTORY - tile2.history.length;
    const points = tile2.history.map((value2, x) => `${right + x},${(19 - value2 / top * 18).toFixed(2)}`);
    tile2.line.setAttribute("points", points.join(" "));
  }
}

// src/image.ts
var SENT_AS_IT_IS = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
var MAX_BYTES = 2 * 1024 * 1024;
var MAX_SIDE = 1024;
var ADVICE = "Choose a PNG, JPEG, WebP, GIF or BMP file.";
function refusal2(title, detail) {
  return new Refusal(0, title, detail, void 0, void 0, void 0);
}
async function fromFile(file) {
  const contentType = file.type || "image/png";
  if (!contentType.startsWith("image/")) {
    throw refusal2("Not an image", `This model classifies images, and ${file.name} is not one. ${ADVICE}`);
  }
  const asItIs = { body: file, contentType, fileName: file.name || "image.png" };
  if (SENT_AS_IT_IS.includes(contentType) && file.size <= MAX_BYTES) {
    return asItIs;
  }
  let image2;
  try {
    image2 = await createImageBitmap(file);
  } catch {
    if (!SENT_AS_IT_IS.includes(contentType)) {
      throw refusal2("Unsupported image format", `Neither this browser nor the server can read ${file.name}. ${ADVICE}`);
    }
    return asItIs;
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(image2.width, image2.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image2.width * scale));
  canvas.height = Math.max(1, Math.round(image2.height * scale));
  canvas.getContext("2d")?.drawImage(image2, 0, 0, canvas.width, canvas.height);
  image2.close();
  const body = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  if (!body) {
    return asItIs;
  }
  const fileName = `${file.name.replace(/\.[^.]*$/, "") || "image"}.jpg`;
  const note = `Resized in this browser and sent as a JPEG of ${canvas.width} × ${canvas.height} pixels.`;
  return { body, contentType: "image/jpeg", fileName, note };
}
function imageOf(transfer, anyFile) {
  const files = [...transfer?.files ?? []];
  return files.find((file) => file.type.startsWith("image/")) ?? (anyFile ? files[0] : void 0);
}

// src/playground.ts
var DRAWING_PAUSE = 120;
var TYPING_PAUSE = 250;
var MAX_EXAMPLES = 10;
var MAX_LABELS = 30;
var models2 = [];
var model;
var mode = "draw";
var image;
var unusable;
var textTruth;
var running;
var planned;
var thumbnails = [];
var previewUrl;
var drawing = new Drawing(byId("canvas"), () => plan(DRAWING_PAUSE));
async function loadModels() {
  const state = byId("models-state");
  try {
    models2 = await models();
  } catch (error) {
    if (isKeyWanted(error)) {
      state.textContent = "Enter the key to see the models.";
      askForKey();
    } else {
      state.textContent = error instanceof Refusal ? `${error.title}. ${error.detail}` : String(error);
    }
    return;
  }
  show(state, false);
  show(byId("key-form"), false);
  byId("models").replaceChildren(...models2.map(modelCard));
  const first = models2[0];
  if (first) {
    choose(first);
  }
}
function modelCard(candidate) {
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
function choose(next) {
  model = next;
  for (const radio of document.querySelectorAll('input[name="model"]')) {
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
  const drawable = next.labels.every((label) => label.length === 1);
  setMode(takesText ? "text" : image || unusable ? "image" : drawable ? "draw" : "image");
  void loadExamples(next);
}
function revealIn(row, part) {
  if (part) {
    const [outer, inner] = [row.getBoundingClientRect(), part.getBoundingClientRect()];
    row.scrollLeft += Math.min(0, inner.left - outer.left - 5) + Math.max(0, inner.right - outer.right + 5);
  }
}
function whatItCanSay({ name, labels, problem_type }) {
  const listed = labels.slice(0, MAX_LABELS).join(", ");
  const more = labels.length > MAX_LABELS ? ` and ${labels.length - MAX_LABELS} more` : "";
  const which = problem_type === "multi_label_classification" ? "any" : "one";
  return `For any input, ${name} returns ${which} of these labels: ${listed}${more}.`;
}
function setMode(next) {
  mode = next;
  for (const panel of ["draw", "image", "text"]) {
    show(byId(`${panel}-panel`), panel === next);
  }
  for (const radio of document.querySelectorAll('input[name="mode"]')) {
    radio.checked = radio.value === next;
  }
  plan(0);
}
function plan(pause) {
  clearTimeout(planned);
  planned = setTimeout(() => void run(), pause);
}
async function currentInput() {
  switch (mode) {
    case "draw":
      if (drawing.isEmpty) {
        return void 0;
      }
      return { body: await drawing.image(), contentType: "image/png", fileName: "drawing.png" };
    case "image":
      if (unusable) {
        throw unusable;
      }
      return image;
    case "text": {
      const text = byId("text").value;
      if (text.trim() === "") {
        return void 0;
      }
      const input = { body: text, contentType: "text/plain" };
      return textTruth === void 0 ? input : { ...input, truth: textTruth };
    }
  }
}
var EMPTY = {
  draw: "Draw something. The result updates as you draw.",
  image: "Choose an image or one of the examples.",
  text: "Type something or choose one of the examples."
};
async function run() {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const selected = model;
  try {
    const input = await currentInput();
    if (!selected || !input) {
      showEmpty(EMPTY[mode]);
      return;
    }
    showBusy(true);
    const got = await classify(selected.name, input, mine.signal);
    if (running === mine) {
      showResult(selected.name, input, got);
    }
  } catch (error) {
    if (running !== mine) {
      return;
    }
    showProblem(error);
    if (isKeyWanted(error)) {
      askForKey();
    }
  } finally {
    if (running === mine) {
      running = void 0;
      showBusy(false);
    }
  }
}
function isKeyWanted(error) {
  return error instanceof Refusal && error.status === 401;
}
function askForKey() {
  show(byId("key-wrong"), hasKey());
  show(byId("key-form"), true);
  byId("key").focus();
}
async function takeImage(file) {
  try {
    useImage(await fromFile(file));
  } catch (error) {
    if (!(error instanceof Refusal)) {
      throw error;
    }
    unusable = error;
    image = void 0;
    show(byId("preview"), false);
    byId("drop-text").textContent = file.name;
    show(byId("image-note"), false);
    showImages();
  }
}
function useImage(input) {
  image = input;
  unusable = void 0;
  if (previewUrl) {
    URL.revokeObjectURL(previewUrl);
  }
  const preview = byId("preview");
  previewUrl = URL.createObjectURL(input.body);
  preview.src = previewUrl;
  show(preview, true);
  byId("drop-text").textContent = input.fileName ?? "";
  byId("image-note").textContent = input.note ?? "";
  show(byId("image-note"), input.note !== void 0);
  showImages();
}
function showImages() {
  const taking = model?.task === "image-classification" ? void 0 : models2.find((one) => one.task === "image-classification");
  if (taking) {
    choose(taking);
  } else {
    setMode("image");
  }
}
function listenForImages() {
  for (const id of ["file", "camera"]) {
    const chooser = byId(id);
    chooser.addEventListener("change", () => {
      const file = chooser.files?.[0];
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
  byId("preview").addEventListener("load", (event) => {
    const image2 = event.currentTarget;
    image2.classList.toggle("pixels", image2.naturalWidth <= 96);
  });
  byId("preview").addEventListener("error", () => show(byId("preview"), false));
}
async function loadExamples(of) {
  const section = byId("examples");
  show(section, false);
  try {
    const chosen = oneOfEachLabel(await examples(of.name)).slice(0, MAX_EXAMPLES);
    const contents = await Promise.all(chosen.map((example2) => example(of.name, example2.name)));
    const texts = await Promise.all(
      contents.map((content) => of.task === "text-classification" ? content.text() : void 0)
    );
    if (model !== of) {
      return;
    }
    thumbnails.forEach((thumbnail) => URL.revokeObjectURL(thumbnail));
    thumbnails = [];
    const items = chosen.map((example2, at) => {
      const text = texts[at];
      const content = contents[at];
      const button = text === void 0 && content ? imageExample(example2, content) : textExample(example2, text ?? "");
      return make("li", "", button);
    });
    const list = byId("example-list");
    list.className = of.task === "text-classification" ? "text-examples" : "image-examples";
    list.replaceChildren(...items);
    show(section, items.length > 0);
  } catch {
  }
}
function oneOfEachLabel(examples2) {
  const seen = /* @__PURE__ */ new Map();
  const ranked = examples2.map((example2) => {
    const rank = seen.get(example2.label) ?? 0;
    seen.set(example2.label, rank + 1);
    return { example: example2, rank };
  });
  return ranked.sort((a, b) => a.rank - b.rank).map(({ example: example2 }) => example2);
}
function imageExample(example2, content) {
  const image2 = make("img", "pixels");
  const thumbnail = URL.createObjectURL(content);
  thumbnails.push(thumbnail);
  image2.src = thumbnail;
  image2.alt = `Example: ${example2.label}`;
  const button = make("button", "thumbnail", image2);
  button.type = "button";
  button.title = example2.label;
  button.addEventListener(
    "click",
    () => useImage({ body: content, contentType: example2.media_type, fileName: example2.name, truth: example2.label })
  );
  return button;
}
function textExample(example2, text) {
  const button = make("button", "text-example", make("span", "tag", example2.label), " ", text.slice(0, 160));
  button.type = "button";
  button.addEventListener("click", () => {
    byId("text").value = text;
    textTruth = example2.label;
    plan(0);
  });
  return button;
}
function listen() {
  for (const radio of document.querySelectorAll('input[name="mode"]')) {
    radio.addEventListener("change", () => setMode(radio.value));
  }
  byId("undo").addEventListener("click", () => drawing.undo());
  byId("clear").addEventListener("click", () => drawing.clear());
  byId("text").addEventListener("input", () => {
    textTruth = void 0;
    plan(TYPING_PAUSE);
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId("key");
    useKey(field.value);
    field.value = "";
    show(byId("key-form"), false);
    void loadModels();
  });
  listenForImages();
}
listen();
start();
start2();
void loadModels();
