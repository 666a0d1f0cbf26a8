// The page: from files to a job to the mask on the scan.

import { Api, Cancelled, NeedsKey, Refused } from "./api.js";
import { Controls } from "./controls.js";
import { dropped, unpacked } from "./files.js";
import { Targets, UnknownLabels } from "./labels.js";
import { TITLES, sortFiles } from "./naming.js";
import { NiftiError, readNifti } from "./nifti.js";
import { Slots } from "./slots.js";
import { ZipError } from "./zip.js";

const $ = (id) => document.getElementById(id);
const DEFAULT_MODALITIES = ["t1ce", "t2", "flair"];
const STATES = {
  queued: "Waiting for a free model.",
  running: "Segmenting.",
  done: "Fetching the mask.",
};

const api = new Api();
const controls = new Controls();
const slots = new Slots($("slots"), assign);
const volumes = new WeakMap(); // File -> promise of its Volume

let models = [];
let cases = new Map(); // case -> {modality: File}
let chosen = ""; // the case on the page
let job = null; // {id, stop: AbortController} while one is under way
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
  const title = slots.blame(culprit);
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
  } else if ([NiftiError, UnknownLabels, ZipError].some((type) => error instanceof type)) {
    say("");
    complain(error.message, error.file);
  } else {
    say("");
    complain(`The page failed: ${error.message}. Reload it; if it stays, tell whoever runs it.`);
    throw error;
  }
}

function refresh() {
  const missing = modalities().filter((name) => !files()[name]);
  slots.show(modalities(), files(), Boolean(job));
  $("segment").disabled = Boolean(job) || missing.length > 0;
  $("cancel").hidden = !job;
  $("work").hidden = !job;
  for (const id of ["choose", "choose-folder", "phantom", "model", "which-case"]) {
    $(id).disabled = Boolean(job);
  }
  $("several").hidden = cases.size < 2;
  return missing;
}

function changed() {
  complain("");
  $("kept").hidden = true;
  controls.clear();
  const missing = refresh();
  const some = Object.keys(files()).length > 0;
  if (!some) say("");
  else say(missing.length ? `Still missing: ${titled(missing)}.` : "The case is complete.");
  shown = showScan();
}

async function showScan() {
  const mine = ++reading;
  const wanted = needed();
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
  changed();
}

async function take(incoming) {
  if (job) return;
  let sorted;
  try {
    sorted = sortFiles(await unpacked(incoming));
  } catch (error) {
    report(error, () => {});
    return;
  }
  if (job) return; // it began while the archive was unpacked: its mask is for what is shown
  const found = sorted.cases;
  if ([...found.keys()].some((name) => cases.has(name))) {
    for (const [name, kinds] of found) cases.set(name, { ...cases.get(name), ...kinds });
  } else if (found.size) {
    cases = found;
  }
  if (!found.has(chosen)) chosen = [...found.keys()][0] ?? chosen;
  $("which-case").replaceChildren(
    ...[...cases.keys()].map((name) => new Option(name || "(no name)", name)));
  $("which-case").value = chosen;
  tellIgnored(sorted);
  changed();
}

function tellIgnored({ unknown, twice }) {
  const parts = [];
  if (unknown.length) {
    const names = unknown.slice(0, 3).join(", ") + (unknown.length > 3 ? " and others" : "");
    parts.push(
      `Not recognised: ${names}. Expected names that end in _t1ce, _t2 or _flair ` +
      "(or t1c, t2w, t2f) and .nii or .nii.gz; otherwise choose the file in its slot.",
    );
  }
  if (twice.length) parts.push(`Left out, since its modality was there: ${twice.join(", ")}.`);
  $("ignored").textContent = parts.join(" ");
  $("ignored").hidden = !parts.length;
}

async function takePhantom() {
  complain("");
  say("Fetching the phantom.");
  try {
    const blob = await api.phantom();
    await take([new File([blob], "phantom.zip")]);
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
  const { signal } = mine.stop;
  const name = chosen;
  complain("");
  $("kept").hidden = true;
  controls.clearMask();
  job = mine;
  refresh();
  try {
    progress(0, "Uploading.");
    const sent = (share) => progress(share, "Uploading.");
    mine.id = await api.start(needed(), model()?.name, { sent, signal });
    const told = ({ state, progress: share }) => progress(share || 0, STATES[state] || state);
    const done = await api.follow(mine.id, { told, signal });
    const result = await api.mask(mine.id, signal);
    result.ml = { ...result.ml, ...done.volumes_ml };
    result.task ||= model()?.task;
    await shown;
    const file = `${name || "mask"}.nii.gz`;
    try {
      result.volume = await maskVolume(result.blob);
      controls.showMask(result, file);
    } catch (error) {
      keep(result, file);
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
      if (picked.length) take(picked);
    });
  }
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
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const found = await dropped(event.dataTransfer);
    if (found.length) take(found);
  });
}

listen();
refresh();
loadModels();
