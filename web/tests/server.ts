// Starts the server under test and a browser.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { type BrowserContext, type BrowserContextOptions, type Page, chromium } from "playwright-core";

/** `npm test` runs in web/. */
export const ROOT = path.resolve("..");

const BINARY = process.env["CLASSIFYD_BINARY"] ?? path.join(ROOT, "target/debug/classifyd");

export class Server {
  private constructor(
    private readonly child: ChildProcess,
    /** Ends with a slash. */
    readonly url: string,
  ) {}

  /** Starts `classifyd serve` on a free port, by default with the configuration of `make serve`. */
  static async start(options: string[] = [], config = path.join(ROOT, "classifyd.toml")): Promise<Server> {
    if (!existsSync(BINARY)) {
      throw new Error(`${BINARY} does not exist: run \`cargo build\`, or set CLASSIFYD_BINARY`);
    }
    const child = spawn(BINARY, ["serve", "--config", config, "--listen", "127.0.0.1:0", "--log-format", "json", ...options], {
      cwd: ROOT,
      env: environment(),
      stdio: ["ignore", "ignore", "pipe"],
    });
    const lines: string[] = [];
    for await (const line of createInterface({ input: child.stderr })) {
      lines.push(line);
      const entry = parse(line);
      if (entry["message"] === "ready") {
        // Keeps reading, because the server would block on a full pipe.
        child.stderr.resume();
        return new Server(child, `http://${String(entry["address"])}/`);
      }
    }
    throw new Error(`the server did not become ready:\n${lines.join("\n")}`);
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null) {
      const ended = new Promise((resolve) => this.child.once("exit", resolve));
      this.child.kill("SIGINT");
      await ended;
    }
  }
}

/** Makes an API key with the binary; returns the key and its entry for the configuration. */
export function makeKey(): { key: string; entry: string } {
  const { stdout, stderr } = spawnSync(BINARY, ["api-key", "test"], { cwd: ROOT, env: environment(), encoding: "utf8" });
  return { key: stderr.trim().split("\n").at(-1) ?? "", entry: stdout };
}

/** The environment without variables that would configure the server. */
function environment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("CLASSIFYD_")));
}

function parse(line: string): Record<string, unknown> {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return {};
  }
}

export class Chromium {
  private constructor(
    private readonly context: BrowserContext,
    private readonly profile: string,
  ) {}

  /** A browser with its own profile that contacts only the page's server. */
  static async start(options: BrowserContextOptions = {}): Promise<Chromium> {
    const profile = await mkdtemp(path.join(tmpdir(), "classifyd-chromium-"));
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
      ...options,
    });
    return new Chromium(context, profile);
  }

  /** Opens a page and records its console errors and requests. */
  async open(): Promise<Watched> {
    return new Watched(await this.context.newPage());
  }

  async stop(): Promise<void> {
    await this.context.close();
    await rm(this.profile, { recursive: true, force: true });
  }
}

export class Watched {
  readonly complaints: string[] = [];
  readonly requests: string[] = [];

  constructor(readonly page: Page) {
    // Generous, for a busy machine.
    page.setDefaultTimeout(20_000);
    page.on("console", (message) => {
      // Chromium logs such a line for every unsuccessful response, which some tests provoke.
      if (["error", "warning"].includes(message.type()) && !message.text().startsWith("Failed to load resource")) {
        this.complaints.push(message.text());
      }
    });
    page.on("pageerror", (error) => this.complaints.push(error.message));
    page.on("request", (request) => this.requests.push(request.url()));
  }

  /** Requests to anything but this server. */
  outside(server: Server): string[] {
    return this.requests.filter((url) => !url.startsWith(server.url) && !/^(blob|data):/.test(url));
  }
}
