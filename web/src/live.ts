// The live panel: reads /metrics every two seconds while the page is visible.

import { Refusal, request } from "./api";
import { byId, make, milliseconds, show } from "./dom";
import { type Rates, type Scrape, rates, scrape } from "./metrics";

const PERIOD = 2000;
/** Seconds that each number covers. */
const WINDOW = 30;
/** Numbers in a curve, which span two minutes. */
const HISTORY = 60;

interface Tile {
  value: HTMLElement;
  line: SVGPolylineElement;
  history: number[];
}

const TILES = [
  { title: "Requests/s", read: (now: Rates) => now.requestsPerSecond, write: (value: number) => value.toFixed(1) },
  { title: "p99 latency", read: (now: Rates) => now.p99, write: (value: number) => milliseconds(value * 1000) },
  { title: "Batch size", read: (now: Rates) => now.batchSize, write: (value: number) => value.toFixed(1) },
  { title: "Queue depth", read: (now: Rates) => now.queueDepth, write: (value: number) => value.toFixed(0) },
];

export function start(): void {
  const list = byId("live");
  const tiles = TILES.map(({ title }) => tile(list, title));
  const scrapes: Scrape[] = [];
  const read = async () => {
    if (document.hidden) {
      return;
    }
    try {
      const response = await request("metrics");
      const now = scrape(await response.text(), performance.now() / 1000);
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

function say(text: string): void {
  const state = byId("live-state");
  // Only changes, for screen readers and for the layout.
  if (state.textContent !== text) {
    state.textContent = text;
  }
  show(state, text !== "");
}

function reason(error: unknown): string {
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

const SVG = "http://www.w3.org/2000/svg";

function tile(list: HTMLElement, title: string): Tile {
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

function update(tiles: Tile[], now: Rates): void {
  for (const [at, { read, write }] of TILES.entries()) {
    const tile = tiles[at];
    if (!tile) {
      continue;
    }
    const value = read(now);
    tile.value.textContent = value === undefined ? "–" : write(value);
    tile.history.push(value ?? 0);
    if (tile.history.length > HISTORY) {
      tile.history.shift();
    }
    const top = Math.max(...tile.history, 1e-9);
    const right = HISTORY - tile.history.length;
    const points = tile.history.map((value, x) => `${right + x},${(19 - (value / top) * 18).toFixed(2)}`);
    tile.line.setAttribute("points", points.join(" "));
  }
}
