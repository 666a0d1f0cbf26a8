// What stands under the planes: modality, window, tissues, opacity, regions, volumes, download.

import { Targets, rgb } from "./labels.js";
import { TITLES } from "./naming.js";
import { robustWindow, survey } from "./planes.js";
import { Three } from "./three.js";
import { Viewer } from "./viewer.js";

const ORDER = ["flair", "t1ce", "t2", "t1"];
const STEPS = 1000;
const MOST_WIDTHS = 3; // the sliders reach three times the robust window

const $ = (id) => document.getElementById(id);
const ml = (value) => `${value.toFixed(value < 10 ? 2 : 1)} ml`;

export class Controls {
  #volumes = {}; // modality -> Volume
  #robust = [0, 1];
  #visible = new Set();
  #url = null;

  constructor() {
    this.viewer = new Viewer($("planes"), {
      moved: (at) => this.#say(at),
      windowed: () => this.#windowToSliders(),
    });
    this.three = new Three($("three"), $("show-three"), $("three-note"));
    this.#listen();
    this.setTargets(new Targets());
  }

  // What the chosen model segments.
  setTargets(targets) {
    this.targets = targets;
    this.#visible = new Set(targets.tissues);
    this.#tissues();
    this.#regions();
    this.#toggled();
  }

  clear() {
    this.#volumes = {};
    this.viewer.volume = null;
    this.clearMask();
    this.three.hide();
    $("scan").hidden = true;
  }

  clearMask() {
    this.viewer.showMask(null);
    this.three.setMask(null);
    $("result").hidden = true;
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = null;
  }

  // volumes: by modality, all on one grid; files: the same, as they came.
  show(volumes, files) {
    this.#volumes = volumes;
    this.files = files;
    const names = [...new Set([...ORDER, ...Object.keys(volumes)])].filter((name) => volumes[name]);
    $("modality").replaceChildren(...names.map((name) => new Option(TITLES[name] || name, name)));
    $("scan").hidden = false;
    this.#pick();
  }

  // result: {volume, blob, task, model, ml: {REGION: …}}; name: of the file to download.
  showMask(result, name) {
    const { volume } = result;
    const task = result.task || this.targets.task;
    const mask = { index: this.targets.toClassIndex(volume, task), volume };
    const { counts, most } = survey(mask, this.targets.names.length);
    const tissueMl = (tissues) =>
      tissues.reduce((sum, tissue) => sum + counts[tissue], 0) * volume.voxelMl();
    for (const tissue of this.targets.tissues) $(`ml-${tissue}`).textContent = ml(tissueMl([tissue]));
    for (const [region, tissues] of Object.entries(this.targets.regions)) {
      $(`ml-${region}`).textContent = ml(result.ml[region] ?? tissueMl(tissues));
    }
    $("task").textContent =
      (most ? "" : "The mask is empty: no tumour was found. ") +
      `Labels of ${task}${result.model ? `, by ${result.model}` : ""}.`;
    this.#url = URL.createObjectURL(result.blob);
    $("download").href = this.#url;
    $("download").download = name;
    $("result").hidden = false;
    this.viewer.showMask(mask);
    this.three.setMask({ blob: result.blob, meaning: this.targets.meaning(task) });
    if (most) this.viewer.moveTo(most);
  }

  #pick() {
    const name = $("modality").value;
    const volume = this.#volumes[name];
    this.#robust = robustWindow(volume);
    this.viewer.show(volume, this.#robust);
    this.three.setScan(this.files[name]);
    this.#windowToSliders();
  }

  #say(at) {
    const parts = Object.entries(this.#volumes).map(
      ([name, volume]) => `${TITLES[name] || name} ${+volume.value(...at).toPrecision(4)}`,
    );
    const { mask } = this.viewer;
    if (mask) parts.push(this.targets.names[mask.index[mask.volume.offset(...at)]]);
    $("at").textContent = `Voxel (${at.join(", ")}) in LPS order: ${parts.join(", ")}.`;
  }

  #windowToSliders() {
    const [low, high] = this.viewer.window;
    const [least, most] = this.#robust;
    const wide = most - least;
    $("window").value = ((high - low) / (MOST_WIDTHS * wide)) * STEPS;
    $("level").value = (((low + high) / 2 - least + wide) / (MOST_WIDTHS * wide)) * STEPS;
    $("window-text").textContent = `Shows ${+low.toPrecision(4)} to ${+high.toPrecision(4)}`;
  }

  #slidersToWindow() {
    const [least, most] = this.#robust;
    const wide = most - least;
    const width = ($("window").value / STEPS) * MOST_WIDTHS * wide;
    const level = ($("level").value / STEPS) * MOST_WIDTHS * wide + least - wide;
    this.viewer.window = [level - width / 2, level + width / 2];
    this.viewer.draw();
    this.#windowToSliders();
  }

  #tissues() {
    $("tissues").replaceChildren(...this.targets.tissues.map((tissue, n) => {
      const row = document.createElement("tr");
      row.innerHTML = `<th scope="row"><label class="check"><input type="checkbox" checked>
        <span class="swatch"></span> <span></span></label></th><td class="number"></td>`;
      const box = row.querySelector("input");
      box.id = `tissue-${tissue}`;
      box.setAttribute("aria-keyshortcuts", String(n + 1));
      row.querySelector(".swatch").style.background = this.targets.colours[tissue];
      row.querySelectorAll("span")[1].textContent = this.targets.names[tissue];
      row.querySelector("td").id = `ml-${tissue}`;
      box.addEventListener("change", () => this.#toggle(tissue, box.checked));
      return row;
    }));
  }

  #regions() {
    $("regions").replaceChildren(...Object.keys(this.targets.regions).map((region) => {
      const title = this.targets.titles[region];
      const row = document.createElement("tr");
      row.innerHTML = `<th scope="row"><button type="button"></button> <span></span></th>
        <td class="number"></td>`;
      const button = row.querySelector("button");
      button.id = `region-${region}`;
      button.textContent = region;
      row.querySelector("span").textContent = title;
      button.setAttribute("aria-label", `Show ${title} (${region}) alone`);
      row.querySelector("td").id = `ml-${region}`;
      button.addEventListener("click", () => {
        this.#visible = new Set(this.targets.regions[region]);
        this.#toggled();
      });
      return row;
    }));
  }

  #toggle(tissue, on) {
    if (on) this.#visible.add(tissue);
    else this.#visible.delete(tissue);
    this.#toggled();
  }

  #toggled() {
    const seen = [...this.#visible].sort().join();
    for (const tissue of this.targets.tissues) $(`tissue-${tissue}`).checked = this.#visible.has(tissue);
    for (const [region, tissues] of Object.entries(this.targets.regions)) {
      $(`region-${region}`).setAttribute("aria-pressed", String(tissues.join() === seen));
    }
    const colours = this.targets.colours.map((colour) => colour && rgb(colour));
    this.viewer.table = colours.map((colour, tissue) =>
      this.#visible.has(tissue) ? colour : null);
    this.viewer.draw();
    this.three.paint(this.#visible, this.viewer.opacity, colours);
  }

  #listen() {
    $("modality").addEventListener("change", () => this.#pick());
    for (const id of ["window", "level"]) {
      $(id).addEventListener("input", () => this.#slidersToWindow());
    }
    $("window-reset").addEventListener("click", () => {
      this.viewer.window = this.#robust;
      this.viewer.draw();
      this.#windowToSliders();
    });
    $("opacity").addEventListener("input", () => {
      this.viewer.opacity = $("opacity").value / 100;
      this.#toggled();
    });
    $("hair").addEventListener("change", () => {
      $("planes").classList.toggle("no-hair", !$("hair").checked);
    });
    document.addEventListener("keydown", (event) => {
      const tissue = this.targets.tissues[Number(event.key) - 1];
      const typing = event.target.matches("input:not([type=range],[type=checkbox]), select");
      if (!tissue || typing || event.ctrlKey || event.altKey || event.metaKey) return;
      if (!$("result").hidden) this.#toggle(tissue, !this.#visible.has(tissue));
    });
  }
}
