// Draw a map over an image, in the colors of viridis.
const VIRIDIS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50],
  [253, 231, 37],
];

export function color(share) {
  const position = share * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(position), VIRIDIS.length - 2);
  return VIRIDIS[i].map((value, k) => value + (position - i) * (VIRIDIS[i + 1][k] - value));
}

export function drawMap(context, answer, opacity) {
  const map = answer.map;
  const small = document.createElement("canvas");
  small.width = map[0].length;
  small.height = map.length;
  const values = map.flat();
  const low = Math.min(...values);
  const range = Math.max(...values) - low || 1;
  const pixels = new ImageData(small.width, small.height);
  values.forEach((value, i) => pixels.data.set([...color((value - low) / range), 255], 4 * i));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const { width, height } = context.canvas;
  const [left, top, right, bottom] = answer.box;
  context.save();
  context.globalAlpha = opacity;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, left * width, top * height, (right - left) * width, (bottom - top) * height);
  context.restore();
}
