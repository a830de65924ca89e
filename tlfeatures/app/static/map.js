// A map of points on a canvas. The pixels are written directly, so that 50,000 points move smoothly without a graphics card.
const NO_POINT = 65535;
const NEAR = 10; // pixels from a point at which it is named
const LARGEST_ZOOM = 200;

const toPixel = (color) => {
  const [red, green, blue] = color;
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
};

function listOffsets(radius, width) {
  const offsets = [];
  const reach = Math.ceil(radius);
  for (let y = -reach; y <= reach; y += 1) {
    for (let x = -reach; x <= reach; x += 1) if (x * x + y * y <= radius * radius + 0.1) offsets.push(y * width + x);
  }
  return offsets;
}

export class EmbeddingMap {
  // onHover(row or undefined, x, y), onPick(row), onChoose(rows)
  constructor(canvas, { onHover, onPick, onChoose }) {
    Object.assign(this, { canvas, onHover, onPick, onChoose });
    this.context = canvas.getContext("2d", { alpha: false, willReadFrequently: true }); // in memory
    this.rows = new Int32Array(0); // of the points, in the order in which they are drawn
    this.isChoosing = false;
    this.pointers = new Map();
    this.rectangle = null;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#release(event));
    canvas.addEventListener("pointerleave", () => this.onHover());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-0.0015 * event.deltaY), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.#type(event));
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  setPoints(coordinates) {
    const n = coordinates.length / 2;
    const step = n % 7919 ? 7919 : 7907; // a prime: neighbors in the list, often of one class, are not drawn in turn
    const order = [];
    for (let i = 0; i < n; i += 1) order.push((i * step) % n);
    this.rows = Int32Array.from(order.filter((row) => coordinates[2 * row] !== NO_POINT));
    this.x = Float32Array.from(this.rows, (row) => coordinates[2 * row] / NO_POINT);
    this.y = Float32Array.from(this.rows, (row) => 1 - coordinates[2 * row + 1] / NO_POINT);
    this.screenX = new Float32Array(this.rows.length);
    this.screenY = new Float32Array(this.rows.length);
    this.showAll();
  }

  // codes: a color for each row; shown and chosen: 1 or 0 for each row
  setLook({ palette, codes, shown, chosen, back, faint, ring }) {
    this.look = { palette: Uint32Array.from(palette, toPixel), codes, shown, chosen, back: toPixel(back), faint: toPixel(faint),
      ring: toPixel(ring), line: `rgb(${ring.join(" ")})` };
    this.draw();
  }

  showAll() {
    const { clientWidth, clientHeight } = this.canvas;
    const side = 0.94 * Math.min(clientWidth, clientHeight);
    this.smallest = side;
    Object.assign(this, { scale: side, left: (clientWidth - side) / 2, top: (clientHeight - side) / 2 });
    this.draw();
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.max(this.smallest / 2, Math.min(this.smallest * LARGEST_ZOOM, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.draw();
  }

  draw() {
    if (this.frame === undefined && this.look && this.buffer) this.frame = requestAnimationFrame(() => this.#paint());
  }

  #resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return; // the view is hidden
    const isFirst = !this.buffer;
    this.ratio = Math.min(2, devicePixelRatio);
    this.canvas.width = Math.round(clientWidth * this.ratio);
    this.canvas.height = Math.round(clientHeight * this.ratio);
    this.margin = Math.ceil(18 * this.ratio); // points at the edge are drawn whole into a larger buffer
    this.buffer = new ImageData(this.canvas.width + 2 * this.margin, this.canvas.height + 2 * this.margin);
    this.pixels = new Uint32Array(this.buffer.data.buffer);
    if (isFirst || this.scale < 2) this.showAll();
    else this.draw();
  }

  #paint() {
    this.frame = undefined;
    const { rows, x, y, screenX, screenY, pixels, margin, ratio } = this;
    const { shown, chosen, codes, palette, back, faint, ring } = this.look;
    const width = this.buffer.width;
    const [right, bottom] = [width - margin / 2, this.buffer.height - margin / 2];
    const zoomed = Math.min(1.8, Math.sqrt(this.scale / this.smallest));
    const radius = ratio * Math.max(1, zoomed * (rows.length > 20000 ? 1 : rows.length > 2000 ? 1.6 : rows.length > 300 ? 2.6 : 3.6));
    const disc = listOffsets(Math.min(radius, margin / 2 - 2), width);
    const large = listOffsets(Math.min(radius + 1.5 * ratio, margin / 2), width);
    pixels.fill(back);
    const [scale, left, top] = [this.scale * ratio, this.left * ratio + margin, this.top * ratio + margin];
    const isVisible = (i) => screenX[i] > margin / 2 && screenX[i] < right && screenY[i] > margin / 2 && screenY[i] < bottom;
    const stamp = (offsets, i, color) => {
      const center = Math.round(screenY[i]) * width + Math.round(screenX[i]);
      for (let k = 0; k < offsets.length; k += 1) pixels[center + offsets[k]] = color;
    };
    for (let i = 0; i < rows.length; i += 1) {
      screenX[i] = left + x[i] * scale;
      screenY[i] = top + y[i] * scale;
      if (!shown[rows[i]] && isVisible(i)) stamp(disc, i, faint);
    }
    for (let i = 0; i < rows.length; i += 1) if (shown[rows[i]] && isVisible(i)) stamp(disc, i, palette[codes[rows[i]]]);
    for (let i = 0; i < rows.length; i += 1) {
      if (!chosen[rows[i]] || !isVisible(i)) continue;
      stamp(large, i, ring);
      stamp(disc, i, palette[codes[rows[i]]]);
    }
    this.context.putImageData(this.buffer, -margin, -margin);
    if (this.rectangle) this.#paintRectangle();
  }

  #paintRectangle() {
    const [left, top, right, bottom] = this.rectangle.map((value) => value * this.ratio);
    Object.assign(this.context, { strokeStyle: this.look.line, lineWidth: 1.5 * this.ratio });
    this.context.setLineDash([5 * this.ratio, 4 * this.ratio]);
    this.context.strokeRect(left, top, right - left, bottom - top);
  }

  #find(x, y) {
    const [wantedX, wantedY] = [x * this.ratio + this.margin, y * this.ratio + this.margin];
    let [nearest, least] = [undefined, (NEAR * this.ratio) ** 2];
    for (let i = 0; i < this.rows.length; i += 1) {
      const distance = (this.screenX[i] - wantedX) ** 2 + (this.screenY[i] - wantedY) ** 2;
      if (distance < least && this.look.shown[this.rows[i]]) [nearest, least] = [this.rows[i], distance];
    }
    return nearest;
  }

  #press(event) {
    if (event.button !== 0 || !this.look) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    const isRectangle = this.pointers.size === 1 && (this.isChoosing || event.shiftKey);
    this.rectangle = isRectangle ? [event.offsetX, event.offsetY, event.offsetX, event.offsetY] : null;
    this.isMoved = false;
    this.onHover();
  }

  #drag(event) {
    const { offsetX, offsetY, pointerId } = event;
    if (!this.look) return;
    if (!this.pointers.has(pointerId)) {
      this.onHover(this.#find(offsetX, offsetY), offsetX, offsetY);
      return;
    }
    const before = this.pointers.get(pointerId);
    if (Math.hypot(offsetX - before[0], offsetY - before[1]) > 2) this.isMoved = true;
    if (this.rectangle) [this.rectangle[2], this.rectangle[3]] = [offsetX, offsetY];
    else if (this.pointers.size === 2) { // two fingers
      const [other] = [...this.pointers].filter(([id]) => id !== pointerId).map(([, place]) => place);
      const distance = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
      this.zoom(distance([offsetX, offsetY]) / distance(before), (offsetX + other[0]) / 2, (offsetY + other[1]) / 2);
    } else {
      this.left += offsetX - before[0];
      this.top += offsetY - before[1];
    }
    if (!this.rectangle || this.isMoved) this.pointers.set(pointerId, [offsetX, offsetY]);
    this.draw();
  }

  #release(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const rectangle = this.rectangle;
    this.rectangle = null;
    this.draw();
    if (event.type === "pointercancel") return;
    if (rectangle && this.isMoved) this.#chooseInside(rectangle);
    else if (!this.isMoved && !rectangle) {
      const row = this.#find(event.offsetX, event.offsetY);
      if (row !== undefined) this.onPick(row);
    }
  }

  #chooseInside([x1, y1, x2, y2]) {
    const toBuffer = (value) => value * this.ratio + this.margin;
    const [left, right] = [toBuffer(Math.min(x1, x2)), toBuffer(Math.max(x1, x2))];
    const [top, bottom] = [toBuffer(Math.min(y1, y2)), toBuffer(Math.max(y1, y2))];
    const rows = [];
    for (let i = 0; i < this.rows.length; i += 1) {
      const [x, y, row] = [this.screenX[i], this.screenY[i], this.rows[i]];
      if (x >= left && x <= right && y >= top && y <= bottom && this.look.shown[row]) rows.push(row);
    }
    this.onChoose(rows.sort((a, b) => a - b));
  }

  #type(event) {
    const steps = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) {
      this.left += steps[event.key][0];
      this.top += steps[event.key][1];
      this.draw();
    } else if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (event.key === "0") this.showAll();
    else return;
    event.preventDefault();
  }
}
