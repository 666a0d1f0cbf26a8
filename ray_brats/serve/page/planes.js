// Cuts through a volume as pixels: the browser's side of ray_brats/report/panels.py. Axes are LPS, the
// display is radiological: the patient's right is on the left, anterior or superior on top.

export const PLANES = [
  { name: "axial", axis: 2, across: 0, upright: 1, grows: "down", letters: "RLAP" },
  { name: "coronal", axis: 1, across: 0, upright: 2, grows: "up", letters: "RLSI" },
  { name: "sagittal", axis: 0, across: 1, upright: 2, grows: "up", letters: "APSI" },
];
export const WINDOW_PERCENTILES = [1, 99.5];
const SAMPLES = 250000;

// Intensities [low, high] between which grey spreads: of the whole volume, blind to background
// and outliers.
export function robustWindow(volume) {
  const { raw, slope, intercept } = volume;
  // An odd step visits all columns of a row in turn.
  const step = Math.max(1, Math.ceil(raw.length / (4 * SAMPLES))) | 1;
  const signal = [];
  for (let at = 0; at < raw.length; at += step) {
    const value = raw[at] * slope + intercept;
    if (value !== 0 && Number.isFinite(value)) signal.push(value);
  }
  if (!signal.length) return [0, 1];
  const sorted = Float64Array.from(signal).sort();
  const [low, high] = WINDOW_PERCENTILES.map((share) => {
    const rank = (share / 100) * (sorted.length - 1);
    const below = Math.floor(rank);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (rank - below) * (sorted[above] - sorted[below]);
  });
  return high > low ? [low, high] : [low, low + 1];
}

// Voxel along the upright axis that a row of pixels shows, and the other way round.
export function flipped(plane, size, at) {
  return plane.grows === "up" ? size - 1 - at : at;
}

// RGBA pixels of a cut, one a voxel.
// mask: {index, volume} or null; table: by class index [r, g, b] or null where it is hidden.
export function pixelsOf(plane, at, volume, [low, high], mask, table, opacity) {
  const [width, height] = [volume.shape[plane.across], volume.shape[plane.upright]];
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const { raw, slope, intercept } = volume;
  const scale = 255 / (high - low);
  const walk = (other) => {
    const place = [0, 0, 0];
    place[plane.axis] = at;
    return {
      start: other.offset(...place),
      across: other.strides[plane.across],
      upright: other.strides[plane.upright],
    };
  };
  const grey = walk(volume);
  const over = mask && walk(mask.volume);
  const mix = (colour, shade) => Math.round(colour * opacity + shade * (1 - opacity));
  for (let y = 0; y < height; y += 1) {
    const row = flipped(plane, height, y);
    for (let x = 0; x < width; x += 1) {
      const value = raw[grey.start + x * grey.across + row * grey.upright] * slope + intercept;
      // Background is black even where intensities are z-scores and 0 is their middle.
      const seen = value !== 0 && Number.isFinite(value) ? (value - low) * scale : 0;
      const shade = seen < 0 ? 0 : seen > 255 ? 255 : Math.round(seen);
      const colour =
        over && table[mask.index[over.start + x * over.across + row * over.upright]];
      pixels[y * width + x] = colour
        ? abgr(mix(colour[0], shade), mix(colour[1], shade), mix(colour[2], shade))
        : abgr(shade, shade, shade);
    }
  }
  return image;
}

// Every machine that browsers run on is little endian.
function abgr(red, green, blue) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// Voxels of each class index, and the cross-hair that sees most tumour: on each axis the slice
// with most of it. LPS; null where the mask is empty.
export function survey({ index, volume }, classes) {
  const counts = new Array(classes).fill(0);
  const [width, height, depth] = volume.shape;
  const sums = volume.shape.map((size) => new Float64Array(size));
  for (let k = 0; k < depth; k += 1) {
    for (let j = 0; j < height; j += 1) {
      let at = volume.offset(0, j, k);
      for (let i = 0; i < width; i += 1, at += volume.strides[0]) {
        const found = index[at];
        if (!found) continue;
        counts[found] += 1;
        sums[0][i] += 1;
        sums[1][j] += 1;
        sums[2][k] += 1;
      }
    }
  }
  const most = sums.map((sum) => sum.indexOf(Math.max(...sum)));
  return { counts, most: counts.some((count) => count > 0) ? most : null };
}
