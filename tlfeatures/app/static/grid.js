// A grid of images with virtual scrolling: only the cells that are visible are in the document.
const WIDTH = 104; // least width of a cell
const TEXT = 46; // height of the two lines of text
const SPARE = 1; // lines of cells above and below the visible ones

export class Grid {
  // describe(row) returns {label, note, name, isChanged}; onMove and onChoose are called after the focus or the choice changed
  constructor(box, space, { describe, onMove, onChoose, onOpen }) {
    Object.assign(this, { box, space, describe, onMove, onChoose, onOpen });
    this.rows = [];
    this.chosen = new Set();
    this.focus = 0; // position in rows
    this.anchor = 0;
    this.cells = new Map(); // position -> element
    this.top = 0;
    box.addEventListener("scroll", () => this.draw());
    box.addEventListener("keydown", (event) => this.#press(event));
    box.addEventListener("click", (event) => this.#click(event));
    box.addEventListener("dblclick", () => this.onOpen());
    new ResizeObserver(() => this.#resize()).observe(box);
  }

  get focused() { return this.rows[this.focus]; }

  setRows(rows, keepPlace) {
    const row = keepPlace ? this.focused : undefined;
    this.rows = rows;
    this.focus = Math.max(0, row === undefined ? 0 : rows.indexOf(row));
    this.anchor = this.focus;
    this.#clear();
    this.#resize();
    if (!keepPlace) this.box.scrollTop = 0;
    this.draw();
    this.onMove();
  }

  // Draw all cells again, because what they show has changed.
  refresh() {
    this.#clear();
    this.draw();
  }

  draw() {
    if (!this.columns) return;
    const { scrollTop, clientHeight } = this.box;
    const isFast = Math.abs(scrollTop - this.top) > 2 * clientHeight;
    this.top = scrollTop;
    const first = Math.max(0, Math.floor(scrollTop / this.height) - SPARE) * this.columns;
    const last = Math.min(this.rows.length, Math.ceil((scrollTop + clientHeight) / this.height + SPARE) * this.columns);
    const spare = [];
    for (const [position, cell] of this.cells) {
      if (position >= first && position < last) continue;
      this.cells.delete(position);
      spare.push(cell);
    }
    for (let position = first; position < last; position += 1) {
      if (!this.cells.has(position)) this.#fill(position, spare.pop() ?? this.#make());
    }
    for (const cell of spare) cell.remove();
    this.#showFocus();
    clearTimeout(this.timer);
    if (isFast) this.timer = setTimeout(() => this.#load(), 80); // images that only rush past are not requested
    else this.#load();
  }

  move(position, isExtending = false) {
    if (!this.rows.length) return;
    this.focus = Math.max(0, Math.min(this.rows.length - 1, position));
    if (isExtending) {
      this.chosen.clear();
      const [low, high] = [Math.min(this.anchor, this.focus), Math.max(this.anchor, this.focus)];
      for (let i = low; i <= high; i += 1) this.chosen.add(this.rows[i]);
      this.#showChosen();
      this.onChoose();
    } else this.anchor = this.focus;
    const top = Math.floor(this.focus / this.columns) * this.height;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.box.scrollTop = top + this.height - clientHeight;
    this.draw();
    this.onMove();
  }

  choose(rows) {
    this.chosen = new Set(rows);
    this.#showChosen();
    this.onChoose();
  }

  #resize() {
    const width = this.space.clientWidth;
    if (!width) return; // the view is hidden
    const columns = Math.max(1, Math.floor(width / WIDTH));
    const isSame = columns === this.columns && width === this.width;
    Object.assign(this, { columns, width, cellWidth: width / columns, height: Math.round(width / columns) + TEXT });
    this.space.style.height = `${Math.ceil(this.rows.length / columns) * this.height}px`;
    if (isSame) return;
    this.#clear();
    this.draw();
  }

  #clear() {
    for (const cell of this.cells.values()) cell.remove();
    this.cells.clear();
  }

  #make() {
    const cell = document.createElement("div");
    cell.setAttribute("role", "option");
    cell.append(document.createElement("img"), document.createElement("span"), document.createElement("span"));
    this.space.append(cell);
    return cell;
  }

  #fill(position, cell) {
    const row = this.rows[position];
    const { label, note, name, isChanged } = this.describe(row);
    const [image, first, second] = cell.children;
    image.removeAttribute("src");
    image.alt = name;
    cell.title = name;
    cell.dataset.row = row;
    cell.id = `cell-${row}`;
    cell.setAttribute("aria-posinset", position + 1);
    cell.setAttribute("aria-setsize", this.rows.length);
    cell.setAttribute("aria-selected", this.chosen.has(row));
    first.textContent = label;
    first.className = isChanged ? "changed" : "";
    second.textContent = note;
    second.className = "file";
    cell.style.width = `${this.cellWidth}px`;
    cell.style.height = `${this.height}px`;
    const [left, top] = [(position % this.columns) * this.cellWidth, Math.floor(position / this.columns) * this.height];
    cell.style.transform = `translate(${left}px, ${top}px)`;
    this.cells.set(position, cell);
  }

  #load() {
    for (const cell of this.cells.values()) {
      const image = cell.firstChild;
      if (!image.hasAttribute("src")) image.src = `/app/training/${cell.dataset.row}`;
    }
  }

  #showFocus() {
    for (const [position, cell] of this.cells) cell.classList.toggle("focused", position === this.focus);
    if (this.cells.has(this.focus)) this.box.setAttribute("aria-activedescendant", this.cells.get(this.focus).id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  #showChosen() {
    for (const cell of this.cells.values()) cell.setAttribute("aria-selected", this.chosen.has(Number(cell.dataset.row)));
  }

  #toggle() {
    if (!this.chosen.delete(this.focused)) this.chosen.add(this.focused);
    this.#showChosen();
    this.onChoose();
  }

  #click(event) {
    const cell = event.target.closest("[role=option]");
    if (!cell || event.detail > 1) return; // the second click of a double click
    this.move(this.rows.indexOf(Number(cell.dataset.row)), event.shiftKey);
    if (!event.shiftKey) this.#toggle();
  }

  #press(event) {
    const page = this.columns * Math.max(1, Math.floor(this.box.clientHeight / this.height));
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page,
      Home: -this.rows.length, End: this.rows.length,
    };
    if (!this.rows.length || event.altKey) return;
    if (event.key in steps) this.move(this.focus + steps[event.key], event.shiftKey);
    else if (event.key === "Enter") this.onOpen();
    else if (event.key === " ") this.#toggle();
    else if (event.key === "Escape" && this.chosen.size) this.choose([]);
    else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey)) this.choose(this.rows);
    else return;
    event.preventDefault();
  }
}
