// The training images: a grid with filters, and the results of the checks.
import { Grid } from "./grid.js";
import { MapView } from "./map_view.js";
import { find, make, request } from "./requests.js";

const PAUSE = 500; // milliseconds between requests for the state of the checks
let data = null; // {names, texts, labels, original, split, splits, unreadable}
let checks = { number: 0, state: "running" };
let findings = null; // of the checks: maps from row to a note, in the order in which they are shown
let predicted = []; // texts, undefined where there is no prediction
let unreadable = new Set();
let timer = 0;

const say = (text) => { find("data-status").textContent = text; };
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const labelOf = (row) => data.texts[data.labels[row]];

// --- filters

function isMistake(row) {
  return predicted[row] !== undefined && data.labels[row] >= 0 && predicted[row] !== labelOf(row);
}

function listRows(finding) {
  const all = data.names.keys();
  if (finding === "chosen") return [...all].filter((row) => grid.chosen.has(row));
  if (finding === "changed") return [...all].filter((row) => data.labels[row] !== data.original[row]);
  if (finding === "unreadable") return data.unreadable;
  if (finding === "mistakes") return [...all].filter(isMistake);
  if (finding === "suspected") return [...findings.suspected.keys()].filter((row) => labelOf(row) === findings.checked[row]);
  if (finding in (findings ?? {})) return [...findings[finding].keys()];
  return [...all];
}

function filter(keepPlace = false) {
  if (!data) return;
  const [label, split] = [find("class")?.value ?? "", find("split")?.value ?? ""];
  const part = find("file").value.trim().toLowerCase();
  const rows = listRows(find("finding").value).filter((row) => (!label || labelOf(row) === label)
    && (!split || data.splits[data.split[row]] === split) && (!part || data.names[row].toLowerCase().includes(part)));
  grid.setRows(rows, keepPlace);
  view.show(grid.rows, grid.chosen);
  tell();
}

function tell() {
  const n = grid.rows.length;
  const shown = n === data.names.length ? "" : ` of ${data.names.length.toLocaleString("en")}`;
  const chosen = grid.chosen.size ? ` ${grid.chosen.size.toLocaleString("en")} chosen.` : "";
  const none = find("finding").value === "all" ? "No image matches. Change the filters above."
    : "There are no such images. Show others, or change the filters above.";
  say(n ? `${count(n, "image", "images").replace(" image", `${shown} image`)}.${chosen}` : `${none}${chosen}`);
  find("open").disabled = !n;
  for (const id of ["correct", "show-chosen", "choose-none"]) if (find(id)) find(id).disabled = !grid.chosen.size;
}

function setOptions() {
  const counts = { chosen: grid.chosen.size, changed: listRows("changed").length, unreadable: data.unreadable.length };
  if (findings) {
    Object.assign(counts, { suspected: listRows("suspected").length, duplicates: findings.duplicates.size, outliers: findings.outliers.size });
    if (predicted.some((text) => text !== undefined)) counts.mistakes = listRows("mistakes").length;
  }
  for (const option of find("finding").options) {
    if (!(option.value in counts)) continue;
    option.textContent = option.textContent.replace(/ \([\d,]+\)$/, "") + ` (${counts[option.value].toLocaleString("en")})`;
    option.disabled = false;
  }
}

function fillSelect(select, names) {
  if (!select) return;
  const value = select.value;
  select.replaceChildren(select.options[0], ...names.map((name) => make("option", { value: name, textContent: name })));
  select.value = names.includes(value) ? value : "";
}

// --- what is shown of an image

function noteOf(row) {
  const shown = find("finding").value;
  if (unreadable.has(row)) return "cannot be read";
  if (shown === "duplicates" || shown === "outliers" || shown === "suspected") return findings[shown].get(row) ?? "";
  return isMistake(row) ? `predicted ${predicted[row]}` : "";
}

function describe(row) {
  const isChanged = data.labels[row] !== data.original[row];
  return { name: data.names[row], label: labelOf(row) ?? "no label", note: noteOf(row), isChanged };
}

// --- one image

function show(step = 0) {
  if (step) grid.move(grid.focus + step);
  const row = grid.focused;
  if (row === undefined) return;
  const facts = { label: labelOf(row) ?? "none" };
  if (data.labels[row] !== data.original[row]) facts["label before"] = data.texts[data.original[row]] ?? "none";
  if (predicted[row] !== undefined) facts["predicted out of fold"] = predicted[row];
  if (data.split) facts.split = data.splits[data.split[row]];
  if (findings?.suspected.has(row)) facts["suspected label error"] = findings.suspected.get(row);
  if (findings?.duplicates.has(row)) facts.duplicate = findings.duplicates.get(row);
  if (findings?.outliers.has(row)) facts.outlier = findings.outliers.get(row);
  facts.place = `${grid.focus + 1} of ${grid.rows.length}`;
  find("viewer-name").textContent = data.names[row];
  find("viewer-image").alt = unreadable.has(row) ? "This file cannot be read" : "";
  find("viewer-image").src = `/app/training/${row}/large`;
  find("viewer-facts").replaceChildren(...Object.entries(facts).flatMap(([name, text]) => [
    make("dt", { textContent: name }), make("dd", { textContent: text })]));
  find("viewer-previous").disabled = grid.focus === 0;
  find("viewer-next").disabled = grid.focus === grid.rows.length - 1;
  if (!find("viewer").open) find("viewer").showModal();
}

function correct(rows) {
  find("viewer").close();
  document.dispatchEvent(new CustomEvent("correct", { detail: rows.filter((row) => !unreadable.has(row)) }));
}

const grid = new Grid(find("cells"), find("cells-space"), {
  describe, onMove: () => {}, onOpen: () => show(), onChoose: () => { setOptions(); view.show(grid.rows, grid.chosen); tell(); },
});
const view = new MapView({ labelOf, onPick: (row) => grid.move(grid.rows.indexOf(row)), onChoose: (rows) => grid.choose(rows) });

// --- requests

const toMap = (rows, note) => new Map(rows.map((row, i) => [row, note(i)]));

function setFindings(result) {
  const { suspected, duplicates, outliers, texts } = result;
  findings = {
    checked: result.labels.map((code) => texts[code]),
    suspected: toMap(suspected.rows, (i) => `probably ${suspected.suggestions[i]}`),
    duplicates: toMap(duplicates.rows, (i) => `group ${duplicates.groups[i] + 1}, ${duplicates.exact[i] ? "same file" : "similar"}`),
    outliers: toMap(outliers.rows, (i) => `far from others: ${outliers.scores[i].toFixed(1)}`),
  };
  predicted = result.predicted.map((code) => texts[code]);
  find("check-notes").hidden = !result.notes.length;
  find("check-notes-list").replaceChildren(...result.notes.map((note) => make("li", { textContent: note })));
}

function isOld() {
  return findings !== null && data.labels.some((code, row) => data.texts[code] !== findings.checked[row]);
}

async function poll() {
  try {
    checks = await request(`/app/checks?seen=${checks.number}`);
  } catch (error) {
    checks = { ...checks, state: "failed", failure: error.message };
  }
  find("checking").hidden = checks.state === "done";
  find("checked").hidden = checks.state !== "running";
  find("checked").value = checks.progress ?? 0;
  find("check-status").textContent = checks.state === "failed" ? checks.failure
    : `Checking the images: ${checks.doing} ...`;
  if (checks.map) await view.load(checks.map).catch((error) => say(error.message));
  if (checks.result) {
    setFindings(checks.result);
    setOptions();
    filter(true);
  }
  if (find("check-again")) find("check-again").hidden = checks.state === "running" || !(isOld() || checks.state === "failed");
  document.dispatchEvent(new CustomEvent("checks", { detail: checks }));
  clearTimeout(timer);
  if (checks.state === "running") timer = setTimeout(poll, PAUSE);
}

async function load() {
  try {
    data = await request("/app/data");
    unreadable = new Set(data.unreadable);
  } catch (error) {
    say(error.message);
    return;
  }
  const classes = [...new Set(data.labels)].filter((code) => code >= 0).map((code) => data.texts[code])
    .sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  fillSelect(find("class"), classes);
  view.setLabels(classes, data.names.length);
  fillSelect(find("split"), data.splits ?? []);
  setOptions();
  filter(true);
  await poll();
}

for (const id of ["finding", "class", "split"]) find(id)?.addEventListener("change", () => filter());
find("file").addEventListener("input", () => filter());
find("open").addEventListener("click", () => show());
find("show-chosen").addEventListener("click", () => { find("finding").value = "chosen"; filter(); find("cells").focus(); });
find("choose-none").addEventListener("click", () => { grid.choose([]); find("cells").focus(); });
find("correct")?.addEventListener("click", () => correct([...grid.chosen]));
find("check-again")?.addEventListener("click", async () => {
  try {
    await request("/app/checks", {});
    await poll();
    find("cells").focus();
  } catch (error) {
    say(error.message);
  }
});
find("viewer-previous").addEventListener("click", () => show(-1));
find("viewer-next").addEventListener("click", () => show(1));
find("viewer-close").addEventListener("click", () => find("viewer").close());
find("viewer-correct")?.addEventListener("click", () => correct([grid.focused]));
find("viewer").addEventListener("close", () => find("cells").focus());
find("viewer").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1 };
  if (!(event.key in steps)) return;
  show(steps[event.key]);
  event.preventDefault();
});
document.addEventListener("view", (event) => { if (["data", "model"].includes(event.detail)) load(); });
if (!find("data").hidden || !find("model").hidden) load();
