// What all scripts of the page use: settings, elements, and requests; a change is sent with the token of the page.
export const settings = JSON.parse(document.body.dataset.settings);
export const find = (id) => document.getElementById(id);

export async function fetchChecked(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The service does not answer. Check that it still runs, then try again.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({ detail: `The service answered ${response.status}.` }));
  throw new Error(answer.detail);
}

export async function request(path, content) {
  const options = content === undefined ? {} : {
    method: "POST", body: JSON.stringify(content), headers: { "content-type": "application/json", "x-csrf-token": settings.csrf },
  };
  return (await fetchChecked(path, options)).json();
}

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
