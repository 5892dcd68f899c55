// The drawing area: strokes by mouse, finger, pen or keyboard.

interface Point {
  x: number;
  y: number;
}

/** Width of a stroke, as a fraction of the drawing area. */
const WIDTH = 0.075;
/** Distance that an arrow key moves the pen, as a fraction of the drawing area. */
const STEP = 0.05;
/** Side of the image to send, in pixels. */
const SENT = 280;

export class Drawing {
  /** Coordinates are fractions of the drawing area, so that it can be painted at any size. */
  private strokes: Point[][] = [];
  /** The stroke of each active pointer: several fingers can draw at once. */
  private readonly open = new Map<number, Point[]>();
  private pen: Point = { x: 0.5, y: 0.3 };
  private penStroke: Point[] | undefined;
  private penShown = false;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly changed: () => void,
  ) {
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"] as const) {
      canvas.addEventListener(end, (event) => this.open.delete(event.pointerId));
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.leave());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.paint();
  }

  get isEmpty(): boolean {
    return this.strokes.length === 0;
  }

  clear(): void {
    this.strokes = [];
    this.open.clear();
    this.penStroke = undefined;
    this.touched();
  }

  undo(): void {
    this.strokes.pop();
    this.open.clear();
    this.penStroke = undefined;
    this.touched();
  }

  /** The drawing as a PNG, white on black in every theme. */
  async image(): Promise<Blob> {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SENT;
    this.paintOn(canvas, "#fff", "#000");
    return new Promise((resolve, reject) =>
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the drawing cannot be encoded"))), "image/png"),
    );
  }

  private down(event: PointerEvent): void {
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

  private move(event: PointerEvent): void {
    const stroke = this.open.get(event.pointerId);
    if (!stroke) {
      return;
    }
    // All positions of the pointer since the last frame.
    const events = event.getCoalescedEvents();
    for (const part of events.length > 0 ? events : [event]) {
      stroke.push(this.place(part));
    }
    this.touched();
  }

  private place(event: PointerEvent): Point {
    const box = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.altKey || event.metaKey) {
      return;
    }
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [-STEP, 0],
      ArrowRight: [STEP, 0],
      ArrowUp: [0, -STEP],
      ArrowDown: [0, STEP],
    };
    const move = moves[event.key];
    if (move) {
      const inside = (value: number) => Math.min(1, Math.max(0, value));
      this.pen = { x: inside(this.pen.x + move[0]), y: inside(this.pen.y + move[1]) };
      this.penStroke?.push(this.pen);
    } else if (event.key === " ") {
      if (this.penStroke) {
        this.penStroke = undefined;
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

  private leave(): void {
    this.penShown = false;
    this.penStroke = undefined;
    this.paint();
  }

  private touched(): void {
    this.paint();
    this.changed();
  }

  private paint(): void {
    const style = getComputedStyle(this.canvas);
    this.paintOn(this.canvas, style.color, style.backgroundColor);
    const context = this.canvas.getContext("2d");
    if (!this.penShown || !context) {
      return;
    }
    const side = this.canvas.width;
    context.beginPath();
    context.arc(this.pen.x * side, this.pen.y * side, (WIDTH / 2) * side, 0, 2 * Math.PI);
    context.lineWidth = 4;
    context.strokeStyle = style.outlineColor;
    context.stroke();
    if (this.penStroke) {
      context.fillStyle = style.outlineColor;
      context.fill();
    }
  }

  private paintOn(canvas: HTMLCanvasElement, ink: string, paper: string): void {
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
        // A stroke of one point is a dot.
        context.lineTo(x * side, y * side);
      }
      context.stroke();
    }
  }
}
