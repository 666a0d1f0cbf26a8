// The files of a zip archive, stored or deflated.

import { isHidden } from "./naming.js";

export class ZipError extends Error {}

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const TAIL_BYTES = 22 + 65535; // the end of the directory with the longest comment
const TOO_MANY = 0xffff; // the count of an archive in the form for large ones

// Files of the archive, folders and what is hidden left out; names without their folders.
export async function unzip(blob) {
  return (await entries(blob)).map(({ file }) => file).filter((file) => file);
}

// The same as {path, file}; of what is hidden the file is null. Only what is needed is read: an
// archive of a study may be larger than what a page may hold at once.
export async function entries(blob) {
  const found = [];
  const { view, count } = await directory(blob);
  let at = 0;
  for (let left = count; left > 0; left -= 1) {
    const lengths = at + 46 > view.byteLength || view.getUint32(at, true) !== ENTRY
      ? null : [28, 30, 32].map((field) => view.getUint16(at + field, true));
    if (!lengths || at + 46 + lengths[0] > view.byteLength) {
      throw new ZipError("its directory is damaged");
    }
    const method = view.getUint16(at + 10, true);
    const size = view.getUint32(at + 20, true);
    const name = new TextDecoder().decode(new Uint8Array(view.buffer, at + 46, lengths[0]));
    const local = view.getUint32(at + 42, true);
    at += 46 + lengths[0] + lengths[1] + lengths[2];
    if (name.endsWith("/")) continue;
    const file = isHidden(name) ? null : await content(blob, { local, size, method, name });
    found.push({ path: name.replaceAll("\\", "/"), file });
  }
  return found;
}

async function content(blob, { local, size, method, name }) {
  const view = await viewOf(blob, local, local + 30);
  if (view.byteLength < 30 || view.getUint32(0, true) !== LOCAL) {
    throw new ZipError(`its entry ${name} is damaged`);
  }
  const start = local + 30 + view.getUint16(26, true) + view.getUint16(28, true);
  const inflated = await inflate(blob.slice(start, start + size), method, name);
  return new File([inflated], name.split(/[\\/]/).pop());
}

async function viewOf(blob, start, end) {
  return new DataView(await blob.slice(start, end).arrayBuffer());
}

async function directory(blob) {
  const tail = await viewOf(blob, Math.max(0, blob.size - TAIL_BYTES), blob.size);
  for (let at = tail.byteLength - 22; at >= 0; at -= 1) {
    if (tail.getUint32(at, true) !== END) continue;
    const count = tail.getUint16(at + 10, true);
    if (count === TOO_MANY) throw new ZipError("it has too many files; choose their folder instead");
    const start = tail.getUint32(at + 16, true);
    return { view: await viewOf(blob, start, start + tail.getUint32(at + 12, true)), count };
  }
  throw new ZipError("it is no zip archive");
}

async function inflate(blob, method, name) {
  if (method === 0) return blob;
  if (method !== 8) throw new ZipError(`its entry ${name} is packed in an unknown way`);
  try {
    const stream = blob.stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return await new Response(stream).blob();
  } catch (error) {
    throw new ZipError(`its entry ${name} is damaged (${error.message})`);
  }
}
