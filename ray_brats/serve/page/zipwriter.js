// Writes a zip archive of files, one after the other: no file is ever held whole by the page.

import { ZipError } from "./zip.js";

const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const END = 0x06054b50;
const VERSION = 20; // that which knows deflate
const UTF8 = 1 << 11;
const STORED = 0;
const DEFLATED = 8;
// 1980-01-01, the first day that zip knows: equal files make equal archives.
const DAY = 0x21;
// What shrinks more than that is stored: the server takes two hundredfold for a bomb, which slices
// of nothing but air are not.
const MOST_SHRUNK = 100;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

// CRC-32 of bytes that come after others, whose own is `before`.
export function crc32(bytes, before = 0) {
  let crc = ~before;
  for (let at = 0; at < bytes.length; at += 1) {
    crc = CRC_TABLE[(crc ^ bytes[at]) & 0xff] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

// A name in the archive for each path: none leads out of it, is hidden, or is there twice. The folder
// that was chosen may be called as it likes; the server looks into none that begins with a dot.
export function safeNames(paths) {
  const taken = new Set();
  return paths.map((path) => {
    const parts = path.replaceAll("\\", "/").split("/")
      .map((part) => part.replace(/^\.+/, "")).filter((part) => part);
    // Colons are drives on some systems, and what has no shape is refused on others.
    const name = parts.join("/").replace(/[:\u0000-\u001f\u007f]/g, "_") || "file";
    let free = name;
    for (let n = 2; taken.has(free); n += 1) free = `${n}/${name}`;
    taken.add(free);
    return free;
  });
}

// entries: [{path, file}]; told: is given the share that is packed. Throws the reason of `signal`.
export async function zipped(entries, { told, signal }) {
  const total = entries.reduce((sum, { file }) => sum + file.size, 0);
  const names = safeNames(entries.map(({ path }) => path));
  const [parts, listed] = [[], []];
  let [at, seen] = [0, 0];
  const passed = (bytes) => told((seen += bytes) / (total || 1));
  for (const [n, { path, file }] of entries.entries()) {
    const made = await packed(path, file, passed, signal);
    const name = new TextEncoder().encode(names[n]);
    listed.push(directoryEntry(made, name, at));
    const head = localHeader(made, name);
    parts.push(head, made.body);
    at += head.size + made.body.size;
  }
  const directory = new Blob(listed);
  return new Blob([...parts, directory, end(entries.length, directory.size, at)],
    { type: "application/zip" });
}

async function packed(path, file, passed, signal) {
  let [crc, size] = [0, 0];
  const count = (bytes) => {
    crc = crc32(bytes, crc);
    size += bytes.length;
    passed(bytes.length);
  };
  try {
    signal.throwIfAborted();
    const body = await deflated(file, count, signal);
    const kept = body.size < size && body.size * MOST_SHRUNK > size;
    return { crc, size, method: kept ? DEFLATED : STORED, body: kept ? body : file };
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw new ZipError(`${path} cannot be read (${error.message}); choose it again.`);
  }
}

// The file itself where it is deflated already; a Blob may lie outside of the page's memory.
async function deflated(file, count, signal) {
  if (/\.gz$/i.test(file.name)) {
    await file.stream().pipeTo(new WritableStream({ write: count }), { signal });
    return file;
  }
  const counted = new TransformStream({
    transform(bytes, next) {
      count(bytes);
      next.enqueue(bytes);
    },
  });
  const stream = file.stream().pipeThrough(counted, { signal })
    .pipeThrough(new CompressionStream("deflate-raw"));
  return new Response(stream).blob();
}

// Numbers of a record, each as [bytes, value].
function record(...numbers) {
  const view = new DataView(new ArrayBuffer(numbers.reduce((sum, [bytes]) => sum + bytes, 0)));
  let at = 0;
  for (const [bytes, value] of numbers) {
    if (bytes === 4) view.setUint32(at, value, true);
    else view.setUint16(at, value, true);
    at += bytes;
  }
  return view;
}

const facts = ({ crc, size, method, body }, name) => [
  [2, VERSION], [2, UTF8], [2, method], [2, 0], [2, DAY], [4, crc], [4, body.size], [4, size],
  [2, name.length], [2, 0],
];

function localHeader(made, name) {
  return new Blob([record([4, LOCAL], ...facts(made, name)), name]);
}

function directoryEntry(made, name, at) {
  const rest = [[2, 0], [2, 0], [2, 0], [4, 0], [4, at]];
  return new Blob([record([4, ENTRY], [2, VERSION], ...facts(made, name), ...rest), name]);
}

function end(count, bytes, at) {
  return record([4, END], [2, 0], [2, 0], [2, count], [2, count], [4, bytes], [4, at], [2, 0]);
}
