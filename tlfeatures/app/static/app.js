// The page of a model: predictions for images, and the evidence for them.
import { drawMap } from "./heat.js";
import { find, make, settings } from "./requests.js";

const say = (text) => { find("status").textContent = text; };
const items = []; // {file, url, result, error, map}
let chosen = null;
let sorting = { key: null, descending: false };

// --- views

function showView() {
  const names = [...document.querySelectorAll("main > section")].map((section) => section.id);
  const wanted = names.includes(location.hash.slice(1)) ? location.hash.slice(1) : names[0];
  for (const name of names) find(name).hidden = name !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.dispatchEvent(new CustomEvent("view", { detail: wanted }));
}
addEventListener("hashchange", showView);

// --- requests

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

async function send(path, options) {
  for (let attempt = 0; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new Error("The service does not answer. Check that it still runs, then try again.");
    }
    if (response.status === 503 && attempt < 20) {
      await pause(Number(response.headers.get("retry-after")) || 1);
      continue;
    }
    const content = await response.json().catch(() => ({ detail: `The service answered ${response.status}.` }));
    if (!response.ok) throw new Error(content.detail);
    return content;
  }
}

function makeForm(files) {
  const form = new FormData();
  for (const file of files) form.append("file", file, file.name);
  return form;
}

async function predict(files) {
  const fresh = [...files].map((file) => ({ file, url: URL.createObjectURL(file), result: null, error: null, map: {} }));
  if (!fresh.length) return;
  items.push(...fresh);
  const groups = [];
  for (const item of fresh) {
    const group = groups.at(-1);
    const bytes = group ? group.reduce((sum, each) => sum + each.file.size, 0) : 0;
    const fits = group && group.length < settings.images && bytes + item.file.size < settings.request_bytes / 2;
    if (fits) group.push(item);
    else groups.push([item]);
  }
  let done = 0;
  find("progress").hidden = fresh.length < 2;
  find("progress").value = 0;
  say(fresh.length === 1 ? "Predicting ..." : `Predicting for ${fresh.length} images ...`);
  for (const group of groups) {
    try {
      const content = await send("/app/predict", { method: "POST", body: makeForm(group.map((item) => item.file)) });
      content.images.forEach((result, i) => {
        if (result.error) group[i].error = result.error.detail;
        else group[i].result = result;
      });
    } catch (error) {
      for (const item of group) item.error = error.message;
    }
    done += group.length;
    find("progress").value = done / fresh.length;
    showTable();
  }
  find("progress").hidden = true;
  const failed = fresh.filter((item) => item.error);
  const text = fresh.length === 1 ? "" : `${fresh.length - failed.length} of ${fresh.length} images predicted. `;
  say(failed.length ? `${text}${failed[0].file.name}: ${failed[0].error}` : text);
  choose(fresh.find((item) => item.result) ?? fresh[0]);
}

// --- one image

const percent = (value) => `${(100 * value).toFixed(1)}%`;
const NAMES = new Map([[true, "True"], [false, "False"]]); // of boolean classes, as in the probabilities
const show = (value) => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(5)))
  : NAMES.get(value) ?? String(value)); // whole numbers can be classes

async function choose(item) {
  chosen = item;
  find("detail").hidden = !item;
  showTable();
  if (!item) return;
  find("caption").textContent = item.file.name;
  const result = item.result;
  find("prediction").replaceChildren();
  find("bars").replaceChildren();
  find("set").textContent = "";
  find("unusual").hidden = !result?.unusual;
  find("neighbors").hidden = !result?.neighbors?.length;
  if (result) showResult(result);
  else find("prediction").textContent = item.error ?? "Predicting ...";
  await draw();
}

function showResult(result) {
  find("prediction").append(make("strong", { textContent: show(result.prediction) }));
  if (result.interval) find("set").textContent = `Interval: ${show(result.interval[0])} to ${show(result.interval[1])}.`;
  if (result.set) {
    const rate = settings.error_rate ? ` at an error rate of ${show(100 * settings.error_rate)}%` : "";
    if (!result.set.length) find("set").textContent = `Not sure: all classes can be excluded${rate}.`;
    else if (result.set.length === 1) find("set").textContent = `Sure: only ${result.set[0]} cannot be excluded${rate}.`;
    else find("set").textContent = `Not sure: ${result.set.join(", ")} cannot be excluded${rate}.`;
  }
  if (result.provisional) find("set").textContent = "Provisional: a linear head predicts until the head of the model is trained.";
  if ("decision" in result) find("set").append(` Decision value: ${show(result.decision)}.`);
  // sorted here, because objects of JavaScript list names such as "0" and "10" by number
  const entries = Object.entries(result.probabilities ?? {}).sort((a, b) => b[1] - a[1]).slice(0, 10);
  for (const [name, value] of entries) {
    const bar = make("span", { className: "bar" });
    bar.style.width = percent(value);
    find("bars").append(make("li", {}, make("span", { textContent: name }),
      make("span", { className: "track" }, bar), make("span", { className: "value", textContent: percent(value) })));
  }
  find("neighbor-tiles").replaceChildren(...(result.neighbors ?? []).map((neighbor) => make("li", {},
    make("img", { src: `/app/training/${neighbor.row}`, alt: `Training image of ${neighbor.label ?? "no class"}`, loading: "lazy" }),
    make("div", { className: "text", textContent: neighbor.label ?? "" },
      make("div", { className: "file", textContent: `similarity ${neighbor.similarity.toFixed(2)}` })))));
}

async function draw() {
  const item = chosen;
  const canvas = find("canvas");
  const context = canvas.getContext("2d");
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(item.file);
  } catch {
    find("caption").textContent = `${item.file.name}: this browser cannot show the file`;
  }
  if (item !== chosen) return;
  const scale = bitmap ? Math.min(1, 900 / Math.max(bitmap.width, bitmap.height)) : 1;
  canvas.width = bitmap ? Math.max(1, Math.round(bitmap.width * scale)) : 400;
  canvas.height = bitmap ? Math.max(1, Math.round(bitmap.height * scale)) : 300;
  if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", `${item.file.name}${item.result ? `, predicted ${show(item.result.prediction)}` : ""}`);
  canvas.dataset.heat = "";
  if (find("heat-note")) find("heat-note").textContent = ""; // of the image before
  if (!find("heat")?.checked || !item.result) return;
  const label = find("heat-label")?.value ?? "";
  const map = await loadMap(item, label);
  if (item !== chosen || !map || !find("heat").checked) return;
  drawMap(context, map, find("opacity").value / 100);
  canvas.dataset.heat = map.label ?? "value";
  const about = map.label === null ? "the prediction" : map.label;
  find("heat-note").textContent = `Yellow regions support ${about}, blue ones oppose it; ${map.value_name} ${show(map.value)}, ${map.method}.`;
}

async function loadMap(item, label) {
  if (item.map[label]) return item.map[label];
  find("heat-note").textContent = "Computing the map ...";
  try {
    const path = `/v1/explain${label ? `?label=${encodeURIComponent(label)}` : ""}`;
    const [map] = (await send(path, { method: "POST", body: makeForm([item.file]) })).images;
    if (map.error) throw new Error(map.error.detail);
    item.map[label] = map;
    return map;
  } catch (error) {
    find("heat-note").textContent = error.message;
    return null;
  }
}

if (find("heat")) {
  find("heat").addEventListener("change", () => {
    for (const id of ["opacity", "heat-label"]) if (find(id)) find(id).disabled = !find("heat").checked;
    draw();
  });
  find("opacity").addEventListener("input", draw);
  find("heat-label")?.addEventListener("change", draw);
}

// --- many images

const probabilityOf = ({ prediction, probabilities }) =>
  probabilities?.[show(prediction)] ?? probabilities?.[`${prediction}.0`]; // JSON.parse reads the class 1.0 as 1

const COLUMNS = {
  name: { title: "file", value: (item) => item.file.name },
  prediction: { title: "prediction", value: (item) => NAMES.get(item.result?.prediction) ?? item.result?.prediction },
  probability: { title: "probability", value: (item) => probabilityOf(item.result ?? {}) },
  set: { title: "set", value: (item) => item.result?.set?.join("|") },
  lower: { title: "lower", value: (item) => item.result?.interval?.[0] },
  upper: { title: "upper", value: (item) => item.result?.interval?.[1] },
  unusual: { title: "unusual", value: (item) => item.result?.unusual },
  provisional: { title: "provisional", value: (item) => item.result?.provisional },
  error: { title: "error", value: (item) => item.error },
};

function listColumns() {
  return Object.entries(COLUMNS).filter(([name, column]) =>
    name === "name" || name === "prediction" || items.some((item) => (column.value(item) ?? null) !== null));
}

function sortItems() {
  if (!sorting.key) return items;
  const value = COLUMNS[sorting.key].value;
  const sign = sorting.descending ? -1 : 1;
  return [...items].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === undefined || y === undefined || x === null || y === null) return (x ?? null) === (y ?? null) ? 0 : (x ?? null) === null ? 1 : -1;
    return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
  });
}

function showTable() {
  find("many").hidden = items.length < 2;
  if (items.length < 2) return;
  const columns = listColumns();
  find("heads").replaceChildren(make("td", {}), ...columns.map(([key, column]) => {
    const button = make("button", { type: "button", textContent: column.title });
    button.addEventListener("click", () => {
      sorting = { key, descending: sorting.key === key && !sorting.descending };
      showTable();
      find("heads").querySelector(`[data-key=${key}] button`).focus();
    });
    const head = make("th", { scope: "col" }, button);
    head.dataset.key = key;
    if (sorting.key === key) head.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
    return head;
  }));
  find("rows").replaceChildren(...sortItems().slice(0, 2000).map((item) => {
    const row = make("tr", {}, make("td", {}, make("img", { src: item.url, alt: "", loading: "lazy" })));
    row.setAttribute("aria-selected", item === chosen);
    for (const [key, column] of columns) {
      const value = column.value(item) ?? "";
      if (key === "name") {
        const button = make("button", { type: "button", className: "name", textContent: value });
        button.addEventListener("click", () => { choose(item); find("detail").scrollIntoView({ block: "nearest" }); });
        row.append(make("td", {}, button));
      } else {
        const text = key === "probability" && value !== "" ? percent(value) : value === true ? "yes" : value === false ? "" : show(value);
        row.append(make("td", { className: typeof value === "number" ? "n" : key, textContent: text }));
      }
    }
    return row;
  }));
}

function toCsv() {
  const columns = listColumns();
  const quote = (value) => {
    const text = String(value ?? "");
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no formulas of spreadsheets
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = [columns.map(([, column]) => column.title), ...sortItems().map((item) => columns.map(([, column]) => column.value(item)))];
  return `${lines.map((line) => line.map(quote).join(",")).join("\r\n")}\r\n`;
}

find("csv").addEventListener("click", () => {
  const link = make("a", { href: URL.createObjectURL(new Blob([toCsv()], { type: "text/csv" })), download: "predictions.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
});
find("clear").addEventListener("click", () => {
  for (const item of items) URL.revokeObjectURL(item.url);
  items.length = 0;
  say("");
  choose(null);
  find("files").focus();
});

// --- drop, paste, choose

find("files").addEventListener("change", (event) => {
  predict(event.target.files);
  event.target.value = "";
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); find("drop").classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); find("drop").classList.remove("over"); });
}
document.addEventListener("drop", (event) => { location.hash = "predict"; predict(event.dataTransfer.files); });
document.addEventListener("paste", (event) => predict(event.clipboardData.files));

showView();
