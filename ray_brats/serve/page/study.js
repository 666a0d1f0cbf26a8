// What a raw study is: which arrivals belong to it, what it is called, and what it must not exceed.

export const MOST_FILES = 20_000;
export const MOST_BYTES = 2 ** 30;
const MARK_AT = 128;
const MARK = "DICM";
const AT_A_TIME = 100;

// What a name alone tells: "nifti", "sidecar" or "other"; "" where the content has to tell.
export function kindByName(name) {
  if (/\.nii(\.gz)?$/i.test(name)) return "nifti";
  if (/\.json$/i.test(name)) return "sidecar";
  return /^dicomdir$/i.test(name) ? "other" : "";
}

// The kind of a file of another name; head: its first 132 bytes. Some DICOM lacks the mark. Then its
// name is trusted, also one without an ending, or with a part of a UID there; but a README has none
// either, and what is text has no byte of 0.
export function kindByContent(name, head) {
  if (String.fromCharCode(...head.subarray(MARK_AT, MARK_AT + MARK.length)) === MARK) return "dicom";
  if (/\.(dcm|ima)$/i.test(name)) return "dicom";
  return /^[^.]*$|\.\d+$/.test(name) && head.includes(0) ? "dicom" : "other";
}

// Arrivals with their kinds: {path, file, kind}.
export async function kinded(arrivals) {
  const found = [];
  for (let at = 0; at < arrivals.length; at += AT_A_TIME) {
    const some = arrivals.slice(at, at + AT_A_TIME);
    found.push(...(await Promise.all(some.map(async (one) => ({ ...one, kind: await kindOf(one) })))));
  }
  return found;
}

async function kindOf({ file }) {
  if (!file) return "hidden";
  return kindByName(file.name) || kindByContent(file.name, await headOf(file));
}

async function headOf(file) {
  try {
    return new Uint8Array(await file.slice(0, MARK_AT + MARK.length).arrayBuffer());
  } catch {
    return new Uint8Array(); // if it is sent, it is read again, and that tells
  }
}

// Arrivals and others that came later; what lies at the same path is replaced.
export function joined(arrivals, later) {
  const paths = new Set(later.map(({ path }) => path));
  return [...arrivals.filter(({ path }) => !paths.has(path)), ...later];
}

// The raw study among arrivals with kinds, or null. complete: whether they hold a case that can be
// segmented as it is; asScanned: whether NIfTI is said to be as it left the scanner.
export function studyOf(arrivals, { complete, asScanned }) {
  const some = (kind) => arrivals.some((one) => one.kind === kind);
  if (some("dicom") && !complete) {
    return new Study("DICOM", arrivals, ({ kind }) => kind === "dicom");
  }
  if (!asScanned || !some("nifti")) return null;
  const stems = new Set(arrivals.filter(({ kind }) => kind === "nifti").map(stemOf));
  return new Study("NIfTI", arrivals,
    (one) => one.kind === "nifti" || (one.kind === "sidecar" && stems.has(stemOf(one))));
}

const stemOf = ({ path }) => path.replace(/\.(nii|nii\.gz|json)$/i, "");

const counted = (count, what = "file") =>
  `${count.toLocaleString("en-GB")} ${what}${count === 1 ? "" : "s"}`;

function sizeWords(bytes) {
  const [unit, name] = bytes < 1e6 ? [1e3, "kB"] : [1e6, "MB"];
  return `${Math.ceil(bytes / unit).toLocaleString("en-GB")} ${name}`;
}

export class Study {
  // form: "DICOM" or "NIfTI"; belongs(arrival): whether it is sent.
  constructor(form, arrivals, belongs) {
    this.form = form;
    this.entries = arrivals.filter(belongs);
    this.left = arrivals.filter((one) => !belongs(one));
    this.bytes = this.entries.reduce((sum, { file }) => sum + file.size, 0);
  }

  // The folder that holds all of it, or "".
  get name() {
    const tops = new Set(this.entries.map(({ path }) => path.slice(0, path.indexOf("/") + 1)));
    return tops.size === 1 ? [...tops][0].slice(0, -1) : "";
  }

  get words() {
    const beside = this.entries.filter(({ kind }) => kind === "sidecar").length;
    const images = `${counted(this.entries.length - beside)} of ${this.form}`;
    return `A raw study: ${images}${beside ? ` and ${beside} of JSON` : ""}, ${sizeWords(this.bytes)}`;
  }

  // What was left out, as a sentence; "" where nothing was.
  get leftWords() {
    const seen = this.left.filter(({ kind }) => kind !== "hidden");
    const hidden = this.left.length - seen.length;
    const names = seen.slice(0, 3).map(({ file }) => file.name).join(", ");
    const parts = [];
    if (seen.length) {
      parts.push(`${counted(seen.length)} (${names}${seen.length > 3 ? " and others" : ""})`);
    }
    if (hidden) parts.push(counted(hidden, "hidden file"));
    return parts.length ? `Left out: ${parts.join(" and ")}.` : "";
  }

  // Why it cannot be sent, or "".
  get problem() {
    if (this.entries.length > MOST_FILES) {
      return `These are more than ${counted(MOST_FILES)}: choose the folder of one study.`;
    }
    if (this.bytes > MOST_BYTES) return "These are more than 1 GiB: choose the folder of one study.";
    return "";
  }
}
