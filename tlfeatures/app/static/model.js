// The scores of the model, which are shown when the checks of the training images are finished.
import { fetchChecked, find } from "./requests.js";

let shown = 0; // number of the checks whose scores are shown

document.addEventListener("checks", async (event) => {
  const { state, progress, doing, failure, number } = event.detail;
  find("scoring").hidden = state !== "running";
  find("scoring").value = progress ?? 0;
  find("score-status").textContent = { running: `Checking the images: ${doing} ...`, failed: failure, done: "" }[state];
  if (!number || number === shown) return;
  shown = number;
  try {
    const html = await (await fetchChecked("/app/scores")).text();
    find("score-figures").innerHTML = html; // a template of this page, in which all values are escaped
  } catch (error) {
    shown = 0;
    find("score-status").textContent = error.message;
  }
});
