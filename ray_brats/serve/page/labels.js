// What the integers of masks mean, as a model tells it: the browser's side of ray_brats/labels.py.

export class UnknownLabels extends Error {}

// Classes, regions and colours of a model, and the integers of each task that it can write.
export class Targets {
  constructor(model) {
    const { classes = [], regions = [] } = model?.targets || {};
    this.names = ["background", ...classes.map((one) => one.name)];
    this.colours = [null, ...classes.map((one) => one.colour)];
    this.tissues = classes.map((_, n) => n + 1);
    this.titles = Object.fromEntries(regions.map((one) => [one.name, one.title]));
    this.regions = Object.fromEntries(regions.map((one) =>
      [one.name, one.classes.map((name) => this.names.indexOf(name))]));
    this.integers = model?.integers || {};
    this.task = model?.task;
  }

  // Raw label to class index.
  meaning(task) {
    if (!this.integers[task]) {
      throw new UnknownLabels(`The mask is of the task ${task}, which this page does not know.`);
    }
    const pairs = this.integers[task].map((raw, n) => [raw, n + 1]);
    return Object.fromEntries([[0, 0], ...pairs]);
  }

  // Class indices of a volume's raw labels, in the order of its voxels on disk.
  toClassIndex(volume, task) {
    const meaning = this.meaning(task);
    const { raw, slope, intercept } = volume;
    const index = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at += 1) {
      const value = raw[at] * slope + intercept;
      if (value === 0) continue;
      const found = meaning[value];
      if (found === undefined) {
        throw new UnknownLabels(
          `The mask holds the label ${value}, which ${task} does not define.`,
        );
      }
      index[at] = found;
    }
    return index;
  }
}

export function rgb(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}
