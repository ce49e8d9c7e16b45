// Images that a person drops, pastes or picks. They stay in this tab; the address has only their id.

const PREFIX = "oneclip-";
const LARGEST_SIDE = 1024; // of what is sent: models look at fewer pixels
const LARGEST_FILE = 400_000; // bytes that are sent as they are
const images = new Map(); // id to data address, for what does not fit in the storage of the tab

export const isDropped = (id) => Boolean(id?.startsWith("drop-"));

/** Return the name of the file, which is a part of the id; undefined for an image of the index. */
export const droppedName = (id) => /^drop-\d+-(.+)/s.exec(id)?.[1];

/** Return the data address of an image; undefined if it belongs to another tab. */
export const droppedImage = (id) => images.get(id) ?? sessionStorage.getItem(PREFIX + id) ?? undefined;

/** Take the first image of a drop, a paste or a file dialog, and return its id. */
export async function takeImage(files) {
  const file = [...files].find(({ type }) => type.startsWith("image/") || !type); // raw files have no type
  if (!file) throw new Error("This is no image file. Use a JPEG, a PNG or the like.");
  const id = `drop-${crypto.getRandomValues(new Uint32Array(2)).join("")}-${file.name}`;
  const blob = await shrink(file);
  const data = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} could not be read`));
    reader.readAsDataURL(blob);
  });
  images.set(id, data);
  try {
    sessionStorage.setItem(PREFIX + id, data);
  } catch {} // full: the image is lost when the page is reloaded
  return id;
}

/** Return the file, or a smaller JPEG if it is large. What the browser cannot decode is left to the server. */
async function shrink(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  const scale = bitmap && Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  if (!bitmap || (scale === 1 && file.size <= LARGEST_FILE)) return file;
  const size = [bitmap.width, bitmap.height].map((pixels) => Math.ceil(pixels * scale));
  const canvas = new OffscreenCanvas(...size);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // behind what is transparent, as in thumbnails
  context.fillRect(0, 0, ...size);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, ...size);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }).catch(() => file);
}
