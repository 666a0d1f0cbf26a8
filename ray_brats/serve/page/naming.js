// What the names of BraTS files mean: the browser's side of ray_brats/cases/naming.py.

export const MODALITIES = ["t1", "t1ce", "t2", "flair"];
export const ALIASES = { t1n: "t1", t1c: "t1ce", t2w: "t2", t2f: "flair", t1gd: "t1ce" };
export const TITLES = { t1: "T1", t1ce: "T1CE", t2: "T2", flair: "FLAIR" };
export const MASK_SPELLINGS = [
  "seg",
  "segm",
  "segmentation",
  "tumor_segmentation",
  "tumour_segmentation",
  "gtv",
  "glistrboost",
  "glistrboost_manuallycorrected",
];

const KINDS = [...MODALITIES, ...Object.keys(ALIASES), ...MASK_SPELLINGS].join("|");
const FILE = new RegExp(
  `^(?:(.+?)[_-])?(${KINDS.replaceAll("_", "[_-]")})\\.nii(?:\\.gz)?$`, "is");
const MASK_OF_355 = /^W39_1998\.09\.19_Segm\.nii(\.gz)?$/; // tells no case

// Case ("" where the name has none) and canonical modality or "seg"; null for any other file.
export function caseAndKind(fileName) {
  const match = FILE.exec(fileName);
  if (!match || MASK_OF_355.test(fileName)) return null;
  const kind = match[2].toLowerCase().replaceAll("-", "_");
  return {
    case: match[1] || "",
    kind: MASK_SPELLINGS.includes(kind) ? "seg" : ALIASES[kind] || kind,
  };
}

// Whether a path in a folder or an archive is one that nobody means: what macOS adds, and the like.
export function isHidden(path) {
  return path.replaceAll("\\", "/").split("/")
    .some((part) => part === "__MACOSX" || (part.startsWith(".") && part !== "."));
}

// Whether a file is one of those, in the folder that was chosen, which may be called as it likes.
export function isHiddenFile(file) {
  return isHidden(file.webkitRelativePath?.replace(/^[^/]*\//, "") || file.name);
}

// The files of a drop by case: {cases: Map(case -> {kind: File}), unknown: [name], twice: [name]}.
export function sortFiles(files) {
  const cases = new Map();
  const unknown = [];
  const twice = [];
  for (const file of files) {
    if (isHiddenFile(file)) continue;
    const found = caseAndKind(file.name);
    if (!found) {
      unknown.push(file.name);
      continue;
    }
    if (!cases.has(found.case)) cases.set(found.case, {});
    const kinds = cases.get(found.case);
    if (!kinds[found.kind]) kinds[found.kind] = file;
    else if (found.kind !== "seg") twice.push(file.name); // masks are not sent, however many
  }
  return { cases, unknown, twice };
}
