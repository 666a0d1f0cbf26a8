// What comes in by a drop or a choice: folders are walked through, zips are unpacked, paths kept.
//
// An arrival is {path, file}: the file and where it lay in what was dropped, since the files of a
// drop do not know that. What is hidden arrives without its file (null): counted, and never read.

import { isHidden, isHiddenFile } from "./naming.js";
import { ZipError, entries as entriesOf } from "./zip.js";

export class FileError extends Error {}

// Must be called while the drop is being handled: its items are gone after that.
export function arrivals(transfer) {
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.());
  if (!entries.length || entries.some((entry) => !entry)) {
    return Promise.resolve(chosen(transfer.files));
  }
  return walk(entries, "");
}

// The files of a drop alone, without their paths and without what is hidden.
export async function dropped(transfer) {
  return (await arrivals(transfer)).map(({ file }) => file).filter((file) => file);
}

// Arrivals of an input.
export function chosen(files) {
  return [...files].map((file) => ({
    path: file.webkitRelativePath || file.name,
    file: isHiddenFile(file) ? null : file,
  }));
}

async function walk(entries, above) {
  const found = await Promise.all(entries.map((entry) => arrived(entry, above + entry.name)));
  return found.flat();
}

async function arrived(entry, path) {
  if (isHidden(entry.name)) return [{ path, file: null }];
  try {
    if (entry.isFile) {
      return [{ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) }];
    }
    const reader = entry.createReader();
    const found = [];
    // A reader gives a hundred entries at a time, and none at the end.
    for (let more = [null]; more.length;) {
      more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      found.push(await walk(more, `${path}/`));
    }
    return found.flat();
  } catch (error) {
    if (error instanceof FileError) throw error;
    throw new FileError(`${path} cannot be read (${error.message}); drop it again.`);
  }
}

// The same arrivals with those of zips in place of the zips, each zip being a folder; throws
// ZipError with the file named.
export async function unpacked(arrivals) {
  const found = [];
  for (const one of arrivals) {
    if (!one.file || !/\.zip$/i.test(one.path)) {
      found.push(one);
      continue;
    }
    const folder = one.path.replace(/\.zip$/i, "");
    try {
      for (const { path, file } of await entriesOf(one.file)) {
        found.push({ path: `${folder}/${path}`, file });
      }
    } catch (error) {
      if (!(error instanceof ZipError)) throw error;
      throw new ZipError(`${one.file.name}: ${error.message}.`);
    }
  }
  return found;
}
