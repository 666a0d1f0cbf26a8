// Reads NIfTI-1 and NIfTI-2 files, gzipped or not, without copying voxels around: a Volume
// knows where the voxel of an LPS index lies on disk.

export class NiftiError extends Error {}

const MAX_VOXELS = 512 ** 3;
// data type code -> typed array
const TYPES = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array,
  256: Int8Array, 512: Uint16Array, 768: Uint32Array, 1024: BigInt64Array, 1280: BigUint64Array,
};

export class Volume {
  // shape, spacingMm: by LPS axis. start, strides: where LPS index (i, j, k) lies in `raw`.
  constructor({ raw, slope, intercept, shape, spacingMm, start, strides }) {
    Object.assign(this, { raw, slope, intercept, shape, spacingMm, start, strides });
  }

  offset(i, j, k) {
    return this.start + i * this.strides[0] + j * this.strides[1] + k * this.strides[2];
  }

  value(i, j, k) {
    return this.raw[this.offset(i, j, k)] * this.slope + this.intercept;
  }

  voxelMl() {
    return this.spacingMm.reduce((product, mm) => product * mm, 1) / 1000;
  }
}

export async function readNifti(blob) {
  return parse(await contents(blob));
}

async function contents(blob) {
  const head = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (head[0] !== 0x1f || head[1] !== 0x8b) return blob.arrayBuffer();
  try {
    return await new Response(blob.stream().pipeThrough(new DecompressionStream("gzip")))
      .arrayBuffer();
  } catch (error) {
    throw new NiftiError(`it is no whole gzip file (${error.message}); copy it again`);
  }
}

// ArrayBuffer of an inflated file to a Volume.
export function parse(buffer) {
  const head = header(new DataView(buffer));
  const { dims, type, start, little } = head;
  const Type = TYPES[type];
  if (!Type) throw new NiftiError(`its data type ${type} is not one that this page can show`);
  const shape = dims.slice(1, 4);
  if (dims[0] < 3 || dims.slice(4, dims[0] + 1).some((size) => size > 1)) {
    throw new NiftiError(`it has ${dims[0]} dimensions; expected one volume of three`);
  }
  const count = shape.reduce((product, size) => product * size, 1);
  if (!(count > 0 && count <= MAX_VOXELS && shape.every((size) => size > 0))) {
    throw new NiftiError(`its shape (${shape.join(", ")}) cannot be shown`);
  }
  const size = count * Type.BYTES_PER_ELEMENT;
  if (buffer.byteLength < start + size) {
    throw new NiftiError(
      `it ends after ${buffer.byteLength} bytes, expected ${start + size}; copy it again`,
    );
  }
  const bytes = buffer.slice(start, start + size);
  if (!little) swap(new Uint8Array(bytes), Type.BYTES_PER_ELEMENT);
  const scaled = Number.isFinite(head.slope) && head.slope !== 0 && Number.isFinite(head.intercept);
  return new Volume({
    raw: type < 1024 ? new Type(bytes) : Float64Array.from(new Type(bytes), Number),
    slope: scaled ? head.slope : 1,
    intercept: scaled ? head.intercept : 0,
    ...oriented(shape, affine(head)),
  });
}

function header(view) {
  if (view.byteLength < 348) throw new NiftiError("it is too short to be NIfTI");
  for (const little of [true, false]) {
    const size = view.getInt32(0, little);
    if (size === 348) return nifti1(view, little);
    if (size === 540 && view.byteLength >= 540) return nifti2(view, little);
  }
  throw new NiftiError("it is not NIfTI");
}

function floats(view, at, count, little) {
  return Array.from({ length: count }, (_, n) => view.getFloat32(at + 4 * n, little));
}

function doubles(view, at, count, little) {
  return Array.from({ length: count }, (_, n) => view.getFloat64(at + 8 * n, little));
}

function nifti1(view, little) {
  return {
    little,
    dims: Array.from({ length: 8 }, (_, n) => view.getInt16(40 + 2 * n, little)),
    type: view.getInt16(70, little),
    pixdim: floats(view, 76, 8, little),
    start: view.getFloat32(108, little),
    slope: view.getFloat32(112, little),
    intercept: view.getFloat32(116, little),
    qformCode: view.getInt16(252, little),
    sformCode: view.getInt16(254, little),
    quaternion: floats(view, 256, 6, little),
    rows: floats(view, 280, 12, little),
  };
}

function nifti2(view, little) {
  return {
    little,
    dims: Array.from({ length: 8 }, (_, n) => Number(view.getBigInt64(16 + 8 * n, little))),
    type: view.getInt16(12, little),
    pixdim: doubles(view, 104, 8, little),
    start: Number(view.getBigInt64(168, little)),
    slope: view.getFloat64(176, little),
    intercept: view.getFloat64(184, little),
    qformCode: view.getInt32(344, little),
    sformCode: view.getInt32(348, little),
    quaternion: doubles(view, 352, 6, little),
    rows: doubles(view, 400, 12, little),
  };
}

function swap(bytes, width) {
  for (let at = 0; width > 1 && at < bytes.length; at += width) {
    bytes.subarray(at, at + width).reverse();
  }
}

// The 3 × 3 part of voxel index to RAS millimetres: sform, else qform, else the grid itself.
function affine(head) {
  const { rows, pixdim } = head;
  if (head.sformCode > 0) return [rows.slice(0, 3), rows.slice(4, 7), rows.slice(8, 11)];
  const mm = pixdim.slice(1, 4).map((size) => Math.abs(size) || 1);
  if (head.qformCode <= 0) return [[-mm[0], 0, 0], [0, mm[1], 0], [0, 0, mm[2]]];
  const [b, c, d] = head.quaternion;
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  if (pixdim[0] < 0) mm[2] = -mm[2];
  return [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ].map((row) => row.map((part, axis) => part * mm[axis]));
}

const ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
// LPS is RAS with the first two axes turned round.
const LPS = [-1, -1, 1];

function oriented(shape, matrix) {
  const length = [0, 1, 2].map((axis) => Math.hypot(...matrix.map((row) => row[axis])));
  if (!length.every((mm) => Number.isFinite(mm) && mm > 0)) {
    throw new NiftiError("its header does not say where its voxels lie (the affine is singular)");
  }
  const share = (world, axis) => matrix[world][axis] / length[axis];
  const fit = (order) => order.reduce((sum, axis, world) => sum + Math.abs(share(world, axis)), 0);
  const order = ORDERS.reduce((best, other) => (fit(other) > fit(best) + 1e-9 ? other : best));
  const steps = [1, shape[0], shape[0] * shape[1]];
  let start = 0;
  const strides = order.map((axis, world) => {
    if (share(world, axis) * LPS[world] > 0) return steps[axis];
    start += steps[axis] * (shape[axis] - 1);
    return -steps[axis];
  });
  return {
    shape: order.map((axis) => shape[axis]),
    spacingMm: order.map((axis) => length[axis]),
    start,
    strides,
  };
}
