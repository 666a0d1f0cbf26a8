// Three linked planes of a scan with the mask over them.

import { PLANES, flipped, pixelsOf } from "./planes.js";

const WHEEL_PIXELS = 30;
const MANY = 10;
const ARROWS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};

function element(name, className, attributes = {}) {
  const made = document.createElement(name);
  made.className = className;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export class Viewer {
  volume = null;
  mask = null; // {index, volume}
  table = [null];
  opacity = 0.65;
  window = [0, 1];
  at = [0, 0, 0]; // cross-hair, LPS voxel

  // moved(at): after each move of the cross-hair. windowed(window): after a drag for the window.
  constructor(root, { moved, windowed }) {
    this.moved = moved;
    this.windowed = windowed;
    this.views = PLANES.map((plane) => this.#view(root, plane));
  }

  show(volume, window) {
    const other = !this.volume || this.volume.shape.join() !== volume.shape.join();
    this.volume = volume;
    this.window = window;
    if (other) {
      this.mask = null;
      this.at = volume.shape.map((size) => size >> 1);
    }
    for (const { plane, frame, canvas, slider } of this.views) {
      const [across, upright] = [plane.across, plane.upright];
      canvas.width = volume.shape[across];
      canvas.height = volume.shape[upright];
      const mm = (axis) => volume.shape[axis] * volume.spacingMm[axis];
      frame.style.aspectRatio = `${mm(across)} / ${mm(upright)}`;
      slider.max = volume.shape[plane.axis] - 1;
    }
    this.moveTo(this.at);
  }

  showMask(mask) {
    this.mask = mask;
    this.draw();
  }

  moveTo(at) {
    this.at = at.map((to, axis) => Math.max(0, Math.min(this.volume.shape[axis] - 1, to)));
    this.draw();
    this.moved(this.at);
  }

  draw() {
    if (!this.volume) return;
    for (const view of this.views) this.#drawView(view);
  }

  #drawView({ plane, canvas, slider, count, hairs }) {
    const { shape } = this.volume;
    const at = this.at[plane.axis];
    const pixels = pixelsOf(
      plane, at, this.volume, this.window, this.mask, this.table, this.opacity,
    );
    // Pixels come from the CPU at each step: a canvas that stays there is the fast one.
    canvas.getContext("2d", { willReadFrequently: true }).putImageData(pixels, 0, 0);
    const height = shape[plane.upright];
    const row = flipped(plane, height, this.at[plane.upright]);
    hairs[0].style.left = `${((this.at[plane.across] + 0.5) / shape[plane.across]) * 100}%`;
    hairs[1].style.top = `${((row + 0.5) / height) * 100}%`;
    const words = `${at + 1} of ${shape[plane.axis]}`;
    slider.value = at;
    slider.setAttribute("aria-valuetext", `slice ${words}`);
    count.textContent = words;
    canvas.setAttribute("aria-label", `${plane.name} slice ${words}`);
  }

  #view(root, plane) {
    const figure = element("figure", "plane", { "data-plane": plane.name });
    const frame = element("div", "frame");
    const canvas = element("canvas", "", {
      tabindex: "0", role: "img", "aria-roledescription": "slice of the scan",
    });
    const hairs = [element("div", "hair upright"), element("div", "hair across")];
    const letters = [...plane.letters].map((letter, n) => {
      const made = element("span", `letter at-${["left", "right", "top", "bottom"][n]}`);
      made.textContent = letter;
      made.setAttribute("aria-hidden", "true");
      return made;
    });
    frame.append(canvas, ...hairs, ...letters);
    const caption = element("figcaption", "");
    const slider = element("input", "", {
      type: "range", min: "0", value: "0", "aria-label": `${plane.name} slice`,
    });
    const title = element("span", "title");
    title.textContent = plane.name;
    const count = element("span", "count soft");
    caption.append(title, slider, count);
    figure.append(frame, caption);
    root.append(figure);
    slider.addEventListener("input", () => this.#slice(plane, Number(slider.value)));
    canvas.addEventListener("keydown", (event) => this.#key(plane, event));
    this.#wheel(plane, canvas);
    this.#pointer(plane, canvas);
    return { plane, frame, canvas, slider, count, hairs };
  }

  #slice(plane, to) {
    const at = [...this.at];
    at[plane.axis] = to;
    this.moveTo(at);
  }

  #key(plane, event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const arrow = ARROWS[event.key];
    const here = this.at[plane.axis];
    const last = this.volume.shape[plane.axis] - 1;
    const slices = {
      ArrowUp: here + 1, ArrowRight: here + 1, ArrowDown: here - 1, ArrowLeft: here - 1,
      PageUp: here + MANY, PageDown: here - MANY, Home: 0, End: last,
    };
    if (event.shiftKey && arrow) {
      const at = [...this.at];
      at[plane.across] += arrow[0];
      at[plane.upright] += plane.grows === "up" ? -arrow[1] : arrow[1];
      this.moveTo(at);
    } else if (event.key in slices) {
      this.#slice(plane, slices[event.key]);
    } else {
      return;
    }
    event.preventDefault();
  }

  #wheel(plane, canvas) {
    let rolled = 0;
    canvas.addEventListener("wheel", (event) => {
      if (event.ctrlKey) return; // zooms the page
      event.preventDefault();
      rolled += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL
        ? event.deltaY : event.deltaY * WHEEL_PIXELS;
      const steps = Math.trunc(rolled / WHEEL_PIXELS);
      rolled -= steps * WHEEL_PIXELS;
      if (steps) this.#slice(plane, this.at[plane.axis] - Math.sign(steps));
    }, { passive: false });
  }

  #pointer(plane, canvas) {
    let from = null; // where a drag for the window began
    const cross = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
      const at = [...this.at];
      at[plane.across] = x;
      at[plane.upright] = flipped(plane, canvas.height, y);
      this.moveTo(at);
    };
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 && event.button !== 2) return;
      if (event.pointerType !== "touch") canvas.setPointerCapture(event.pointerId);
      if (event.button === 0) cross(event);
      else from = { x: event.clientX, y: event.clientY, window: this.window };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (from) this.#drag(from, event);
      else if (event.buttons & 1) cross(event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => { from = null; });
    }
  }

  // Right widens the window, down raises its level, as viewers in hospitals do.
  #drag(from, event) {
    const [low, high] = from.window;
    const width = (high - low) * 2 ** ((event.clientX - from.x) / 100);
    const level = (low + high) / 2 + ((event.clientY - from.y) / 200) * (high - low);
    this.window = [level - width / 2, level + width / 2];
    this.draw();
    this.windowed(this.window);
  }
}
