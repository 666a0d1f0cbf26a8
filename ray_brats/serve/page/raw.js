// The way of a raw study: packed, sent, followed, and what comes back beside its mask.

import { Cancelled } from "./api.js";
import { NiftiError, readNifti } from "./nifti.js";
import { ZipError, unzip } from "./zip.js";
import { zipped } from "./zipwriter.js";

const STATES = {
  queued: "Waiting for a free model.",
  running: "Preparing and segmenting.",
  done: "Fetching the mask.",
};

const $ = (id) => document.getElementById(id);

// The result of a study: as of a case, with `scan` (the series below the mask, a File), `home` (its
// modality), `seg` (a DICOM Segmentation, a File or undefined) and `remarks`. job: {id, stop}, whose
// id is set once there is one; progress(share, text).
export async function studyResult(study, { api, model, job, progress }) {
  const { signal } = job.stop;
  const archive = await packed(study, progress, signal);
  progress(0, "Uploading.");
  const sent = (share) => progress(share, "Uploading.");
  job.id = await api.startRaw(archive, model, { sent, signal });
  const told = ({ state, progress: share }) => progress(share || 0, STATES[state] || state);
  const done = await api.follow(job.id, { told, signal });
  const answer = await api.mask(job.id, signal, "application/zip");
  const files = await answered(answer.blob);
  return {
    ...answer,
    blob: files["mask.nii.gz"],
    scan: files["scan.nii.gz"],
    seg: files["mask.dcm"],
    ml: { ...answer.ml, ...done.volumes_ml },
    remarks: done.remarks?.length ? done.remarks : answer.remarks,
  };
}

async function packed(study, progress, signal) {
  const told = (share) => progress(share, "Packing.");
  told(0);
  try {
    return await zipped(study.entries, { told, signal });
  } catch (error) {
    throw signal.aborted ? new Cancelled() : error;
  }
}

async function answered(blob) {
  let files;
  try {
    files = Object.fromEntries((await unzip(blob)).map((file) => [file.name, file]));
  } catch (error) {
    if (!(error instanceof ZipError)) throw error;
    throw new ZipError(`The answer of the server cannot be unpacked: ${error.message}.`);
  }
  for (const name of ["mask.nii.gz", "scan.nii.gz"]) {
    if (!files[name]) throw new ZipError(`The answer of the server holds no ${name}.`);
  }
  return files;
}

// Shows the series that the mask of a study lies on.
export async function showHome({ scan, home }, controls) {
  const name = home || "scan";
  try {
    controls.show({ [name]: await readNifti(scan) }, { [name]: scan });
  } catch (error) {
    if (!(error instanceof NiftiError)) throw error;
    throw new NiftiError(`The scan that the server sent cannot be read: ${error.message}.`);
  }
}

// What stands under a mask of a raw study: the Segmentation, how far to trust it, and remarks.
export class Findings {
  clear() {
    $("findings").hidden = true;
    URL.revokeObjectURL($("download-seg").href);
    $("download-seg").removeAttribute("href");
  }

  // place: the element with the mask's link; name: of the Segmentation to download.
  show({ seg, remarks = [] }, name, place) {
    place.append($("findings"));
    $("findings").hidden = false;
    $("download-seg").hidden = !seg;
    if (seg) {
      $("download-seg").href = URL.createObjectURL(seg);
      $("download-seg").download = name;
    }
    $("remarks").hidden = !remarks.length;
    $("remark-list").replaceChildren(...remarks.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
  }
}
