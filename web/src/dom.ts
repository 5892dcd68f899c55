// Small helpers for the DOM.

/** The element with this id. Throws if there is none. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (!element) {
    throw new Error(`no element #${id}`);
  }
  return element as T;
}

/** Creates an element with text or children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

export function show(element: HTMLElement, visible: boolean): void {
  element.hidden = !visible;
}

export function percent(score: number): string {
  const value = score * 100;
  // 100 % would claim more certainty than the model has.
  if (value > 99.99 && value < 100) {
    return "> 99.99 %";
  }
  // 0 % would claim that the model rules the label out.
  if (value < 0.01) {
    return "< 0.01 %";
  }
  return `${value === 100 ? "100" : value >= 99.9 || value < 10 ? value.toFixed(2) : value.toFixed(1)} %`;
}

export function milliseconds(value: number): string {
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}
