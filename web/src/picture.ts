// A picture file on its way to the server.

import type { Input } from "./api";

/** What the server decodes. */
const SENT_AS_IT_IS = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
/** Photographs of phones are longer than that; the classifiers look at far fewer pixels. */
const MAX_BYTES = 2 * 1024 * 1024;
const MAX_SIDE = 1024;

/** The file as it is, or smaller, or in a format that the server reads. */
export async function fromFile(file: File): Promise<Input> {
  const contentType = file.type || "image/png";
  const asItIs: Input = { body: file, contentType, fileName: file.name || "picture.png" };
  if (SENT_AS_IT_IS.includes(contentType) && file.size <= MAX_BYTES) {
    return asItIs;
  }
  let picture: ImageBitmap;
  try {
    picture = await createImageBitmap(file);
  } catch {
    // The server says what is wrong with it.
    return asItIs;
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d")?.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const body = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  if (!body) {
    return asItIs;
  }
  const fileName = `${file.name.replace(/\.[^.]*$/, "") || "picture"}.jpg`;
  const note = `Sent as a JPEG of ${canvas.width} × ${canvas.height} pixels, made in this browser.`;
  return { body, contentType: "image/jpeg", fileName, note };
}

/** The first picture of a drop or a paste. Any file will do in a drop: the server says what is wrong with it. */
export function pictureOf(transfer: DataTransfer | null, anyFile: boolean): File | undefined {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? (anyFile ? files[0] : undefined);
}
