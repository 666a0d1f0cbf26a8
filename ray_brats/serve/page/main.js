// The page: from files to a job to the mask on the scan.

import { Api, Cancelled, NeedsKey, Refused } from "./api.js";
import { Controls } from "./controls.js";
import { FileError, arrivals, chosen as chosenFiles, unpacked } from "./files.js";
import { Targets, UnknownLabels } from "./labels.js";
import { TITLES, sortFiles } from "./naming.js";
import { NiftiError, readNifti } from "./nifti.js";
import { Findings, showHome, studyResult } from "./raw.js";
import { Slots } from "./slots.js";
import { joined, kinded, studyOf } from "./study.js";
import { ZipError } from "./zip.js";

const $ = (id) => document.getElementById(id);
const DEFAULT_MODALITIES = ["t1ce", "t2", "flair"];
const SENTENCES = [FileError, NiftiError, UnknownLabels, ZipError];
const STATES = {
  queued: "Waiting for a free model.",
  running: "Segmenting.",
  done: "Fetching the mask.",
};

const api = new Api();
const controls = new Controls();
const findings = new Findings();
const slots = new Slots($("slots"), assign);
const volumes = new WeakMap(); // File -> promise of its Volume

let models = [];
let cases = new Map(); // case -> {modality: File}
let chosen = ""; // the case on the page
let arrived = []; // all that came in with the cases, also what none of them took
let latest = { names: [], unknown: [], twice: [] }; // cases in `arrived`; what the last drop had else
let study = null; // the raw study on the page, in place of a case
let job = null; // {id, stop: AbortController} while one is under way
let begun = 0; // counts jobs
let reading = 0; // counts what was shown, so that an older reading cannot overwrite a newer
let shown = Promise.resolve();
let afterKey = () => {};

const model = () => models.find((one) => one.name === $("model").value) || models[0];
const modalities = () => model()?.modalities || DEFAULT_MODALITIES;
const files = () => cases.get(chosen) || {};
const needed = () =>
  Object.fromEntries(modalities().filter((m) => files()[m]).map((m) => [m, files()[m]]));
const titled = (names) => names.map((name) => TITLES[name] || name).join(", ");

function say(text) {
  $("status").textContent = text;
}

function complain(text, culprit = "") {
  const title = study ? TITLES[culprit] || culprit : slots.blame(culprit);
  $("error").textContent = title ? `${title}: ${text}` : text;
  $("error").hidden = !text;
}

// Everything that a user or the server can cause ends here, as a sentence.
function report(error, retry) {
  if (error instanceof Cancelled) {
    say("Cancelled.");
  } else if (error instanceof NeedsKey) {
    say("");
    complain(error.message);
    afterKey = retry;
    $("key-form").hidden = false;
    $("key").focus();
  } else if (error instanceof Refused) {
    say("");
    complain(error.message, error.file);
  } else if (SENTENCES.some((type) => error instanceof type)) {
    say("");
    complain(error.message, error.file);
  } else {
    say("");
    complain(`The page failed: ${error.message}. Reload it; if it stays, tell whoever runs it.`);
    throw error;
  }
}

function refresh() {
  const missing = study ? [] : modalities().filter((name) => !files()[name]);
  slots.show(modalities(), files(), Boolean(job));
  $("slots").hidden = Boolean(study);
  $("study").hidden = !study;
  $("segment").disabled = Boolean(job) || missing.length > 0 || Boolean(study?.problem);
  $("cancel").hidden = !job;
  $("work").hidden = !job;
  for (const id of ["choose", "choose-folder", "phantom", "as-scanned", "model", "which-case"]) {
    $(id).disabled = Boolean(job);
  }
  $("several").hidden = Boolean(study) || cases.size < 2;
  return missing;
}

function changed() {
  const complete = latest.names.some((name) => modalities().every((kind) => cases.get(name)?.[kind]));
  study = studyOf(arrived, { complete, asScanned: $("as-scanned").checked });
  complain("");
  forget();
  controls.clear();
  tellIgnored(latest);
  const missing = refresh();
  if (study) showStudy();
  else if (!Object.keys(files()).length) say("");
  else say(missing.length ? `Still missing: ${titled(missing)}.` : "The case is complete.");
  shown = showScan();
}

function showStudy() {
  $("study").textContent = study.words;
  $("study").classList.toggle("bad", Boolean(study.problem));
  complain(study.problem);
  say(study.problem ? "" : "The server chooses its series, aligns them and takes the skull off.");
}

// What the last mask left beside the scan.
function forget() {
  $("kept").hidden = true;
  findings.clear();
}

async function showScan() {
  const mine = ++reading;
  const wanted = study ? {} : needed(); // nothing of a study can be drawn before it is prepared
  const found = {};
  try {
    for (const [modality, file] of Object.entries(wanted)) {
      found[modality] = await volumeOf(modality, file);
    }
    checkGrids(found);
  } catch (error) {
    if (mine === reading) report(error, () => {});
    return;
  }
  if (mine === reading && Object.keys(found).length) controls.show(found, wanted);
}

async function volumeOf(modality, file) {
  if (!volumes.has(file)) volumes.set(file, readNifti(file));
  try {
    return await volumes.get(file);
  } catch (error) {
    if (error instanceof NiftiError) {
      throw Object.assign(new NiftiError(`${error.message}.`), { file: modality });
    }
    throw error;
  }
}

function checkGrids(found) {
  const [first, ...others] = Object.entries(found);
  for (const [modality, volume] of others) {
    const [its, wanted] = [volume.shape, first[1].shape].map((shape) => shape.join(", "));
    if (its === wanted) continue;
    const words = `its shape (${its}) is not that of ${TITLES[first[0]]} (${wanted}).`;
    throw Object.assign(new NiftiError(words), { file: modality });
  }
}

function assign(modality, file) {
  if (!cases.has(chosen)) cases.set(chosen, {});
  files()[modality] = file;
  arrived = joined(arrived, [{ path: file.name, file, kind: "nifti" }]);
  latest.names = [chosen];
  changed();
}

// incoming: arrivals, or a promise of them.
async function take(incoming) {
  if (job) return;
  const before = begun;
  let came;
  try {
    came = await kinded(await unpacked(await incoming));
  } catch (error) {
    report(error, () => {});
    return;
  }
  if (job || begun !== before) return; // one began meanwhile: its mask is for what is shown
  if (!came.length) return;
  const { cases: found, ...rest } = sortFiles(came.map(({ file }) => file).filter((file) => file));
  const names = [...found.keys()];
  const holds = came.some(({ kind }) => kind === "dicom" || kind === "nifti");
  const adds = !holds || (study?.form !== "DICOM" && names.some((name) => cases.has(name)));
  if (adds) {
    for (const [name, kinds] of found) cases.set(name, { ...cases.get(name), ...kinds });
  } else if (found.size) {
    cases = found;
  }
  arrived = adds ? joined(arrived, came) : came;
  latest = { names: adds ? [...latest.names, ...names] : names, ...rest };
  if (!found.has(chosen)) chosen = names[0] ?? chosen;
  $("which-case").replaceChildren(
    ...[...cases.keys()].map((name) => new Option(name || "(no name)", name)));
  $("which-case").value = chosen;
  changed();
}

function tellIgnored({ unknown, twice }) {
  const parts = [];
  if (study) {
    if (study.leftWords) parts.push(study.leftWords);
  } else if (unknown.length) {
    const names = unknown.slice(0, 3).join(", ") + (unknown.length > 3 ? " and others" : "");
    parts.push(
      `Not recognised: ${names}. Expected names that end in _t1ce, _t2 or _flair ` +
      "(or t1c, t2w, t2f) and .nii or .nii.gz; otherwise choose the file in its slot.",
    );
    if (arrived.some(({ kind }) => kind === "nifti")) {
      parts.push("Files that are as they left the scanner may have any names: tick the box.");
    }
  }
  if (twice.length && !study) parts.push(`Left out, since its modality was there: ${twice.join(", ")}.`);
  $("ignored").textContent = parts.join(" ");
  $("ignored").hidden = !parts.length;
}

async function takePhantom() {
  complain("");
  say("Fetching the phantom.");
  try {
    const blob = await api.phantom();
    $("as-scanned").checked = false;
    await take(chosenFiles([new File([blob], "phantom.zip")]));
  } catch (error) {
    report(error, takePhantom);
  }
}

function progress(share, text) {
  $("progress").value = share;
  $("progress").setAttribute("aria-valuetext", `${text} ${Math.round(share * 100)} %`);
  if ($("status").textContent !== text) say(text);
}

async function segment() {
  if (job) return;
  const mine = { id: null, stop: new AbortController() };
  const name = (study ? study.name : chosen) || "mask";
  complain("");
  forget();
  controls.clearMask();
  job = mine;
  begun += 1;
  refresh();
  try {
    const result = study
      ? await studyResult(study, { api, model: model()?.name, job: mine, progress })
      : await caseResult(mine);
    result.task ||= model()?.task;
    await shown;
    try {
      if (study) await showHome(result, controls);
      result.volume = await maskVolume(result.blob);
      controls.showMask(result, `${name}.nii.gz`);
      if (study) findings.show(result, `${name}.dcm`, $("result"));
    } catch (error) {
      keep(result, `${name}.nii.gz`);
      if (study) findings.show(result, `${name}.dcm`, $("kept"));
      throw error;
    }
    say("Done: the mask is over the scan.");
  } catch (error) {
    report(error, segment);
  } finally {
    job = null;
    refresh();
  }
}

async function caseResult(mine) {
  const { signal } = mine.stop;
  progress(0, "Uploading.");
  const sent = (share) => progress(share, "Uploading.");
  mine.id = await api.start(needed(), model()?.name, { sent, signal });
  const told = ({ state, progress: share }) => progress(share || 0, STATES[state] || state);
  const done = await api.follow(mine.id, { told, signal });
  const result = await api.mask(mine.id, signal);
  result.ml = { ...result.ml, ...done.volumes_ml };
  return result;
}

// A mask that cannot be shown is not lost.
function keep({ blob, ml }, name) {
  URL.revokeObjectURL($("kept-mask").href);
  $("kept-mask").href = URL.createObjectURL(blob);
  $("kept-mask").download = name;
  const parts = Object.entries(ml).map(([region, value]) => `${region} ${value.toFixed(1)} ml`);
  $("kept-ml").textContent = parts.join(", ");
  $("kept").hidden = false;
}

async function maskVolume(blob) {
  let volume;
  try {
    volume = await readNifti(blob);
  } catch (error) {
    if (!(error instanceof NiftiError)) throw error;
    throw new NiftiError(`The mask that the server sent cannot be read: ${error.message}.`);
  }
  const scan = controls.viewer.volume;
  if (!scan) throw new NiftiError("This page cannot draw the scan; the mask can be downloaded.");
  if (scan.shape.join() !== volume.shape.join()) {
    throw new NiftiError("The mask that the server sent is not on the grid of the scan.");
  }
  return volume;
}

async function cancel() {
  const { id, stop } = job;
  stop.abort();
  if (id === null) return;
  try {
    await api.cancel(id);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    complain(`The job may still be running: ${error.message}`);
  }
}

async function loadModels() {
  try {
    const answer = await api.models();
    models = answer.models || [];
  } catch (error) {
    report(error, loadModels);
    return;
  }
  $("model").replaceChildren(...models.map((one) =>
    new Option(one.name, one.name, one.default, one.default)));
  $("model-field").hidden = models.length < 2;
  describeModel();
}

function describeModel() {
  const now = model();
  $("model-note").hidden = !now;
  if (now) {
    $("model-note").textContent =
      `${now.name} reads ${titled(now.modalities || DEFAULT_MODALITIES)}` +
      (now.task ? ` and writes labels of ${now.task}.` : ".");
  }
  controls.setTargets(new Targets(now));
  refresh();
}

function listen() {
  const picks = { choose: "files", "choose-folder": "folder" };
  for (const [button, input] of Object.entries(picks)) {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      const picked = [...$(input).files];
      $(input).value = "";
      if (picked.length) take(chosenFiles(picked));
    });
  }
  $("as-scanned").addEventListener("change", changed);
  $("phantom").addEventListener("click", takePhantom);
  $("segment").addEventListener("click", segment);
  $("cancel").addEventListener("click", cancel);
  $("model").addEventListener("change", () => {
    describeModel();
    changed();
  });
  $("which-case").addEventListener("change", () => {
    chosen = $("which-case").value;
    changed();
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.key = $("key").value.trim();
    $("key-form").hidden = true;
    complain("");
    afterKey();
    if (!models.length && afterKey !== loadModels) loadModels();
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    take(arrivals(event.dataTransfer));
  });
}

listen();
refresh();
loadModels();
