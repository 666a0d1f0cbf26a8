// Tissues, regions and colours: the browser's side of ray_brats/labels.py and report/panels.py.
// The tests hold these tables against those modules.

export const NECROTIC = 1;
export const EDEMA = 2;
export const ENHANCING = 3;
export const CLASS_NAMES = ["background", "necrotic core", "edema", "enhancing tumour"];
export const TISSUES = [NECROTIC, EDEMA, ENHANCING];
export const COLOURS = { 1: "#D55E00", 2: "#56B4E9", 3: "#F0E442" };

export const REGIONS = { WT: [1, 2, 3], TC: [1, 3], ET: [3] };
export const REGION_TITLES = {
  WT: "whole tumour",
  TC: "tumour core",
  ET: "enhancing tumour",
};

const UNTIL_2021 = { 0: 0, 1: NECROTIC, 2: EDEMA, 4: ENHANCING };
const FROM_2023 = { 0: 0, 1: NECROTIC, 2: EDEMA, 3: ENHANCING };
export const RELEASES = {
  brats2018: UNTIL_2021,
  brats2019: UNTIL_2021,
  brats2020: UNTIL_2021,
  brats2021: UNTIL_2021,
  brats2023: FROM_2023,
  brats2024: { ...FROM_2023, 4: 0 },
};
export const DEFAULT_RELEASE = "brats2023";

export class UnknownLabels extends Error {}

// Class indices of a volume's raw labels, in the order of its voxels on disk.
export function toClassIndex(volume, release) {
  const meaning = RELEASES[release];
  if (!meaning) {
    throw new UnknownLabels(`The mask is of release ${release}, which this page does not know.`);
  }
  const { raw, slope, intercept } = volume;
  const index = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at += 1) {
    const value = raw[at] * slope + intercept;
    if (value === 0) continue;
    const found = meaning[value];
    if (found === undefined) {
      throw new UnknownLabels(
        `The mask holds the label ${value}, which ${release} does not define.`,
      );
    }
    index[at] = found;
  }
  return index;
}

export function rgb(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}
