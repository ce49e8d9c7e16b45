// Requests to the server: its errors, its API key, and thumbnails.

import { ui } from "./dom.js";

const KEY = "oneclip-api-key";
const pending = new WeakMap(); // image elements to the requests of their thumbnails
let asking = null; // the question for the key that is open

export const isAbort = (error) => error.name === "AbortError";

const storedKey = () => sessionStorage.getItem(KEY);

/** Send a request. Asks for a key if one is needed, and waits if the server is not ready. Errors have its `param`. */
async function send(path, options) {
  for (;;) {
    const key = storedKey();
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const response = await fetch(path, { ...options, headers }).catch((error) => {
      throw isAbort(error) ? error : new Error("The server does not answer. Is it running?");
    });
    if (response.ok) return response;
    const { message, param } = await response.json().then(({ error }) => error, () => ({}));
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status === 401) {
      if (storedKey() === key) await (asking ??= askForKey(key ? message : ""));
    } else if ([429, 503].includes(response.status) && seconds) {
      ui.waiting.textContent = message;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      ui.waiting.textContent = "";
    } else throw Object.assign(new Error(message ?? `Error ${response.status}`), { param });
  }
}

/** Send JSON, or GET without a body, and return the JSON of the answer. */
export async function request(path, signal, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await send(path, { signal, ...(body && post) })).json();
}

/** Ask for the API key. */
function askForKey(refusal) {
  ui.keyError.textContent = refusal;
  ui.keyDialog.returnValue = "";
  ui.keyDialog.showModal();
  return new Promise((resolve, reject) => {
    ui.keyDialog.onclose = () => {
      asking = null;
      const key = ui.key.value.trim();
      ui.key.value = "";
      if (ui.keyDialog.returnValue && key) resolve(sessionStorage.setItem(KEY, key));
      else reject(new Error("This server needs an API key. Reload the page to enter one."));
    };
  });
}

/** Show a thumbnail in an image element. With a key it is fetched, since image elements send no headers. */
export async function showThumbnail(image, index, sha256, size = 256) {
  const path = `/v1/indexes/${encodeURIComponent(index)}/thumbs/${sha256}?size=${size}`;
  cancelThumbnail(image);
  if (!storedKey()) {
    image.src = path;
    return;
  }
  const controller = new AbortController();
  pending.set(image, controller);
  try {
    const url = URL.createObjectURL(await (await send(path, { signal: controller.signal })).blob());
    if (!controller.signal.aborted) image.src = url;
    image.decode().catch(() => {}).then(() => URL.revokeObjectURL(url)); // what is shown stays
  } catch (error) {
    if (!isAbort(error)) image.dispatchEvent(new Event("error"));
  }
}

/** Stop loading the thumbnail of an element that is no longer needed. */
export function cancelThumbnail(image) {
  pending.get(image)?.abort();
  if (!image.complete) image.removeAttribute("src");
}
