// The 3-D view by NiiVue, which comes when it is first asked for. Where it cannot, a sentence stands
// in its place; the planes never need it.


const MISSING =
  "3-D needs NiiVue, which this server does not have. Whoever runs it brings it with " +
  "`python -m ray_brats.serve.niivue`. The three planes show everything without it.";
const NO_WEBGL = "3-D needs WebGL 2, which this browser does not give.";

export class Three {
  #nv = null;
  #scan = null; // File
  #mask = null; // {blob, meaning}
  #visible = new Set();
  #colours = [];
  #opacity = 1;
  #loading = Promise.resolve();

  constructor(box, button, note) {
    Object.assign(this, { box, button, note });
    this.canvas = box.querySelector("canvas");
    this.absent = box.querySelector("p");
    button.addEventListener("click", () => (box.hidden ? this.#show() : this.hide()));
  }

  hide() {
    this.box.hidden = true;
    this.button.setAttribute("aria-pressed", "false");
    this.note.textContent = "";
  }

  setScan(file) {
    this.#scan = file;
    this.#reload();
  }

  setMask(mask) {
    this.#mask = mask;
    this.#reload();
  }

  // colours: of each class, as red, green and blue.
  paint(visible, opacity, colours) {
    this.#visible = new Set(visible);
    this.#colours = colours;
    this.#opacity = opacity;
    if (!this.#nv || this.box.hidden || this.#nv.volumes.length < 2) return;
    this.#colour(this.#nv.volumes[1]);
    this.#nv.updateGLVolume();
  }

  async #show() {
    this.note.textContent = "3-D is being loaded.";
    this.button.setAttribute("aria-pressed", "true");
    this.box.hidden = false; // NiiVue measures its canvas
    this.#say("");
    try {
      this.#nv = this.#nv || (await this.#start());
    } catch (error) {
      this.note.textContent = "";
      this.#say(error.message);
      return;
    }
    await this.#reload();
  }

  // A sentence in place of the view, or the view.
  #say(text) {
    this.absent.textContent = text;
    this.absent.hidden = !text;
    this.canvas.hidden = Boolean(text);
  }

  async #start() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error(NO_WEBGL);
    let library;
    try {
      library = await import("./vendor/niivue.js");
    } catch {
      throw new Error(MISSING);
    }
    const nv = new library.Niivue({
      show3Dcrosshair: false, isOrientCube: true, backColor: [0, 0, 0, 1],
      clipPlaneColor: [0, 0, 0, 0],
      dragAndDropEnabled: false, isResizeCanvas: true, loadingText: "", logLevel: "error",
    });
    await nv.attachToCanvas(this.canvas);
    nv.setSliceType(nv.sliceTypeRender);
    this.library = library;
    return nv;
  }

  // One at a time: files change while others are being read.
  #reload() {
    this.#loading = this.#loading.then(() => this.#load());
    return this.#loading;
  }

  async #load() {
    if (!this.#nv || this.box.hidden || !this.#scan) return;
    const nv = this.#nv;
    const { NVImage } = this.library;
    try {
      for (const volume of [...nv.volumes]) nv.removeVolume(volume);
      nv.addVolume(await NVImage.loadFromFile({ file: this.#scan, name: this.#scan.name }));
      if (this.#mask) {
        const file = new File([this.#mask.blob], "mask.nii.gz");
        const mask = await NVImage.loadFromFile({ file, name: file.name });
        this.#colour(mask);
        nv.addVolume(mask);
      }
      nv.setClipPlane([0.1, 180, 20]);
      this.note.textContent = "Drag to turn, wheel to move the cut.";
      this.canvas.dataset.volumes = String(nv.volumes.length);
    } catch (error) {
      this.note.textContent = `3-D could not show these files: ${error.message}`;
    }
  }

  #colour(mask) {
    const map = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    for (const [raw, tissue] of Object.entries(this.#mask.meaning)) {
      const [red, green, blue] = this.#colours[tissue] || [0, 0, 0];
      map.R.push(red);
      map.G.push(green);
      map.B.push(blue);
      map.A.push(this.#visible.has(tissue) ? Math.round(255 * this.#opacity) : 0);
      map.I.push(Number(raw));
      map.labels.push("");
    }
    mask.setColormapLabel(map);
  }
}
