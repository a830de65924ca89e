// The map of the training images: its colors, its buttons, and the image under the pointer.
import { color } from "./heat.js";
import { EmbeddingMap } from "./map.js";
import { fetchChecked, find, make, settings } from "./requests.js";

// Okabe and Ito 2008, as in the report, and lighter for a dark page
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8800a", "#56b4e9", "#000000"];
const DARK = ["#4aa8e0", "#f08c3c", "#2fc08f", "#e39bc4", "#f2c14e", "#a9dcfa", "#f4f4f6"];
const STEPS = 32; // colors of numbers
const PAUSE = 40; // milliseconds that the pointer must rest before an image is loaded
const isDark = matchMedia("(prefers-color-scheme: dark)");
const parse = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));

export class MapView {
  // labelOf(row) returns a text, onPick(row) and onChoose(rows) are called after a click and after a rectangle
  constructor({ labelOf, onPick, onChoose }) {
    this.labelOf = labelOf;
    this.map = new EmbeddingMap(find("map"), { onHover: (...place) => this.#hover(...place), onPick, onChoose });
    find("rectangle").addEventListener("click", () => {
      this.map.isChoosing = !this.map.isChoosing;
      find("rectangle").setAttribute("aria-pressed", this.map.isChoosing);
    });
    find("zoom-in").addEventListener("click", () => this.map.zoom(1.5));
    find("zoom-out").addEventListener("click", () => this.map.zoom(1 / 1.5));
    find("zoom-all").addEventListener("click", () => this.map.showAll());
    isDark.addEventListener("change", () => {
      if (this.classes === undefined) return; // nothing is loaded yet
      this.setLabels(this.classes, this.n);
      this.show(this.rows, this.chosen);
    });
  }

  async load(note) {
    if (this.isLoaded) return;
    this.isLoaded = true;
    try {
      const points = new Uint16Array(await (await fetchChecked("/app/map")).arrayBuffer());
      find("map-pane").hidden = false;
      document.querySelector(".panes").classList.add("two");
      find("map-note").textContent = note;
      this.map.setPoints(points);
    } catch (error) {
      this.isLoaded = false;
      throw error;
    }
  }

  // Give each image the color of its class, or of its value.
  setLabels(classes, n) {
    Object.assign(this, { classes, n });
    const colors = isDark.matches ? DARK : LIGHT;
    const numbers = settings.classes.length ? [] : classes.map(Number).filter(Number.isFinite);
    const gray = parse(isDark.matches ? "#8b8d96" : "#767676");
    if (numbers.length) {
      const [low, high] = [Math.min, Math.max].map((choose) => numbers.reduce((a, b) => choose(a, b)));
      this.palette = Array.from({ length: STEPS }, (_, i) => color(i / (STEPS - 1)).map(Math.round));
      this.codes = this.#encode((text) => Math.round(((Number(text) - low) / (high - low || 1)) * (STEPS - 1)));
      this.#explain([[low, this.palette[0]], [high, this.palette[STEPS - 1]]]);
    } else {
      const positions = new Map(classes.map((text, i) => [text, i % colors.length]));
      this.palette = colors.map(parse);
      this.codes = this.#encode((text) => positions.get(text));
      this.#explain(classes.length > colors.length ? [] : classes.map((text, i) => [text, this.palette[i]]));
    }
    this.palette.push(gray);
  }

  show(rows, chosen) {
    Object.assign(this, { rows, chosen });
    const [shown, marked] = [new Uint8Array(this.n), new Uint8Array(this.n)];
    for (const row of rows) shown[row] = 1;
    for (const row of chosen) marked[row] = 1;
    const [back, faint, ring] = (isDark.matches ? ["#212429", "#3f444d", "#ffffff"] : ["#f2f5f8", "#cdd2da", "#000000"]).map(parse);
    this.map.setLook({ palette: this.palette, codes: this.codes, shown, chosen: marked, back, faint, ring });
  }

  #encode(toCode) {
    return Uint8Array.from({ length: this.n }, (_, row) => {
      const text = this.labelOf(row);
      return text === undefined ? this.palette.length : toCode(text);
    });
  }

  #explain(entries) {
    find("legend").replaceChildren(...entries.map(([text, pixel]) => {
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = `rgb(${pixel.join(" ")})`;
      return make("li", {}, swatch, String(text));
    }));
  }

  #hover(row, x, y) {
    if (row === this.hovered) return;
    this.hovered = row;
    clearTimeout(this.timer);
    find("tip").hidden = true;
    if (row === undefined) return;
    this.timer = setTimeout(() => {
      find("tip-image").src = `/app/training/${row}`;
      find("tip-label").textContent = this.labelOf(row) ?? "no label";
      find("tip").hidden = false;
      const { clientWidth, clientHeight } = find("map");
      find("tip").style.left = `${x < clientWidth / 2 ? x + 14 : x - 14 - find("tip").offsetWidth}px`;
      find("tip").style.top = `${y < clientHeight / 2 ? y + 14 : y - 14 - find("tip").offsetHeight}px`;
    }, PAUSE);
  }
}
