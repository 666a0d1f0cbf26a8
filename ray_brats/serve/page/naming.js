// What the names of BraTS files mean: the browser's side of ray_brats/cases/naming.py.

export const MODALITIES = ["t1", "t1ce", "t2", "flair"];
export const ALIASES = { t1n: "t1", t1c: "t1ce", t2w: "t2", t2f: "flair", t1gd: "t1ce" };
export const TITLES = { t1: "T1", t1ce: "T1CE", t2: "T2", flair: "FLAIR" };

const FILE = /^(?:(.+)[_-])?(t1ce|t1gd|t1n|t1c|t1|t2w|t2f|t2|flair|seg)\.nii(?:\.gz)?$/i;

// Case ("" where the name has none) and canonical modality or "seg"; null for any other file.
export function caseAndKind(fileName) {
  const match = FILE.exec(fileName);
  if (!match) return null;
  const kind = match[2].toLowerCase();
  return { case: match[1] || "", kind: ALIASES[kind] || kind };
}

// The files of a drop by case: {cases: Map(case -> {kind: File}), unknown: [name], twice: [name]}.
export function sortFiles(files) {
  const cases = new Map();
  const unknown = [];
  const twice = [];
  for (const file of files) {
    if (file.name.startsWith(".")) continue; // macOS keeps its own ._x.nii.gz beside x.nii.gz
    const found = caseAndKind(file.name);
    if (!found) {
      unknown.push(file.name);
      continue;
    }
    if (!cases.has(found.case)) cases.set(found.case, {});
    const kinds = cases.get(found.case);
    if (kinds[found.kind]) twice.push(file.name);
    else kinds[found.kind] = file;
  }
  return { cases, unknown, twice };
}
