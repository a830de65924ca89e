// Correct labels by keyboard, and train the head again.
import { find, request, settings } from "./requests.js";

const say = (text) => { find("label-status").textContent = text; };
const countChanges = (n) => `${n} ${n === 1 ? "label" : "labels"} changed.`;
const SIZE = 60;
let images = [];
let offset = 0;
let total = 0;
let focused = 0;
const selected = new Set();
let chosenRows = []; // images that were chosen in the view of the data

async function attempt(button, text, action) {
  say(text);
  if (button) button.disabled = true;
  try {
    await action();
  } catch (error) {
    say(error.message);
  } finally {
    if (button) button.disabled = false;
  }
}

async function load() {
  await attempt(null, "Loading ...", async () => {
    const choice = find("choice").value;
    const part = chosenRows.slice(offset, offset + SIZE).join(",");
    const answer = await request(choice === "rows" ? `/app/labels?rows=${part}`
      : `/app/labels?choice=${encodeURIComponent(choice)}&offset=${offset}&size=${SIZE}`);
    ({ images, total = chosenRows.length } = answer);
    if (!images.length && offset) { // the only image of the last page is no longer in the list
      offset = 0;
      await load();
      return;
    }
    selected.clear();
    focused = 0;
    show();
    say(total ? countChanges(answer.changed) : "There are no such images. Choose others above.");
  });
}

function show() {
  find("grid").replaceChildren(...images.map((image, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.row = image.row;
    button.tabIndex = i === focused ? 0 : -1;
    button.setAttribute("aria-pressed", selected.has(image.row));
    const preview = Object.assign(document.createElement("img"), { src: `/app/training/${image.row}`, alt: image.name, loading: "lazy" });
    const isChanged = image.label !== image.original;
    const text = `${image.label ?? "no label"}${isChanged ? ` (was ${image.original ?? "none"})` : ""}`;
    const label = Object.assign(document.createElement("span"), { className: isChanged ? "changed" : "", textContent: text });
    const note = Object.assign(document.createElement("span"), { className: "file", textContent: image.note });
    button.append(preview, label, note);
    const tile = document.createElement("li");
    tile.append(button);
    return tile;
  }));
  find("range").textContent = total ? `${offset + 1} to ${offset + images.length} of ${total}` : "";
  find("previous").disabled = offset === 0;
  find("next").disabled = offset + images.length >= total;
}

function move(i) {
  if (!images.length) return;
  focused = Math.max(0, Math.min(images.length - 1, i));
  const buttons = find("grid").querySelectorAll("button");
  buttons.forEach((button, k) => { button.tabIndex = k === focused ? 0 : -1; });
  buttons[focused].focus();
}

async function setLabel(label) {
  const rows = selected.size ? [...selected] : images[focused] ? [images[focused].row] : [];
  if (!rows.length) return;
  await attempt(null, "", async () => {
    const answer = await request("/app/labels", { rows, label });
    for (const image of images) if (rows.includes(image.row)) image.label = label;
    const single = selected.size === 0;
    const place = single ? focused + 1 : focused;
    if (answer.images > rows.length) await load(); // the same files under other names have changed too
    selected.clear();
    show();
    move(place);
    say(`${answer.images === 1 ? "1 image is" : `${answer.images} images are`} ${label} now. ${countChanges(answer.changed)}`);
  });
}

async function undo() {
  await attempt(null, "", async () => {
    const answer = await request("/app/undo", {});
    const place = focused;
    await load();
    move(place);
    say(answer.rows.length ? `The last change was undone. ${countChanges(answer.changed)}` : "There is no change to undo.");
  });
}

const percent = (score) => `${(100 * score).toFixed(1)}%`;

function describeTraining({ state, done, total, provisional_seconds: provisional, seconds, scores, error }) {
  if (state === "training") {
    return `Predictions use a provisional linear head, computed in ${provisional.toFixed(2)} s, until the head of the model is trained ...`;
  }
  if (state === "failed") return error;
  const trained = `The head was trained again in ${seconds.toFixed(2)} s; all predictions use it now.`;
  if (error) return `${trained} ${error}`;
  if (state === "comparing") return `${trained} Comparing by cross-validation: ${done} of ${total} fits ...`;
  return `${trained} Accuracy in ${scores.folds}-fold cross-validation against the current labels of ${scores.images} images: `
    + `${percent(scores.before)} before the changes, ${percent(scores.after)} after.`;
}

let followed = 0; // the last call of follow

async function follow() {
  followed += 1;
  const call = followed;
  try {
    for (;;) {
      const training = await request("/app/retrain");
      if (call !== followed || training.state === "unchanged") return;
      const text = describeTraining(training);
      if (find("scores").textContent !== text) find("scores").textContent = text;
      find("save").disabled = !["comparing", "finished"].includes(training.state);
      if (["finished", "failed"].includes(training.state)) return;
      await new Promise((resolve) => { setTimeout(resolve, 300); });
    }
  } catch (error) {
    find("scores").textContent = error.message;
  }
}

find("retrain").addEventListener("click", (event) => attempt(event.target, "Training ...", async () => {
  await request("/app/retrain", {});
  say("New predictions are in use.");
  follow();
}));
find("save").addEventListener("click", () => attempt(null, "Saving ...", async () => {
  say(`Saved ${(await request("/app/save", {})).path}. The old model was not changed.`);
}));
find("undo").addEventListener("click", undo);
find("choice").addEventListener("change", () => { offset = 0; load(); });
find("previous").addEventListener("click", () => { offset = Math.max(0, offset - SIZE); load(); });
find("next").addEventListener("click", () => { offset += SIZE; load(); });
find("classes").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) setLabel(button.dataset.label);
});
find("grid").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const row = Number(button.dataset.row);
  if (!selected.delete(row)) selected.add(row);
  button.setAttribute("aria-pressed", selected.has(row));
  move(images.findIndex((image) => image.row === row));
});
document.addEventListener("keydown", (event) => {
  if (find("label").hidden || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  const columns = getComputedStyle(find("grid")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const inGrid = event.target.closest("#grid");
  if (event.key in steps && inGrid) move(focused + steps[event.key]);
  else if (/^[1-9]$/.test(event.key) && settings.classes[event.key - 1] !== undefined) setLabel(settings.classes[event.key - 1]);
  else if (event.key.toLowerCase() === "u") undo();
  else return;
  event.preventDefault();
});
document.addEventListener("correct", (event) => {
  chosenRows = event.detail;
  if (!chosenRows.length) return;
  const option = find("choice").querySelector("[value=rows]") ?? document.createElement("option");
  Object.assign(option, { value: "rows", textContent: `chosen in Data (${chosenRows.length.toLocaleString("en")})` });
  find("choice").append(option);
  find("choice").value = "rows";
  offset = 0;
  location.hash = "label"; // loads the view
});
document.addEventListener("view", (event) => { if (event.detail === "label") load(); });
if (!find("label").hidden) load();
follow();
