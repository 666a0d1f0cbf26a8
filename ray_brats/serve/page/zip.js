// The files of a zip archive, stored or deflated.

import { isHidden } from "./naming.js";

export class ZipError extends Error {}

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;

// Files of the archive, folders and what is hidden left out; names without their folders.
export async function unzip(blob) {
  const buffer = await blob.arrayBuffer();
  const view = new DataView(buffer);
  const files = [];
  let { at, count } = directory(view);
  for (; count > 0; count -= 1) {
    if (at + 46 > view.byteLength || view.getUint32(at, true) !== ENTRY) {
      throw new ZipError("its directory is damaged");
    }
    const method = view.getUint16(at + 10, true);
    const size = view.getUint32(at + 20, true);
    const lengths = [28, 30, 32].map((field) => view.getUint16(at + field, true));
    const name = new TextDecoder().decode(new Uint8Array(buffer, at + 46, lengths[0]));
    const local = view.getUint32(at + 42, true);
    at += 46 + lengths[0] + lengths[1] + lengths[2];
    if (name.endsWith("/") || isHidden(name)) continue;
    if (local + 30 > view.byteLength || view.getUint32(local, true) !== LOCAL) {
      throw new ZipError(`its entry ${name} is damaged`);
    }
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const content = await inflate(blob.slice(start, start + size), method, name);
    files.push(new File([content], name.split("/").pop()));
  }
  return files;
}

function directory(view) {
  const lowest = Math.max(0, view.byteLength - 22 - 65535);
  for (let at = view.byteLength - 22; at >= lowest; at -= 1) {
    if (view.getUint32(at, true) === END) {
      return { at: view.getUint32(at + 16, true), count: view.getUint16(at + 10, true) };
    }
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
