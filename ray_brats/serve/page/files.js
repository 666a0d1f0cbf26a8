// Files from a drop: folders are walked through, zips are unpacked.

import { isHidden } from "./naming.js";
import { ZipError, unzip } from "./zip.js";

// Must be called while the drop is being handled: its items are gone after that.
export function dropped(transfer) {
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.());
  if (!entries.length || entries.some((entry) => !entry)) return Promise.resolve([...transfer.files]);
  return walk(entries);
}

async function walk(entries) {
  const found = [];
  for (const entry of entries) {
    if (isHidden(entry.name)) continue;
    if (entry.isFile) {
      found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
      continue;
    }
    const reader = entry.createReader();
    // A reader gives a hundred entries at a time, and none at the end.
    for (let more = [null]; more.length;) {
      more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      found.push(...(await walk(more)));
    }
  }
  return found;
}

// The same files with those of zips in place of the zips; throws ZipError with the file named.
export async function unpacked(files) {
  const found = [];
  for (const file of files) {
    if (!/\.zip$/i.test(file.name)) {
      found.push(file);
      continue;
    }
    try {
      found.push(...(await unzip(file)));
    } catch (error) {
      if (!(error instanceof ZipError)) throw error;
      throw new ZipError(`${file.name}: ${error.message}.`);
    }
  }
  return found;
}
